"""Which ASGI server, and which JSON encoder: requests a second with a model that answers at once.

    python benchmarks/asgi_servers.py [--requests 8000] [--connections 16] [--repetitions 5]

Each server runs the same application in a process of its own, one worker, and gets the same requests from the sender of
`http_speed.py`, in turns. Servers that are not installed are left out (`pip install granian hypercorn`). The encoders
write one reply of 32 vectors of 1,024 numbers, from the array and from Python floats. Medians.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import orjson

from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.testing import FakeEmbeddingModel
from quernel.types import EmbeddingRequest, EmbeddingResult

SENDER = Path(__file__).with_name("http_sender.py")
SERVERS = ("uvicorn, uvloop, httptools", "uvicorn, asyncio, httptools", "uvicorn, asyncio, h11", "granian", "hypercorn")


class InstantModel(FakeEmbeddingModel):
    """Answers every request with the same vectors."""

    def __init__(self) -> None:
        super().__init__(dimensions=256)
        self._vectors = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        count = len(request.inputs)
        return EmbeddingResult(
            vectors=np.repeat(self._vectors, count, axis=0),
            num_tokens=(5,) * count,
            truncated=(False,) * count,
            model=self.info.name,
        )


app = create_app([InstantModel()], config=ServerConfig(access_log=False))


def serve(name: str, port: int) -> None:
    """Serve `app` until the process is ended."""
    if name.startswith("uvicorn"):
        import uvicorn

        _, loop, http = name.split(", ")
        uvicorn.run(app, port=port, loop=loop, http=http, log_level="error", access_log=False)
    elif name == "granian":
        from granian import Granian

        Granian("asgi_servers:app", interface="asgi", port=port, workers=1, log_enabled=False).serve()
    else:
        from hypercorn.asyncio import serve as hypercorn
        from hypercorn.config import Config

        config = Config()
        config.bind, config.errorlog = [f"127.0.0.1:{port}"], None
        asyncio.run(hypercorn(app, config))


def is_there(name: str) -> bool:
    """Whether its package is installed."""
    try:
        __import__(name.partition(",")[0])
    except ImportError:
        return False
    return True


def measure_servers(requests: int, connections: int, repetitions: int) -> None:
    """The table of servers."""
    body = {"input": "what is the capital of france", "encoding_format": "base64"}
    bodies = json.dumps([{"path": "/v1/embeddings", "body": body}] * requests)
    found: dict[str, list[float]] = {name: [] for name in SERVERS if is_there(name)}
    processes = {}
    try:
        for index, name in enumerate(found):
            command = [sys.executable, __file__, "--serve", name, "--port", str(18_000 + index)]
            processes[name] = subprocess.Popen(command, cwd=Path(__file__).parent)
        time.sleep(8)
        for repetition in range(repetitions + 1):
            for index, name in enumerate(found):
                command = [sys.executable, str(SENDER), str(18_000 + index), str(connections)]
                done = subprocess.run(command, input=bodies, stdout=subprocess.PIPE, text=True, check=True)
                if repetition:
                    found[name].append(requests / json.loads(done.stdout)["seconds"])
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()
    print("| server | requests a second | ratio |\n|---|---:|---:|")
    first = statistics.median(next(iter(found.values())))
    for name, rates in found.items():
        rate = statistics.median(rates)
        print(f"| {name} | {rate:,.0f} | {rate / first:.2f} |", flush=True)


def measure_encoders(repetitions: int) -> None:
    """The table of encoders."""
    vectors = np.random.default_rng(0).standard_normal((32, 1024)).astype(np.float32)
    reply = {"data": [{"index": index, "embedding": row} for index, row in enumerate(vectors)]}

    def floats() -> dict[str, object]:
        return {"data": [{"index": index, "embedding": row.tolist()} for index, row in enumerate(vectors)]}

    ways: dict[str, Callable[[], object]] = {
        "orjson, from the array": lambda: orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY),
        "orjson, from floats": lambda: orjson.dumps(floats()),
        "msgspec, from floats": lambda: msgspec.json.encode(floats()),
        "json, from floats": lambda: json.dumps(floats()),
    }
    print("\n| encoder | ms | ratio |\n|---|---:|---:|")
    first = 0.0
    for name, way in ways.items():
        seconds = []
        for _ in range(repetitions * 4):
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        first = first or median
        print(f"| {name} | {median * 1000:.2f} | {median / first:.1f} |", flush=True)


def main() -> None:
    """Both tables, or one server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port)
        return
    measure_servers(arguments.requests, arguments.connections, arguments.repetitions)
    measure_encoders(arguments.repetitions)


if __name__ == "__main__":
    main()
