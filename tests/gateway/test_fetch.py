import asyncio
import gzip
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from quernel.errors import FailureKind, ProviderError
from quernel.gateway import fetch
from quernel.gateway.fetch import MAX_BYTES, fetch_json_document, host_of


def reply(body=b"{}", status="200 OK", **headers):
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def server(answer):
    """An HTTP server that writes `answer` (bytes, or a coroutine function of the writer) to whoever asks."""
    requests, handlers = [], []

    async def serve(reader, writer):
        handlers.append(asyncio.current_task())
        with suppress(ConnectionError):  # whoever has seen enough goes away
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            if callable(answer):
                await answer(writer)
            else:
                writer.write(answer)
            await writer.drain()
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/keys", requests
    finally:
        listening.close()
        await asyncio.gather(*handlers)
        await listening.wait_closed()


def fetched(answer, **client):
    """What is fetched from a server that answers so, and what it was asked."""

    async def run():
        async with server(answer) as (url, requests), httpx.AsyncClient(trust_env=False, **client) as session:
            return await fetch_json_document(url, session=session), requests

    return asyncio.run(run())


def refused(answer, **client):
    with pytest.raises(ProviderError) as caught:
        fetched(answer, **client)
    return caught.value


def test_a_document_comes_as_it_was_sent():
    body, requests = fetched(reply(b'{"keys": []}'))
    assert body == b'{"keys": []}'
    assert b"accept-encoding: identity" in requests[0].lower()


def test_a_document_of_the_largest_size_is_taken_and_one_byte_more_is_not():
    largest = b'"' + b"x" * (MAX_BYTES - 2) + b'"'
    assert fetched(reply(largest))[0] == largest
    assert refused(reply(largest[:-1] + b'x"')).kind is FailureKind.BAD_REPLY


def test_a_document_without_an_end_is_cut_off():
    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x" * 1024)
            await writer.drain()

    assert "more than" in refused(endless).message


def test_a_redirect_is_not_followed_even_by_a_session_that_would():
    async def run():
        async with server(reply()) as (elsewhere, visits):
            moved = reply(status="302 Found", location=elsewhere)
            async with server(moved) as (url, _), httpx.AsyncClient(follow_redirects=True, trust_env=False) as session:
                with pytest.raises(ProviderError, match="redirects"):
                    await fetch_json_document(url, session=session)
            return visits

    assert asyncio.run(run()) == []


def test_credentials_of_the_session_are_not_sent():
    _, requests = fetched(reply(), auth=("user", "secret"))
    assert b"authorization" not in requests[0].lower()


def test_compressed_bytes_are_refused_before_they_are_unpacked():
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]", compresslevel=1)
    assert len(bomb) < MAX_BYTES
    for name in ("gzip", "GZIP", "br", "identity, gzip"):
        assert "compressed" in refused(reply(bomb, content_encoding=name)).message


def test_a_slow_server_is_given_up_on(monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.2)

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)  # each byte is in time, all of them are not

    assert refused(drip).kind is FailureKind.TIMEOUT


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}{}", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(body):
    assert refused(reply(body)).kind is FailureKind.BAD_REPLY


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "204 No Content"])
def test_only_200_is_an_answer(status):
    assert refused(reply(status=status)).upstream_status == int(status[:3])


def test_a_broken_reply_and_a_closed_port_are_failures_of_the_provider():
    assert refused(b"nonsense\r\n\r\n").kind is FailureKind.UNREACHABLE

    async def run():
        async with server(reply()) as (url, _):
            pass
        async with httpx.AsyncClient(trust_env=False) as session:
            await fetch_json_document(url, session=session)

    with pytest.raises(ProviderError) as caught:
        asyncio.run(run())
    assert caught.value.kind is FailureKind.UNREACHABLE


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "http://localhost.example/keys",
        "http://127.0.0.1.example/keys",
        "https://user@issuer.example/keys",
        "https://user:secret@issuer.example/keys",
        "https://issuer.example\\@other.example/",
        "https://issuer.example/#keys",
        "https://issuer.example/a b",
        "https://issuer.example/\n",
        "https://issuer.example?keys",
        "https://issuer..example/",
        "https://issuer.example:99999/",
        "https://issuer.example:0/",
        "https://i\u017fsuer.example/",
        "https://\u212aeys.example/",
        "https://" + "x" * 64 + ".example/",
        "file:///etc/passwd",
        "//issuer.example/",
        "",
    ],
)
def test_an_address_that_is_not_plain_https_is_never_asked(url):
    async def run():
        def fail(request):
            raise AssertionError("it was asked")

        async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as session:
            await fetch_json_document(url, session=session)

    assert host_of(url) is None
    with pytest.raises(ProviderError, match="is not fetched"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Issuer.Example", "issuer.example:443"),
        ("https://issuer.example:8443/a/b?c=d", "issuer.example:8443"),
        ("http://localhost:8000/keys", "localhost:8000"),
        ("http://127.0.0.1/keys", "127.0.0.1:80"),
        ("http://[::1]:8000/keys", "[::1]:8000"),
    ],
)
def test_hosts_are_named_with_their_port_in_lower_case(url, host):
    assert host_of(url) == host
