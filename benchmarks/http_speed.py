"""What HTTP costs: requests a second and their times through `quernel serve`, and the share of the engine's throughput.

    python benchmarks/http_speed.py [--model quernel/tiny-embedding | --layers 28] [--connections 1,16,128]

The same requests go to the server from a client in a process of its own, and to the engine in a process that has
nothing else, from as many callers at once (`await embedder.embed(...)`, as the server calls it). The client shares
the machine's cores with the server, so its processor time is told: where it is a tenth of both cores, HTTP loses a
tenth before it begins. `--layers` takes a random model of the 0.6B shape, to which token ids are sent; the built-in
model gets texts. Medians.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from quernel.benchmarking import WORKLOADS, make_texts

SENDER = Path(__file__).with_name("http_sender.py")
VOCABULARY = 151_643


def make_requests(kind: str, num_requests: int, *, ids: bool) -> list[Any]:
    """The inputs of each request: one short text, or 256 of them."""
    size = {"single": 1, "lists of 256": 256}[kind]
    count = num_requests * size
    if ids:
        draw = random.Random(0)
        texts: list[Any] = [[draw.randrange(VOCABULARY) for _ in range(draw.randint(12, 40))] for _ in range(count)]
    else:
        made = make_texts(WORKLOADS["queries"])
        texts = [f"{made[index % len(made)]} {index}" for index in range(count)]
    return [texts[start : start + size] for start in range(0, count, size)]


ENGINE = """
import asyncio, json, sys, time
from quernel import Embedder
from quernel.types import EmbeddingRequest
model, dtype, concurrency, repetitions = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
requests = [EmbeddingRequest(inputs=texts) for texts in json.load(sys.stdin)]
async def main():
    with Embedder(model, dtype=dtype) as embedder:
        async def work(waiting):
            for request in waiting:
                await embedder.embed(request)
        for _ in range(repetitions + 1):
            waiting = iter(requests)
            start = time.perf_counter()
            await asyncio.gather(*(work(waiting) for _ in range(concurrency)))
            print(time.perf_counter() - start, flush=True)
asyncio.run(main())
"""


def engine_seconds(model: str, dtype: str, inputs: Sequence[Any], concurrency: int, repetitions: int) -> float:
    """All requests by so many callers, without HTTP."""
    command = [sys.executable, "-c", ENGINE, model, dtype, str(concurrency), str(repetitions)]
    done = subprocess.run(command, input=json.dumps(inputs), stdout=subprocess.PIPE, text=True, check=True)
    return statistics.median(map(float, done.stdout.split()[1:]))


class Server:
    """`quernel serve` on a free port."""

    def __init__(self, model: str, dtype: str) -> None:
        command = [sys.executable, "-c", "from quernel.cli.main import main; main()", "serve", "-p", "0", "--json"]
        command += ["-m", f"embedding={model}", "--dtype", dtype, "-q", "--no-access-log", "--token-ids", "accept"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["url"].rpartition(":")[2]

    def send(self, inputs: Sequence[Any], connections: int) -> dict[str, Any]:
        """All requests once."""
        bodies = [{"path": "/v1/embeddings", "body": {"input": texts, "encoding_format": "base64"}} for texts in inputs]
        done = subprocess.run(
            [sys.executable, str(SENDER), self.port, str(connections)],
            input=json.dumps(bodies),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait()


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quernel/tiny-embedding")
    parser.add_argument("--layers", type=int, help="a random model of the 0.6B shape instead")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--connections", default="1,16,128")
    parser.add_argument("--kinds", default="single,lists of 256")
    parser.add_argument("--singles", type=int, default=4000, help="requests of one text in a run")
    parser.add_argument("--lists", type=int, default=64, help="requests of 256 texts in a run")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        model = arguments.model
        if arguments.layers:
            from peer_systems import export_checkpoint

            model = stack.enter_context(tempfile.TemporaryDirectory())
            export_checkpoint(Path(model), arguments.layers)
        name = f"0.6B shape, {arguments.layers} layers" if arguments.layers else arguments.model
        print(f"{name}, {arguments.dtype}\n")
        print("| requests | connections | a second | p50 | p99 | engine, texts/s | HTTP, texts/s | share | client |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for kind in arguments.kinds.split(","):
            num_requests = arguments.singles if kind == "single" else arguments.lists
            inputs = make_requests(kind, num_requests, ids=bool(arguments.layers))
            num_texts = sum(map(len, inputs))
            for connections in map(int, arguments.connections.split(",")):
                engine = engine_seconds(model, arguments.dtype, inputs, connections, arguments.repetitions)
                server = Server(model, arguments.dtype)
                try:
                    server.send(inputs[: max(len(inputs) // 4, 1)], connections)
                    runs = [server.send(inputs, connections) for _ in range(arguments.repetitions)]
                finally:
                    server.close()
                run = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
                latencies = sorted(run["latencies"])
                p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
                cells = (
                    kind,
                    str(connections),
                    f"{num_requests / run['seconds']:,.0f}",
                    f"{p50 * 1000:,.1f} ms",
                    f"{p99 * 1000:,.1f} ms",
                    f"{num_texts / engine:,.0f}",
                    f"{num_texts / run['seconds']:,.0f}",
                    f"{engine / run['seconds']:.0%}",
                    f"{run['cpu_seconds'] / run['seconds'] / 2:.0%}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
