"""Both clients against a real server, and against servers that fail."""

import asyncio
import inspect
import threading

import httpx
import numpy as np
import pytest

from quernel.client import AsyncClient, Client, RetryPolicy
from quernel.errors import (
    InputTooLongError,
    InvalidDimensionsError,
    ModelNotFoundError,
    OverloadedError,
    SettingsError,
    UnavailableError,
)
from quernel.protocols.error_body import encode_error
from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest, InputType, ModelKind, RerankRequest

TEXTS = [f"text number {number} about water" for number in range(50)]
AT_ONCE = RetryPolicy(max_attempts=3, first_seconds=0.001)


class Sync:
    """Calls a client's methods."""

    def __init__(self, **arguments):
        self._arguments = arguments

    def __call__(self, method, *positional, **named):
        with Client(**self._arguments) as client:
            return getattr(client, method)(*positional, **named)

    @staticmethod
    def sending(handler):
        return httpx.Client(transport=httpx.MockTransport(handler))


class Async(Sync):
    """Awaits those of the other."""

    def __call__(self, method, *positional, **named):
        async def call():
            async with AsyncClient(**self._arguments) as client:
                return await getattr(client, method)(*positional, **named)

        return asyncio.run(call())

    @staticmethod
    def sending(handler):
        return httpx.AsyncClient(transport=httpx.MockTransport(handler))


both = pytest.mark.parametrize("kind", [Sync, Async])


@pytest.fixture(scope="module")
def model():
    return FakeEmbeddingModel()


@pytest.fixture(scope="module")
def url(model):
    with running(create_app([model, FakeRerankModel()])) as url:
        yield url


@both
@pytest.mark.parametrize("size", [7, 1000])
def test_vectors_are_those_of_the_model_whatever_the_parts(kind, url, model, size):
    result = kind(base_url=url, texts_per_request=size)("embed", EmbeddingRequest(inputs=TEXTS))
    expected = asyncio.run(model.embed(EmbeddingRequest(inputs=TEXTS)))
    assert np.array_equal(result.vectors, expected.vectors)
    assert result.num_tokens == expected.num_tokens
    assert result.model == model.info.name


@both
def test_queries_and_documents(kind, url, model):
    client = kind(base_url=f"{url}/v1/", model="default")
    assert client("embed_queries", ["a"], instruction="Find b", dimensions=32).shape == (1, 32)
    assert (model.requests[-1].input_type, model.requests[-1].instruction) == (InputType.QUERY, "Find b")
    assert client("embed_documents", ["a", "b"], truncate="end").shape[0] == 2
    assert model.requests[-1].input_type is InputType.DOCUMENT


@both
@pytest.mark.parametrize("size", [7, 1000])
def test_documents_are_ordered_together(kind, url, size):
    request = RerankRequest(query="water 13", documents=TEXTS, top_n=5)
    result = kind(base_url=url, texts_per_request=size)("rerank", request)
    expected = asyncio.run(FakeRerankModel().rerank(request))
    assert [document.index for document in result.results] == [document.index for document in expected.results]
    assert len(result.num_tokens) == len(TEXTS)
    ranked = kind(base_url=url)("rank", "water 13", TEXTS, top_n=5)
    assert [document.index for document in ranked] == [document.index for document in expected.results]


@both
def test_models(kind, url):
    assert [info.kind for info in kind(base_url=url)("models")] == [ModelKind.EMBEDDING, ModelKind.RERANKER]


@both
def test_errors_of_the_server_are_errors_here(kind, url):
    client = kind(base_url=url)
    with pytest.raises(InvalidDimensionsError, match="31"):
        client("embed_documents", ["a"], dimensions=31)
    with pytest.raises(InputTooLongError):
        client("embed_documents", ["word " * 600])
    with pytest.raises(ModelNotFoundError):
        client("embed_documents", ["a"], model="another")


@both
@pytest.mark.parametrize("failure", [{"status_code": 503}, {"status_code": 429, "headers": {"retry-after": "0"}}, None])
def test_what_may_pass_is_sent_again(kind, failure, model):
    tries = []

    def handler(request):
        tries.append(request)
        if len(tries) < 3:
            if failure is None:
                raise httpx.ConnectError("refused")
            return httpx.Response(**failure)
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0]}], "model": "m", "usage": {}})

    vectors = kind(http=kind.sending(handler), retry=AT_ONCE)("embed_documents", ["a"])
    assert vectors.tolist() == [[1.0]]
    assert len(tries) == 3


@both
def test_it_gives_up_with_the_last_reason(kind):
    def overloaded(request):
        return httpx.Response(429, content=encode_error(OverloadedError("7 tokens wait already.")))

    with pytest.raises(OverloadedError, match="7 tokens"):
        kind(http=kind.sending(overloaded), retry=AT_ONCE)("embed_documents", ["a"])

    def refuse(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(UnavailableError, match=r"cannot be reached: refused"):
        kind(http=kind.sending(refuse), retry=AT_ONCE)("embed_documents", ["a"])

    def sleep(request):
        raise httpx.ReadTimeout("")

    with pytest.raises(UnavailableError, match="in time"):
        kind(http=kind.sending(sleep), retry=AT_ONCE)("embed_documents", ["a"])


@both
def test_when_one_part_fails_the_rest_is_not_sent(kind):
    sent = []

    def handler(request):
        sent.append(request)
        return httpx.Response(400, json={"error": {"message": "no"}})

    with pytest.raises(Exception, match="no"):
        kind(http=kind.sending(handler), texts_per_request=1, concurrency=2)("embed_documents", TEXTS)
    assert len(sent) < len(TEXTS)


@both
def test_as_many_parts_are_under_way_as_was_said(kind):
    most = 0
    under_way = 0
    lock = threading.Lock()

    def handle_in_thread(request):
        import time

        nonlocal most, under_way
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return answer(request)

    async def handle_in_loop(request):
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return answer(request)

    def answer(request):
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0]}], "model": "m", "usage": {}})

    http = kind.sending(handle_in_thread if kind is Sync else handle_in_loop)
    kind(http=http, texts_per_request=1, concurrency=3)("embed_documents", TEXTS)
    assert most == 3


@both
def test_the_key_goes_out_and_nothing_else_is_told(kind):
    seen = []

    def handler(request):
        seen.append(request.headers)
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0]}], "model": "m", "usage": {}})

    kind(http=kind.sending(handler), api_key="secret")("embed_documents", ["a"])
    assert seen[0]["authorization"] == "Bearer secret"
    assert seen[0]["user-agent"].startswith("quernel/")


@both
def test_a_bar_is_shown_where_it_is_wanted(kind, url, capsys):
    kind(base_url=url, texts_per_request=5, progress=True)("embed_documents", TEXTS)
    assert "texts" in capsys.readouterr().err
    kind(base_url=url, texts_per_request=5)("embed_documents", TEXTS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments", [{"concurrency": 0}, {"texts_per_request": 0}, {"timeout": 0}, {"base_url": "127.0.0.1:1234"}]
)
@both
def test_wrong_settings_are_refused_by_name(kind, arguments):
    with pytest.raises(SettingsError, match=next(iter(arguments))):
        kind(**arguments)("models")


def test_both_clients_have_the_same_methods():
    for name, method in vars(Client).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            twin = getattr(AsyncClient, name)
            assert inspect.iscoroutinefunction(twin), name
            assert inspect.signature(twin) == inspect.signature(method)
