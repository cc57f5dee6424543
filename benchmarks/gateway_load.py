"""A client that sends the same request again and again and tells how long each answer took, as one line of JSON.

    python benchmarks/gateway_load.py URL SECONDS --rate 200 | --connections 16   < {"headers": {...}, "body": {...}}

With `--rate` requests go out at fixed times whether or not the answers before have come (open loop), and the time of
each is counted from when it was due; with `--connections` each connection sends its next request when it has its answer
(closed loop). Written on sockets: its own time is a small part of what it measures.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from urllib.parse import urlsplit

Answers = tuple[list[float], list[int], float]
"""Seconds and status of each answer, and seconds of all."""


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.needed = -1
        self.done: asyncio.Future[int] | None = None
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.done is not None and not self.done.done():
            self.done.set_result(0)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.needed < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            lengths = [line[15:] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths:
                self.needed = end + 4 + int(lengths[0])
            elif b"transfer-encoding: chunked" in head:
                if not self.buffer.endswith(b"0\r\n\r\n"):
                    return
                self.needed = len(self.buffer)
            self.status = int(head[9:12])
        if len(self.buffer) >= self.needed >= 0 and self.done is not None:
            del self.buffer[:]
            self.needed = -1
            done, self.done = self.done, None
            done.set_result(self.status)

    async def ask(self, request: bytes) -> int:
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.done


async def closed(host: str, port: int, request: bytes, seconds: float, connections: int) -> Answers:
    """Times and statuses of so many connections that never rest."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    statuses: list[int] = []

    async def work() -> None:
        _, connection = await loop.create_connection(Connection, host, port)
        while time.perf_counter() < end:
            start = time.perf_counter()
            if not connection.is_open:
                _, connection = await loop.create_connection(Connection, host, port)
            statuses.append(await connection.ask(request))
            times.append(time.perf_counter() - start)

    start = time.perf_counter()
    end = start + seconds
    await asyncio.gather(*(work() for _ in range(connections)))
    return times, statuses, time.perf_counter() - start


async def opened(host: str, port: int, request: bytes, seconds: float, rate: float) -> Answers:
    """Times and statuses of requests that go out at fixed times."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    statuses: list[int] = []
    idle: list[Connection] = []
    tasks = []

    async def send(due: float) -> None:
        connection = idle.pop() if idle else None
        if connection is None or not connection.is_open:
            _, connection = await loop.create_connection(Connection, host, port)
        status = await connection.ask(request)
        times.append(time.perf_counter() - due)
        statuses.append(status)
        if status:
            idle.append(connection)

    start = time.perf_counter()
    for number in range(int(seconds * rate)):
        due = start + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(send(due)))
    await asyncio.gather(*tasks)
    return times, statuses, time.perf_counter() - start


def main() -> None:
    """Send, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--connections", type=int, default=1)
    arguments = parser.parse_args()
    asked = json.load(sys.stdin)
    parts = urlsplit(arguments.url)
    body = json.dumps(asked["body"]).encode()
    headers = {"host": parts.netloc, "content-type": "application/json", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in (headers | asked.get("headers", {})).items())
    request = f"POST {parts.path} HTTP/1.1\r\n{head}\r\n".encode() + body
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    if arguments.rate:
        work = opened(host, port, request, arguments.seconds, arguments.rate)
    else:
        work = closed(host, port, request, arguments.seconds, arguments.connections)
    before = time.process_time()
    times, statuses, seconds = asyncio.run(work)
    times.sort()
    told = {
        "requests": len(times),
        "failed": sum(status != 200 for status in statuses),
        "per_second": len(times) / seconds,
        "p50_ms": statistics.median(times) * 1000,
        "p90_ms": times[int(len(times) * 0.90)] * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "client_cpu": (time.process_time() - before) / seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
