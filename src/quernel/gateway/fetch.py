"""Small JSON documents of other servers (discovery, public keys, tokens), fetched so that none of them can do harm.

An address is https, or http to this very machine; it has no user name in it. Nothing is followed to another address,
nothing is unpacked, and there is an end to both bytes and seconds.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import httpx
import orjson

from quernel.errors import FailureKind, ProviderError

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""What gives the JSON document of an address, or raises `UnavailableError`."""

TIMEOUT_SECONDS = 5.0
"""For the whole exchange, however slowly it drips."""

MAX_BYTES = 256 * 1024

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

HEADERS = {"accept": "application/json", "accept-encoding": "identity"}

PORTS = {"http": 80, "https": 443}
MAX_PORT = 65_535

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

_ADDRESS = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:/[!-\"$-\[\]-~]*)?",  # printable ASCII without '#' and '\'
    re.ASCII | re.IGNORECASE,
)


def host_of(url: str) -> str | None:
    """Host and port of an address that may be fetched; `None` for any other."""
    found = _ADDRESS.fullmatch(url)
    if found is None:
        return None
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"] or PORTS[scheme])
    if (scheme == "http" and host not in LOOPBACK) or not 0 < port <= MAX_PORT:
        return None
    return f"{host}:{port}"


async def fetch_json_document(
    url: str,
    *,
    session: httpx.AsyncClient,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The JSON document at an address, or the reply to a form that is sent to it, as it came.

    Args:
        url: From configuration, or from a document that configuration led to; never from a request.
        session: What to send with. Its `auth` is not used, but headers and cookies that it has are sent.
        form: Fields to send; `None` to send none and ask for the document.
        headers: To send besides.

    Raises:
        ProviderError: It is not an address to fetch, or there was no answer in time, or not one of JSON within bounds.
    """
    if host_of(url) is None:
        raise _failure(url, "is not fetched: it is neither https nor on this machine", FailureKind.REFUSED)
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            session.stream(
                "GET" if form is None else "POST",
                url,
                data=form,
                headers={**HEADERS, **(headers or {})},
                auth=None,
                follow_redirects=False,
            ) as reply,
        ):
            body = await _read(url, reply)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise _failure(url, f"did not answer within {TIMEOUT_SECONDS:g} s", FailureKind.TIMEOUT) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _failure(url, f"cannot be reached: {type(error).__name__}", FailureKind.UNREACHABLE) from error
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _failure(url, "did not answer with JSON", FailureKind.BAD_REPLY) from error
    return body


async def _read(url: str, reply: httpx.Response) -> bytes:
    if reply.is_redirect:
        raise _failure(url, "redirects, which is not followed", FailureKind.BAD_REPLY, reply.status_code)
    if reply.status_code != httpx.codes.OK:
        raise _failure(url, f"answered {reply.status_code}", FailureKind.FAILED, reply.status_code)
    # Compressed bytes are refused rather than unpacked: a few of them can unfold to more than memory holds.
    if reply.headers.get("content-encoding", "identity").lower() != "identity":
        raise _failure(url, "answered with compressed bytes, which were not asked for", FailureKind.BAD_REPLY)
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > MAX_BYTES:
            raise _failure(url, f"answered with more than {MAX_BYTES} bytes", FailureKind.BAD_REPLY)
    return bytes(body)


def _failure(url: str, what: str, kind: FailureKind, status: int | None = None) -> ProviderError:
    return ProviderError(f"{url[:200]!r} {what}.", kind=kind, upstream_status=status)
