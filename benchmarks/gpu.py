"""Quernel on a CUDA device at the real shapes of Qwen3-Embedding: how fast, how near the ceiling, and the same numbers.

    python benchmarks/gpu.py [--models 0.6B,4B,8B] [--compare] [--repetitions 5] [--layers N]

Random models, made on the device. Times are medians of whole calls through the engine, host work included. The ceiling
is what the same device reaches in the same run with the model's matrix products alone, in the same type, at 8192 rows;
the share counts the products that Quernel executes, without attention. `--compare` writes each model once, in a
temporary folder, and runs sentence-transformers on the same token ids: sorted by length, 32 texts to a padded batch, as
its `encode` does. The smallest cosine is to the same weights in float32, by the plain path.

    python benchmarks/gpu.py --device cpu --tiny --layers 2

runs everything in seconds, to see that it runs.
"""

import argparse
import contextlib
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from quernel.engine.engine import Engine
from quernel.engine.runner import ModelRunner
from quernel.model.config import Qwen3Config
from quernel.model.cuda import enable_fast_path
from quernel.model.qwen3 import Qwen3

Text = tuple[int, ...]

OFFICIAL = {
    "0.6B": Qwen3Config(
        vocab_size=151_669,
        hidden_size=1_024,
        intermediate_size=3_072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32_768,
    ),
    "4B": Qwen3Config(
        vocab_size=151_665,
        hidden_size=2_560,
        intermediate_size=9_728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
    ),
    "8B": Qwen3Config(
        vocab_size=151_665,
        hidden_size=4_096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
    ),
}
"""The shapes of the official models, from their `config.json`."""

TINY = Qwen3Config(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=32_768,
)

CEILING_ROWS = 8_192
COMPARED_BATCH = 32
"""Texts to a batch of sentence-transformers: the default of `encode`."""


@dataclass(frozen=True)
class Row:
    """One workload on one model."""

    name: str
    num_texts: int
    num_tokens: int
    seconds: float
    share: float
    compared_seconds: float | None

    def cells(self) -> list[str]:
        """As a row of the table."""
        compared = self.compared_seconds
        return [
            self.name,
            str(self.num_texts),
            str(self.num_tokens),
            f"{self.num_tokens / self.seconds:,.0f}",
            f"{self.share:.1%}",
            f"{self.num_tokens / compared:,.0f}" if compared else "-",
            f"{compared / self.seconds:.2f}" if compared else "-",
        ]


HEADER = ["workload", "texts", "tokens", "tokens/s", "share of ceiling", "sentence-transformers tokens/s", "ratio"]


def make_workloads(vocab_size: int, divisor: int) -> dict[str, list[Text]]:
    """Texts of token ids; numbers of texts and lengths divided by `divisor`."""
    random = np.random.default_rng(0)

    def texts(lengths: np.ndarray) -> list[Text]:
        # One for each: the same random text twice would be computed once.
        sizes = np.maximum(lengths[: -(-len(lengths) // divisor)] // divisor, 2)
        return [tuple(random.integers(0, vocab_size, size=int(size)).tolist()) for size in sizes]

    passages = np.clip(random.gamma(2.5, 72, size=128), 30, 512).astype(int)
    mixed = np.clip(random.lognormal(4.5, 1.2, size=256), 10, 2_048).astype(int)
    return {
        "W1 queries, 12 to 40": texts(random.integers(12, 41, size=256)),
        "W2 passages, 30 to 512": texts(passages),
        "W3 mixed, 10 to 2048": texts(mixed),
        "W4 one of 8k": texts(np.array([8_192])),
        "W4 one of 32k": texts(np.array([32_768])),
    }


def build_model(config: Qwen3Config, device: torch.device, dtype: torch.dtype) -> Qwen3:
    """A random model. Weights have 0.05: with the usual 0.02 it hardly mixes its tokens (`docs/log.md`)."""
    with torch.device("meta"):
        model = Qwen3(config).to(dtype)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.05, generator=generator)
        else:
            parameter.fill_(1)
    return model


def median_seconds(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """The median time of a call, after two to warm up."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(2):
        once()
    return statistics.median(once() for _ in range(repetitions))


def products(config: Qwen3Config) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """A layer's matrices as (in, out): those that the last layer needs for every row, and the others."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    queries, keys = (config.head_dim * n for n in (config.num_attention_heads, config.num_key_value_heads))
    return [(hidden, keys)] * 2, [(hidden, queries), (queries, hidden), (hidden, mlp), (hidden, mlp), (mlp, hidden)]


def num_operations(config: Qwen3Config, num_tokens: int, num_texts: int) -> int:
    """Of the matrix products that Quernel executes."""
    always, read = (sum(2 * a * b for a, b in part) for part in products(config))
    layers = config.num_hidden_layers
    return num_tokens * (layers * always + (layers - 1) * read) + num_texts * read


def ceiling(config: Qwen3Config, device: torch.device, dtype: torch.dtype, num_rows: int, repetitions: int) -> float:
    """Operations a second of a layer's products alone."""
    shapes = [shape for part in products(config) for shape in part]
    pairs = [
        (torch.randn(num_rows, size, device=device, dtype=dtype), torch.randn(out, size, device=device, dtype=dtype))
        for size, out in shapes
    ]

    def run() -> None:
        for x, weight in pairs:
            torch.nn.functional.linear(x, weight)

    return sum(2 * num_rows * a * b for a, b in shapes) / median_seconds(run, device, repetitions)


def smallest_cosine(ours: np.ndarray, others: np.ndarray) -> float:
    """Between vectors of the same texts."""
    ours, others = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (ours, others))
    return float((ours * others).sum(axis=1).min())


def write_checkpoint(folder: Path, model: Qwen3) -> None:
    """The model as sentence-transformers reads it, with a tokenizer that nobody uses."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    config = {name: value for name, value in asdict(model.config).items() if value is not None}
    config |= {"architectures": ["Qwen3Model"], "model_type": "qwen3", "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="a", unk_token="a").save_pretrained(folder)
    names = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_lasttoken": True}
    pooling |= {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@contextlib.contextmanager
def sentence_transformer(model: Qwen3, device: torch.device) -> Iterator[Callable[[Sequence[Text]], np.ndarray]]:
    """Its `encode` after the tokenizer."""
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(Path(name), model)
        kwargs = {"dtype": model.norm.weight.dtype}
        reference = SentenceTransformer(name, device=str(device), model_kwargs=kwargs).eval()

    def encode(texts: Sequence[Text]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(order), COMPARED_BATCH):
            batch = order[start : start + COMPARED_BATCH]
            width = max(len(texts[index]) for index in batch)
            ids = torch.tensor([texts[index] + (0,) * (width - len(texts[index])) for index in batch])
            sizes = torch.tensor([len(texts[index]) for index in batch])
            mask = (torch.arange(width) < sizes.unsqueeze(1)).long()
            with torch.inference_mode():
                features = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
                rows = reference(features)["sentence_embedding"].float().cpu().numpy()
            vectors |= dict(zip(batch, rows, strict=True))
        return np.stack([vectors[index] for index in range(len(texts))])

    yield encode


def measure(
    name: str, config: Qwen3Config, device: torch.device, *, divisor: int, repetitions: int, compare: bool
) -> None:
    """Print what one model does."""
    dtype = torch.bfloat16
    model = build_model(config, device, dtype)
    workloads = make_workloads(config.vocab_size, divisor)
    top = ceiling(config, device, dtype, CEILING_ROWS // divisor, repetitions)
    wide = ModelRunner(copy.deepcopy(model).float())
    rows, agreement = [], []
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine(ModelRunner(model, graphs=enable_fast_path(model))))
        encode = stack.enter_context(sentence_transformer(model, device)) if compare else None
        for workload, texts in workloads.items():
            paths = [(text,) for text in texts]
            tokens = sum(map(len, texts))
            seconds = median_seconds(partial(run, engine, paths), device, repetitions)
            compared = median_seconds(partial(encode, texts), device, repetitions) if encode else None
            share = num_operations(config, tokens, len(texts)) / seconds / top
            rows.append(Row(workload, len(texts), tokens, seconds, share, compared))
            if len(texts) > 1:
                ours = run(engine, paths[:COMPARED_BATCH])
                cosines = {"float32": smallest_cosine(ours, wide.run(paths[:COMPARED_BATCH]))}
                if encode:
                    cosines["sentence-transformers"] = smallest_cosine(ours, encode(texts[:COMPARED_BATCH]))
                agreement.append(", ".join(f"{cosine:.6f} to {what}" for what, cosine in cosines.items()))
    print(f"\n### {name}, {config.num_hidden_layers} layers, bfloat16\n")
    print(f"Ceiling: {top / 1e12:.3g} TFLOP/s.\n")
    for cells in (HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)):
        print(f"| {' | '.join(cells)} |")
    print(f"\nSmallest cosine, by workload: {'; '.join(agreement)}.")


def run(engine: Engine, paths: Sequence[tuple[Text]]) -> np.ndarray:
    """Hidden states of prompts, by the engine."""
    return engine.submit(paths).result()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen models one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(OFFICIAL))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, help="instead of the model's own number")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="run sentence-transformers too")
    parser.add_argument("--tiny", action="store_true", help="a toy model and short texts")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: torch sees no CUDA device here. To see that the script runs: --device cpu --tiny --layers 2")
    configs = {"tiny": TINY} if options.tiny else {name: OFFICIAL[name] for name in options.models.split(",")}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, medians of {options.repetitions}")
    for name, config in configs.items():
        chosen = replace(config, num_hidden_layers=options.layers or config.num_hidden_layers)
        measure(
            name,
            chosen,
            device,
            divisor=32 if options.tiny else 1,
            repetitions=options.repetitions,
            compare=options.compare,
        )


if __name__ == "__main__":
    main()
