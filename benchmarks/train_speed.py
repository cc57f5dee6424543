"""How fast a step of contrastive training is, beside padded training through transformers.

    python benchmarks/train_speed.py [--layers 4] [--width 256] [--pairs 128] [--threads 1] [--rounds 5]

One random model in both. A step is forwards, the in-batch contrastive loss, and backwards, over pairs of a short query
and a passage of 20 to 200 tokens. The padded rows are what sentence-transformers does: all queries of the batch in one
call, all passages in another, each padded to its longest. Prints tokens a second, padding not counted, as medians of
rounds in which all take turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3
from quernel.model.weights import load_model
from quernel.train.contrastive import Terms, qwen3_contrastive
from quernel.train.encode import Encoder

VOCABULARY = 24_576


def texts(pairs: int) -> tuple[list[list[int]], list[list[int]]]:
    draw = np.random.default_rng(0)

    def some(low: int, high: int) -> list[list[int]]:
        return [draw.integers(0, VOCABULARY, size).tolist() for size in draw.integers(low, high, pairs)]

    return some(5, 35), some(20, 200)


def loss_of(queries: Tensor, documents: Tensor) -> Tensor:
    queries, documents = F.normalize(queries, dim=-1), F.normalize(documents, dim=-1)
    same = torch.eye(len(queries), dtype=torch.bool)
    terms = Terms(query_query=False, document_document=False)
    return qwen3_contrastive(queries, documents, same, temperature=0.05, margin=None, terms=terms)


def padded(model: "transformers.Qwen3Model", rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
    return hidden[torch.arange(len(rows)), mask.sum(dim=1) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs = transformers.Qwen3Model(
        transformers.Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=options.width,
            intermediate_size=3 * options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.width // 64,
            num_key_value_heads=options.width // 64,
            head_dim=64,
            tie_word_embeddings=True,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        config = Qwen3Config.load(Path(folder))

        def own() -> Qwen3:
            model = load_model(Path(folder), config, dtype=torch.float32, device=torch.device("cpu"))
            for parameter in model.parameters():
                parameter.data = parameter.detach().clone()
            return model.requires_grad_(True)

        models = [own() for _ in range(4)]
    queries, documents = texts(options.pairs)
    paths = [(tuple(row),) for row in (*queries, *documents)]
    num_tokens = sum(map(len, queries)) + sum(map(len, documents))

    def step_of(encode: Encoder) -> Callable[[], Tensor]:
        def step() -> Tensor:
            hidden = encode(paths)
            return loss_of(hidden[: options.pairs], hidden[options.pairs :])

        return step

    def padded_step(dtype: torch.dtype) -> Callable[[], Tensor]:
        def step() -> Tensor:
            precision = nullcontext() if dtype is torch.float32 else torch.autocast("cpu", dtype=dtype)
            with precision:
                sides = padded(theirs, queries), padded(theirs, documents)
            return loss_of(*sides)

        return step

    steps = {
        "transformers, padded, float32": padded_step(torch.float32),
        "transformers, padded, bfloat16": padded_step(torch.bfloat16),
        "quernel, float32": step_of(Encoder(models[0])),
        "quernel, float32, compiled": step_of(Encoder(models[1], compiled=True)),
        "quernel, bfloat16": step_of(Encoder(models[2], dtype=torch.bfloat16)),
        "quernel, bfloat16, compiled": step_of(Encoder(models[3], dtype=torch.bfloat16, compiled=True)),
    }
    losses = {name: float(step().detach()) for name, step in steps.items()}
    assert abs(losses["quernel, float32"] - losses["transformers, padded, float32"]) < 1e-4, losses
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step().backward()  # type: ignore[no-untyped-call]
            found[name].append(time.perf_counter() - started)
    base = statistics.median(found["transformers, padded, float32"])
    print(
        f"{num_tokens:,} tokens a step, {options.layers} layers of width {options.width}, {options.threads} thread(s)\n"
    )
    print("| | tokens/s | ratio |\n| --- | ---: | ---: |")
    for name, seconds in found.items():
        median = statistics.median(seconds)
        print(f"| {name} | {num_tokens / median:,.0f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
