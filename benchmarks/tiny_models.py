"""What Quernel itself costs, where the model costs next to nothing: the built-in pair, one query, and over HTTP.

    python benchmarks/tiny_models.py [--repetitions 5]

First the time of one short request through Python, against a floor: the matrix products of the same model for as many
tokens, back to back, with nothing around them. Then texts a second through `quernel serve`, by a client in a process of
its own that does nothing but send and read, against the same requests through `Embedder.embed_sync` from as many
threads. Client and server share the machine's cores, which the engine alone has for itself. Medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from quernel import Embedder, Reranker
from quernel.benchmarking import WORKLOADS, make_texts
from quernel.engine.worker import run_aside
from quernel.model.config import Qwen3Config
from quernel.model.linear import choose_linear
from quernel.types import EmbeddingRequest, InputType, RerankRequest

QUERY = "how do wings make lift"
DOCUMENT = "The lift of a wing comes from a difference of pressure."
CASES = (("passages", 32, 4), ("passages", 1, 16), ("queries", 32, 4), ("queries", 1, 16))
"""Kind of texts, texts in a request, connections."""

SENDER = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
port, connections, repetitions, batches = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.load(sys.stdin)
bodies = [json.dumps({"model": "default", "input": texts, "encoding_format": "base64"}) for texts in batches]
mine = threading.local()
def send(body):
    if not hasattr(mine, "connection"):
        mine.connection = HTTPConnection("127.0.0.1", port)
    mine.connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    reply = mine.connection.getresponse()
    assert len(reply.read()) and reply.status == 200
with ThreadPoolExecutor(connections) as pool:
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        list(pool.map(send, bodies))
        print(time.perf_counter() - start, flush=True)
"""


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
                    ask, tokens = lambda model=model: model.embed_sync(query), sum(model.embed_sync(query).num_tokens)
                else:
                    ask, tokens = lambda model=model: model.rerank_sync(pair), sum(model.rerank_sync(pair).num_tokens)
                seconds = median_seconds(ask, 500, 50)
            floors = floor_seconds(model.config, dtype, tokens)
            cells = [model.info.name, dtype, str(tokens), f"{seconds * 1e6:,.0f} us"]
            for floor in floors:
                cells += [f"{floor * 1e6:,.0f} us", f"{seconds / floor:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def engine_seconds(batches: Sequence[Sequence[str]], threads: int, repetitions: int) -> float:
    """All requests through Python."""
    with Embedder() as model, ThreadPoolExecutor(threads) as pool:

        def all_of_them() -> None:
            list(pool.map(lambda texts: model.embed_sync(EmbeddingRequest(inputs=texts)), batches))

        return median_seconds(all_of_them, repetitions)


def http_seconds(batches: Sequence[Sequence[str]], connections: int, repetitions: int) -> float:
    """All requests through a server."""
    command = [
        sys.executable,
        "-m",
        "quernel.cli.main",
        "serve",
        "-p",
        "0",
        "-m",
        "quernel/tiny-embedding",
        "--json",
        "-q",
        "--no-access-log",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["url"].rpartition(":")[2]
        sender = [sys.executable, "-c", SENDER, port, str(connections), str(repetitions)]
        done = subprocess.run(sender, input=json.dumps(batches), stdout=subprocess.PIPE, text=True, check=True)
    finally:
        server.terminate()
        server.wait()
    return statistics.median(map(float, done.stdout.split()[1:]))


def measure_throughput(repetitions: int) -> None:
    """The embedding model over HTTP, against the engine alone."""
    print("\n| texts | a request | connections | engine, texts/s | HTTP, texts/s | share |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, size, connections in CASES:
        texts = make_texts(WORKLOADS[name]) * 4
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        engine = len(texts) / engine_seconds(batches, connections, repetitions)
        http = len(texts) / http_seconds(batches, connections, repetitions)
        print(f"| {name} | {size} | {connections} | {engine:,.0f} | {http:,.0f} | {http / engine:.0%} |", flush=True)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    measure_latency()
    measure_throughput(arguments.repetitions)


if __name__ == "__main__":
    main()
