"""A provider that costs next to nothing: answers every request with the same vectors, in OpenAI's form.

    python benchmarks/gateway_upstream.py PORT [DIMENSIONS] [DELAY_MS]

Written on sockets, so that what is measured in front of it is not it. One vector for each text of a request whose
`input` is a list, in base64 where that was asked for.
"""

import argparse
import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

FLOAT, BASE64 = "float", "base64"


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, dimensions: int, delay: float) -> None:
        vector = np.linspace(-1, 1, dimensions, dtype=np.float32)
        vector /= np.linalg.norm(vector)
        self.forms = {FLOAT: vector, BASE64: base64.b64encode(vector.tobytes()).decode()}
        self.delay = delay
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pending += data
        while True:
            head, found, rest = self.pending.partition(b"\r\n\r\n")
            if not found:
                return
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            if len(rest) < length:
                return
            body, self.pending = rest[:length], rest[length:]
            reply = self.answer(orjson.loads(body) if body else {})
            if self.delay:
                asyncio.get_running_loop().call_later(self.delay, self.transport.write, reply)
            else:
                self.transport.write(reply)

    def answer(self, asked: Mapping[str, Any]) -> bytes:
        texts = asked.get("input", "")
        count = len(texts) if isinstance(texts, list) else 1
        vector = self.forms[asked.get("encoding_format") or FLOAT]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
        tokens = 12 * count
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        reply = {"object": "list", "data": data, "model": asked.get("model", ""), "usage": usage}
        body = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def serve(port: int, dimensions: int, delay: float) -> None:
    """Answer until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(dimensions, delay), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve as it was told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("dimensions", type=int, nargs="?", default=1024)
    parser.add_argument("delay_ms", type=float, nargs="?", default=0.0)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.dimensions, arguments.delay_ms / 1000))


if __name__ == "__main__":
    main()
