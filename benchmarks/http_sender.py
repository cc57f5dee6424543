"""Sends one kind of request over so many connections and tells how long each took: for `http_speed.py` and `soak.py`.

    python benchmarks/http_sender.py PORT CONNECTIONS < requests.json

Reads a JSON list (`[{"path": ..., "body": {...}}]`), sends each body once, and prints a JSON object. It does as little
as can be done for a request, since it shares the machine with the server: the bytes are made before, and of a reply
only the status and the length are read.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import deque


class Connection(asyncio.Protocol):
    """One connection, with one request under way."""

    def __init__(self, waiting: deque[bytes], seconds: list[float], done: asyncio.Event, left: list[int]) -> None:
        self._waiting, self._seconds, self._done, self._left = waiting, seconds, done, left
        self._missing = -1
        self._head = b""
        self.failures: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        if not self._waiting:
            return
        self._started = time.perf_counter()
        self._transport.write(self._waiting.popleft())

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.failures.append(self._head[:300].decode("latin-1"))
            at = head.lower().index(b"content-length:") + 15
            self._missing = int(head[at:].partition(b"\r\n")[0]) - len(body)
            self._head = b""
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            self._seconds.append(time.perf_counter() - self._started)
            self._left[0] -= 1
            if self._left[0] == 0:
                self._done.set()
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self._left[0]:
            self.failures.append(f"lost: {error}")
            self._done.set()


def encode(path: str, body: object) -> bytes:
    """A request as bytes."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


async def send(port: int, num_connections: int, requests: list[bytes]) -> dict[str, object]:
    """Send all of them; the times."""
    loop = asyncio.get_running_loop()
    seconds: list[float] = []
    waiting, done, left = deque(requests), asyncio.Event(), [len(requests)]
    cpu, start = time.process_time(), time.perf_counter()
    made = []
    for _ in range(min(num_connections, len(requests))):
        made.append(await loop.create_connection(lambda: Connection(waiting, seconds, done, left), "127.0.0.1", port))
    await done.wait()
    total = time.perf_counter() - start
    failures = [failure for _, protocol in made for failure in protocol.failures]
    for transport, _ in made:
        transport.close()
    if failures:
        raise SystemExit(f"{len(failures)} failures, the first: {failures[0]}")
    return {"seconds": total, "latencies": seconds, "cpu_seconds": time.process_time() - cpu}


def main() -> None:
    """Read, send, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    arguments = parser.parse_args()
    encoded = [encode(entry["path"], entry["body"]) for entry in json.load(sys.stdin)]
    print(json.dumps(asyncio.run(send(arguments.port, arguments.connections, encoded))))


if __name__ == "__main__":
    main()
