"""Queries beside bulk over HTTP (the load W6): how long queries wait, and what bulk loses.

    python benchmarks/live_mix.py [--layers 28] [--dtype float32] [--seconds 60] [--json FILE]

Starts `quernel serve` on a random model of the 0.6B shape. Bulk: two connections, each sending 16 passages of 30 to 512
tokens and then the next 16. Queries of 12 to 40 tokens arrive at random, one every three seconds on average, each
on a connection of its own; their time is from arrival to answer. Three runs: queries alone, both, and both with
`--max-interactive-tokens 0`, which serves all requests in turn. The client is a process of its own on the same cores.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from peer_systems import export_checkpoint

BULK_CONNECTIONS, BULK_TEXTS = 2, 16
QUERY_EVERY_SECONDS = 3.0


@dataclass
class Tally:
    """What a run took.

    Attributes:
        queries: Seconds of each query.
        bulk_tokens: Tokens of the bulk requests that were answered.
        seconds: Of the run.
    """

    queries: list[float] = field(default_factory=list)
    bulk_tokens: int = 0
    seconds: float = 0.0

    def quantile(self, share: float) -> float:
        """Seconds within which that share of the queries was answered."""
        return sorted(self.queries)[min(int(share * len(self.queries)), len(self.queries) - 1)]


async def send(client: httpx.AsyncClient, lengths: list[int]) -> int:
    """One request with texts of these lengths; the tokens that were read."""
    draw = random.Random(repr(lengths))
    body = {
        "model": "default",
        "input": [[draw.randrange(151_643) for _ in range(length - 1)] for length in lengths],
        "encoding_format": "base64",
    }
    reply = await client.post("/v1/embeddings", json=body)
    reply.raise_for_status()
    return int(reply.json()["usage"]["total_tokens"])


async def load(url: str, seconds: float, *, with_bulk: bool) -> Tally:
    """Send for so long, then wait for what is under way."""
    tally, draw = Tally(), random.Random(0)
    end = time.perf_counter() + seconds

    async def bulk(client: httpx.AsyncClient, number: int) -> None:
        mine = random.Random(number)
        while time.perf_counter() < end:
            lengths = [min(512, max(30, int(mine.gauss(180, 100)))) for _ in range(BULK_TEXTS)]
            tally.bulk_tokens += await send(client, lengths)

    async def query(client: httpx.AsyncClient, length: int) -> None:
        start = time.perf_counter()
        await send(client, [length])
        tally.queries.append(time.perf_counter() - start)

    start = time.perf_counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client, asyncio.TaskGroup() as tasks:
        for number in range(BULK_CONNECTIONS if with_bulk else 0):
            tasks.create_task(bulk(client, number))
        while time.perf_counter() < end:
            await asyncio.sleep(draw.expovariate(1 / QUERY_EVERY_SECONDS))
            tasks.create_task(query(client, draw.randint(12, 40)))
    tally.seconds = time.perf_counter() - start
    return tally


@asynccontextmanager
async def serving(folder: Path, *flags: str) -> AsyncIterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, "-m", "quernel.cli.main", "serve", "-m", f"embedding={folder}", "-p", "0"]
    process = subprocess.Popen(
        [*command, "--json", "--quiet", "--no-access-log", "--token-ids", "accept", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()


async def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    runs = {
        "queries alone": ((), False),
        "queries beside bulk": ((), True),
        "the same, all in turn": (("--max-interactive-tokens", "0"), True),
    }
    found = {}
    print("| load | queries | p50 | p99 | longest | bulk, tokens/s |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_checkpoint(folder, arguments.layers)
        for title, (flags, with_bulk) in runs.items():
            async with serving(folder, "--dtype", arguments.dtype, *flags) as url:
                tally = await load(url, arguments.seconds, with_bulk=with_bulk)
            found[title] = {"queries": tally.queries, "bulk_tokens_per_second": tally.bulk_tokens / tally.seconds}
            cells = [f"{tally.quantile(share):.2f} s" for share in (0.5, 0.99, 1.0)]
            bulk = f"{tally.bulk_tokens / tally.seconds:,.0f}" if with_bulk else "-"
            print(f"| {title} | {len(tally.queries)} | {' | '.join(cells)} | {bulk} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
