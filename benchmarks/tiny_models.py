"""What Quernel itself costs, where the model costs next to nothing: one short request to each of the built-in pair.

    python benchmarks/tiny_models.py

The time of one short request through Python, against a floor: the matrix products of the same model for as many tokens,
back to back, with nothing around them. Medians. What HTTP costs besides: `http_speed.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from quernel import Embedder, Reranker
from quernel.engine.worker import run_aside
from quernel.model.config import Qwen3Config
from quernel.model.linear import choose_linear
from quernel.types import EmbeddingRequest, InputType, RerankRequest

QUERY = "how do wings make lift"
DOCUMENT = "The lift of a wing comes from a difference of pressure."


def median_seconds(work: Callable[[], object], repetitions: int, warm_ups: int = 1) -> float:
    """The median time of a call."""
    seconds = []
    for _ in range(repetitions + warm_ups):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_ups:])


def floor_seconds(config: Qwen3Config, dtype: str, num_tokens: int) -> tuple[float, float]:
    """The matrix products of a model for so many tokens: as torch has them, and with packed weights as we have them."""
    kind = getattr(torch, dtype)
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]

    def measure() -> tuple[float, float]:
        forms = []
        for make in (choose_linear(kind, torch.device("meta")), choose_linear(kind, torch.device("cpu"))):
            maps = [make(torch.ones(out, width, dtype=kind)) for width, out in shapes]
            rows = {width: torch.ones(num_tokens, width, dtype=kind) for width, _ in shapes}
            pairs = [(linear, rows[width]) for linear, (width, _) in zip(maps, shapes, strict=True)]

            def once(pairs: list[tuple[torch.nn.Module, torch.Tensor]] = pairs) -> None:
                with torch.inference_mode():
                    for _ in range(config.num_hidden_layers):
                        for linear, x in pairs:
                            linear(x)

            forms.append(median_seconds(once, 500, 50))
        return forms[0], forms[1]

    return run_aside(measure)


def measure_latency() -> None:
    """One short request to each built-in model."""
    print("| model | type | tokens | one request | products | ratio | packed products | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    query = EmbeddingRequest(inputs=[QUERY], input_type=InputType.QUERY)
    pair = RerankRequest(query=QUERY, documents=[DOCUMENT])
    for dtype in ("bfloat16", "float32"):
        for kind in (Embedder, Reranker):
            with kind(dtype=dtype) as model:
                ask: Callable[[], object]
                if isinstance(model, Embedder):
                    ask, tokens = partial(model.embed_sync, query), sum(model.embed_sync(query).num_tokens)
                else:
                    ask, tokens = partial(model.rerank_sync, pair), sum(model.rerank_sync(pair).num_tokens)
                seconds = median_seconds(ask, 500, 50)
            floors = floor_seconds(model.config, dtype, tokens)
            cells = [model.info.name, dtype, str(tokens), f"{seconds * 1e6:,.0f} us"]
            for floor in floors:
                cells += [f"{floor * 1e6:,.0f} us", f"{seconds / floor:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """The table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    measure_latency()


if __name__ == "__main__":
    main()
