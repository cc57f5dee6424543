"""HTTP to providers: every way to fail has its kind, and nothing that is secret gets out."""

import asyncio
import json
import logging
import socket
import ssl
import traceback
import tracemalloc
from email.utils import formatdate

import pytest
import trustme
from tests.support import provider as script
from tests.support.provider import provider

from quernel.errors import FailureKind, InvalidRequestError, ProviderError
from quernel.gateway import http1
from quernel.gateway import transport as module
from quernel.gateway.transport import HttpReply, Transport, failure_of_reply, retry_after

KEY = "sk-very-secret"
TEXT = "my diary of the ninth"
BODY = json.dumps({"model": "fake/embedding", "input": [TEXT, "another"]}).encode()
NOW = 1_800_000_000.0


async def post(transport, served, body=BODY, *, timeout=5.0, max_reply_bytes=2**20, headers=None):
    return await transport.post(
        f"{served.url}/embeddings",
        body,
        {"authorization": f"Bearer {KEY}", **(headers or {})},
        provider="acme",
        timeout=timeout,
        max_reply_bytes=max_reply_bytes,
    )


def run(work, **options):
    """The result of `work(transport)`."""

    async def call():
        transport = Transport(clock=lambda: NOW, **options)
        try:
            return await work(transport)
        finally:
            await transport.close()

    return asyncio.run(call())


def failure(served, **arguments):
    """How a request to a provider fails."""

    async def work(transport):
        with pytest.raises(ProviderError) as caught:
            await post(transport, served, **arguments)
        return caught.value

    return run(work)


def everything_of(error):
    """All that a log, a debugger or a reporter could show of an error, but for its hint."""
    shown = []
    while error is not None:
        shown += [repr(error), repr(error.args), getattr(error, "message", "")]
        shown += traceback.format_tb(error.__traceback__)
        error = error.__cause__ or error.__context__
    return "\n".join(shown)


def test_a_body_goes_out_as_it_is_and_the_reply_comes_back():
    with provider("openai", [script.sends(b'{"said": 1}', headers={"X-Compute-Tokens": "7"})]) as served:
        reply = run(lambda transport: post(transport, served))
    assert (reply.status, reply.body) == (200, b'{"said": 1}')
    assert reply.headers["x-compute-tokens"] == "7"
    (request,) = served.requests
    assert request.body == BODY
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "gzip"
    assert "cookie" not in request.headers


def test_a_reply_does_not_show_its_body_or_headers():
    assert repr(HttpReply(200, {"set-cookie": KEY}, TEXT.encode())) == "HttpReply(status=200)"


def test_a_connection_serves_one_request_after_the_other():
    async def work(transport):
        for _ in range(5):
            await post(transport, served)

    with provider("openai") as served:
        run(work)
        assert (len(served.requests), served.connections) == (5, 1)


def test_a_large_body_arrives_whole():
    body = json.dumps({"model": "fake/embedding", "input": ["word " * 500] * 2_000}).encode()
    assert len(body) > 4 * http1.SEND_BYTES
    with provider("openai", [script.sends(b"{}")]) as served:
        run(lambda transport: post(transport, served, body))
    assert served.requests[0].body == body


STATUSES = {
    400: FailureKind.REFUSED,
    401: FailureKind.CREDENTIALS,
    402: FailureKind.CREDENTIALS,
    403: FailureKind.CREDENTIALS,
    404: FailureKind.FAILED,
    405: FailureKind.FAILED,
    408: FailureKind.TIMEOUT,
    413: FailureKind.REFUSED,
    422: FailureKind.REFUSED,
    424: FailureKind.FAILED,
    429: FailureKind.RATE_LIMITED,
    500: FailureKind.FAILED,
    503: FailureKind.FAILED,
    504: FailureKind.TIMEOUT,
    529: FailureKind.FAILED,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_a_status_has_its_kind_and_the_message_names_only_provider_and_status(status, kind, caplog):
    caplog.set_level(logging.DEBUG)
    with provider("openai", [script.failing(status)]) as served:
        error = failure(served)
    assert (error.kind, error.upstream_status) == (kind, status)
    assert error.message == f"acme answered with status {status}."
    assert (error.hint is not None) == (kind is FailureKind.REFUSED)
    for secret in (KEY, TEXT, served.url):
        assert secret not in everything_of(error)
        assert secret not in caplog.text


def test_what_a_provider_finds_wrong_with_a_request_is_a_hint_of_one_short_line():
    said = "line\none\x1b[31m " + "x" * 1000
    reply = HttpReply(400, {}, json.dumps({"error": {"message": said}}).encode())
    hint = failure_of_reply(reply, "acme", now=NOW).hint
    assert hint.startswith("line one [31m xxx")
    assert (len(hint), hint.isprintable()) == (module.MAX_HINT, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "openai", "code": 7}}, "openai"),
        ({"error": "tei", "error_type": "Validation"}, "tei"),
        ({"message": "cohere"}, "cohere"),
        ({"detail": "jina"}, "jina"),
        ({"detail": [{"loc": ["body"], "msg": "fastapi"}]}, "fastapi"),
        ({"error": {"message": ""}, "detail": []}, None),
        ({"error": None}, None),
        ("a string", None),
        (None, None),
    ],
)
def test_every_vendors_way_to_say_what_is_wrong_is_read(body, said):
    reply = HttpReply(400, {}, json.dumps(body).encode())
    assert failure_of_reply(reply, "acme", now=NOW).hint == said


def test_a_body_that_is_no_json_says_nothing():
    with provider("openai", [script.sends(b"<html>Bad", content_type="text/html", status=400)]) as served:
        error = failure(served)
    assert (error.kind, error.hint) == (FailureKind.REFUSED, None)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "insufficient_quota", FailureKind.CREDENTIALS),
        (400, "invalid_api_key", FailureKind.CREDENTIALS),
        (400, "model_not_found", FailureKind.FAILED),
        (400, "INPUT_MODEL_NOT_FOUND", FailureKind.FAILED),
        (400, "context_length_exceeded", FailureKind.REFUSED),
    ],
)
def test_a_code_counts_more_than_a_status(status, code, kind):
    with provider("openai", [script.failing(status, code=code)]) as served:
        assert failure(served).kind is kind


def test_a_failure_says_how_long_to_wait():
    with provider("openai", [script.rate_limited(3), script.failing(503, {"retry-after": "4"})]) as served:
        assert failure(served).retry_after == 3
        assert failure(served).retry_after == 4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2),
    ],
)
def test_a_wait_is_read_as_milliseconds_seconds_or_a_date(headers, seconds):
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (script.hung_up, FailureKind.UNREACHABLE),
        (script.reset, FailureKind.UNREACHABLE),
        (script.broken_off, FailureKind.UNREACHABLE),
        (script.garbled, FailureKind.BAD_REPLY),
        (script.sends(b"x" * 5_000), FailureKind.BAD_REPLY),
        (script.events(b"x" * 3_000, b"x" * 3_000), FailureKind.BAD_REPLY),
        (script.sends(b"not packed", headers={"content-encoding": "gzip"}), FailureKind.BAD_REPLY),
        (script.sends(b"?", headers={"content-encoding": "br"}), FailureKind.BAD_REPLY),
    ],
)
def test_a_broken_exchange_has_its_kind_and_tells_nothing(step, kind, caplog):
    caplog.set_level(logging.DEBUG)
    with provider("openai", [step]) as served:
        error = failure(served, max_reply_bytes=4_000)
    assert error.kind is kind
    assert error.message.startswith("acme ")
    assert error.hint is None
    assert len(served.requests) == 1, "a failure on a new connection is not repeated"
    for secret in (KEY, TEXT, served.url):
        assert secret not in everything_of(error)
        assert secret not in caplog.text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_not_followed(status):
    with provider("openai") as other:
        step = script.sends(b"", headers={"location": f"{other.url}/embeddings"}, status=status)
        with provider("openai", [step]) as served:
            error = failure(served)
    assert (error.kind, error.upstream_status) == (FailureKind.BAD_REPLY, status)
    assert not other.requests
    assert other.url not in everything_of(error)


def test_a_provider_that_is_late_is_given_up_in_time():
    with provider("openai", [script.slow(30)]) as served:
        error = failure(served, timeout=0.05)
    assert error.kind is FailureKind.TIMEOUT


def test_the_time_is_for_the_whole_reply_and_not_for_each_piece():
    with provider("openai", [script.events(*[b"x"] * 100, gap=0.02)]) as served:
        error = failure(served, timeout=0.1)
    assert error.kind is FailureKind.TIMEOUT


def test_an_explanation_that_never_comes_does_not_hide_the_status(monkeypatch):
    monkeypatch.setattr(module, "ERROR_SECONDS", 0.02)

    def step(call):
        return script.Answer(status=503, pieces=(b"x",), gap=30)

    with provider("openai", [step]) as served:
        error = failure(served)
    assert (error.kind, error.upstream_status) == (FailureKind.FAILED, 503)


def test_a_callers_own_deadline_is_not_mistaken_for_the_providers():
    async def work(transport):
        async with asyncio.timeout(0.05):
            await post(transport, served)

    with provider("openai", [script.slow(30)]) as served, pytest.raises(TimeoutError):
        run(work)


def test_nobody_there_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    class Away:
        url = f"http://127.0.0.1:{port}"

    error = failure(Away)
    assert error.kind is FailureKind.UNREACHABLE
    assert "ECONNREFUSED" in error.message
    assert str(port) not in everything_of(error)


def test_a_packed_reply_is_unpacked():
    with provider("openai", [script.packed]) as served:
        reply = run(lambda transport: post(transport, served))
    assert len(json.loads(reply.body)["data"]) == 2


def test_a_packed_reply_that_breaks_off_is_no_reply():
    def step(call):
        whole = script.packed(call)
        return script.replace(whole, body=whole.body[:-9])

    with provider("openai", [step]) as served:
        assert failure(served).kind is FailureKind.BAD_REPLY


def test_a_bomb_is_dropped_before_it_has_unfolded():
    step = script.bomb(64 * 2**20)
    with provider("openai", [step]) as served:
        tracemalloc.start()
        try:
            error = failure(served, max_reply_bytes=2**20)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert error.kind is FailureKind.BAD_REPLY
    assert peak < 10 * 2**20


def test_a_reply_may_be_as_large_as_the_limit():
    with provider("openai", [script.sends(b"x" * 1_000), script.sends(b"x" * 1_001)]) as served:
        assert len(run(lambda transport: post(transport, served, max_reply_bytes=1_000)).body) == 1_000
        assert failure(served, max_reply_bytes=1_000).kind is FailureKind.BAD_REPLY


@pytest.mark.parametrize("closed", [script.hung_up, script.reset])
def test_a_stale_connection_costs_one_more_request_and_no_failure(closed):
    async def work(transport):
        await post(transport, served)
        return await post(transport, served)

    with provider("openai", [script.ok, closed, script.ok]) as served:
        assert run(work).status == 200
        assert [request.connection for request in served.requests] == [1, 1, 2]


def test_a_request_is_sent_twice_at_most():
    async def work(transport):
        await post(transport, served)
        with pytest.raises(ProviderError) as caught:
            await post(transport, served)
        return caught.value

    with provider("openai", [script.ok, *[script.hung_up] * 5]) as served:
        assert run(work).kind is FailureKind.UNREACHABLE
        assert len(served.requests) == 3


def test_both_sendings_of_a_request_share_its_time():
    async def work(transport):
        await post(transport, served)
        with pytest.raises(ProviderError) as caught:
            await post(transport, served, timeout=0.2)
        return caught.value

    late = script.slow(0.15, script.hung_up)
    with provider("openai", [script.ok, late, script.slow(30)]) as served:
        assert run(work).kind is FailureKind.TIMEOUT


def test_no_more_connections_to_a_host_than_allowed():
    async def work(transport):
        await asyncio.gather(*(post(transport, served) for _ in range(9)))

    with provider("openai", [script.slow(0.02)] * 9) as served:
        run(work, max_per_host=3)
        assert (served.max_in_flight, len(served.requests)) == (3, 9)


def test_the_wait_for_a_connection_is_within_a_requests_time():
    async def work(transport):
        first = asyncio.ensure_future(post(transport, served))
        while not served.requests:
            await asyncio.sleep(0.001)
        with pytest.raises(ProviderError) as caught:
            await post(transport, served, timeout=0.05)
        await first
        return caught.value

    with provider("openai", [script.slow(0.3)]) as served:
        assert run(work, max_per_host=1).kind is FailureKind.TIMEOUT
        assert len(served.requests) == 1


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b", "a\rb"])
def test_a_header_that_would_end_before_its_end_is_never_sent(value):
    async def work(transport):
        with pytest.raises(InvalidRequestError) as caught:
            await post(transport, served, headers={"authorization": value})
        return caught.value

    with provider("openai") as served:
        error = run(work)
    assert value not in str(error)
    assert not served.requests


@pytest.mark.parametrize("name", ["x y", "", "x\r\ny", "Host", "content-length", "Transfer-Encoding"])
def test_a_header_that_is_none_or_not_ours_to_set_is_never_sent(name):
    async def work(transport):
        with pytest.raises(InvalidRequestError):
            await post(transport, served, headers={name: "1"})

    with provider("openai") as served:
        run(work)
    assert not served.requests


def test_no_proxy_is_taken_from_the_environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with provider("openai") as served:
        assert run(lambda transport: post(transport, served)).status == 200


def test_a_cookie_is_not_kept():
    async def work(transport):
        await post(transport, served)
        await post(transport, served)

    with provider("openai", [script.sends(b"{}", headers={"set-cookie": "a=b"})]) as served:
        run(work)
    assert "cookie" not in served.requests[1].headers


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def _tls(authority, host):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def test_a_certificate_of_an_unknown_authority_is_refused(authority):
    with provider("openai", tls=_tls(authority, "localhost")) as served:
        error = failure(served)
    assert error.kind is FailureKind.UNREACHABLE
    assert "certificate" in error.message
    assert not served.requests


@pytest.mark.parametrize(("host", "is_fine"), [("localhost", True), ("other.example", False)])
def test_a_certificate_must_be_of_a_known_authority_and_of_this_host(authority, host, is_fine):
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def work(transport):
        try:
            return (await post(transport, served)).status
        except ProviderError as error:
            return error.kind

    with provider("openai", tls=_tls(authority, host)) as served:
        assert run(work, tls=trusting) == (200 if is_fine else FailureKind.UNREACHABLE)
        assert bool(served.requests) == is_fine


def stream(transport, served, **arguments):
    limits = {"timeout": 5.0, "idle_timeout": 5.0, "max_reply_bytes": 2**20, **arguments}
    return transport.stream(
        f"{served.url}/embeddings", BODY, {"authorization": f"Bearer {KEY}"}, provider="acme", **limits
    )


def test_a_stream_comes_piece_by_piece():
    async def work(transport):
        async with stream(transport, served) as reply:
            return reply.headers["content-type"], [piece async for piece in reply.pieces()]

    with provider("openai", [script.events(b"data: 1\n\n", b"data: 2\n\n", gap=0.03)]) as served:
        kind, pieces = run(work)
    assert kind == "text/event-stream"
    assert pieces == [b"data: 1\n\n", b"data: 2\n\n"]
    assert served.requests[0].headers["accept-encoding"] == "identity"


def test_a_stream_that_was_read_to_its_end_gives_its_connection_back():
    async def work(transport):
        for _ in range(3):
            async with stream(transport, served) as reply:
                assert b"".join([piece async for piece in reply.pieces()]) == b"one"

    with provider("openai", [script.events(b"one")] * 3) as served:
        run(work)
        assert served.connections == 1


def test_a_stream_that_nobody_reads_on_is_closed():
    async def work(transport):
        async with stream(transport, served) as reply:
            async for _ in reply.pieces():
                break
        return (await post(transport, served)).status

    with provider("openai", [script.events(*[b"x"] * 1000, gap=0.01)]) as served:
        assert run(work) == 200
        assert served.connections == 2


@pytest.mark.parametrize(
    ("step", "limits", "kind"),
    [
        (script.failing(429), {}, FailureKind.RATE_LIMITED),
        (script.hung_up, {}, FailureKind.UNREACHABLE),
        (script.slow(30), {"timeout": 0.05}, FailureKind.TIMEOUT),
        (script.events(b"x", b"y", gap=30), {"idle_timeout": 0.05}, FailureKind.TIMEOUT),
        (script.events(b"x" * 60, b"x" * 60), {"max_reply_bytes": 100}, FailureKind.BAD_REPLY),
        (script.broken_off, {}, FailureKind.UNREACHABLE),
    ],
)
def test_a_stream_fails_as_a_reply_does(step, limits, kind):
    async def read(transport):
        async with stream(transport, served, **limits) as reply:
            return [piece async for piece in reply.pieces()]

    async def work(transport):
        with pytest.raises(ProviderError) as caught:
            await read(transport)
        return caught.value

    with provider("openai", [step]) as served:
        error = run(work)
    assert error.kind is kind
    assert KEY not in everything_of(error)
    assert TEXT not in everything_of(error)


def test_an_error_in_the_readers_own_code_comes_through_as_it_is():
    async def work(transport):
        async with stream(transport, served) as reply:
            async for _ in reply.pieces():
                raise KeyError("mine")

    with provider("openai", [script.events(b"x")]) as served, pytest.raises(KeyError):
        run(work)


def test_closing_twice_is_fine():
    async def work(transport):
        await post(transport, served)
        await transport.close()
        await transport.close()

    with provider("openai") as served:
        run(work)
