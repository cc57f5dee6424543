"""The vendors' own Python clients against the gateway, before another Quernel and before providers of every format."""

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import openai
import pytest

from quernel import errors
from quernel.client import AsyncClient, Client, RetryPolicy
from quernel.gateway import ledger
from quernel.gateway.accounts import AccountSettings
from quernel.gateway.keys import Scope
from quernel.gateway.limits import Limit, Period
from quernel.gateway.money import format_dollars
from quernel.protocols.vectors import OutputDtype, quantise
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest, InputType, RerankRequest, Truncate
from tests.support.canaries import no_canaries
from tests.support.customers import new_customer
from tests.support.gateway import CATALOGUE, EMBEDDER, RERANKER, gateway, offer
from tests.support.provider import provider, rate_limited

RACK, VAULT = "rack", "vault"
"""Two servers of ours; the second wants a key."""

VAULT_KEY = "sk-of-the-gateway"

VENDORS = ("openai", "jina", "voyage", "cohere", "tei", "ai-gateway")
"""Providers that are called as the format that they speak."""

SLUGS = (RACK, VAULT, *VENDORS)
RERANKERS = tuple(slug for slug in SLUGS if slug != "openai")
"""OpenAI's format has no reranking."""

PRICES = {slug: number * 1_000_000 for number, slug in enumerate(SLUGS, start=1)}
"""Pico-dollars for a token; a document costs a thousand times as much."""

PAUSED = "fake/paused"

TEXTS = ["one two three", "four five", "Zürich \u2028 🙂"]
DOCUMENTS = ["bananas are yellow", "the capital of france is paris", "the capital"]
QUERY = "capital of france"

every_provider = pytest.mark.parametrize("slug", SLUGS)
every_reranker = pytest.mark.parametrize("slug", RERANKERS)
ours = pytest.mark.parametrize("slug", [RACK, VAULT])


def run(coroutine):
    return asyncio.run(coroutine)


def direct(texts=TEXTS, **options):
    """What the model says when it is asked itself."""
    return run(FakeEmbeddingModel(EMBEDDER).embed(EmbeddingRequest(inputs=texts, **options)))


def direct_rank(**options):
    """The order by the reranker itself."""
    return run(FakeRerankModel(RERANKER).rerank(RerankRequest(query=QUERY, documents=DOCUMENTS, **options)))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The gateway; each of its customers here may use one provider."""
    models = [FakeEmbeddingModel(), FakeRerankModel()]
    keyed = ServerConfig(port=0, shutdown_grace_seconds=1, api_key=(VAULT_KEY,))
    with ExitStack() as stack:
        stack.enter_context(no_canaries())
        urls = {RACK: stack.enter_context(running(create_app(models)))}
        urls[VAULT] = stack.enter_context(running(create_app(models, config=keyed), keyed))
        urls |= {slug: stack.enter_context(provider(slug)).url for slug in VENDORS}
        tables = [
            offer(
                slug,
                url,
                format="quernel" if slug in (RACK, VAULT) else slug,
                price=str(PRICES[slug] // 1_000_000),
                models=(EMBEDDER, RERANKER) if slug in RERANKERS else (EMBEDDER,),
                **({"api_key": "env:VAULT_KEY"} if slug == VAULT else {}),
            )
            for slug, url in urls.items()
        ]
        busy = stack.enter_context(provider("openai", [rate_limited(100)]))
        tables.append(offer("busy", busy.url, models=(PAUSED,)))
        catalogue = (*CATALOGUE, CATALOGUE[0] | {"name": PAUSED})
        environment = {"VAULT_KEY": VAULT_KEY}
        folder = tmp_path_factory.mktemp("gateway")
        served = stack.enter_context(gateway(folder, *tables, catalogue=catalogue, environment=environment))
        assert served.embed("a", model=PAUSED).status_code == 429
        yield served
        assert served.read(ledger.reconcile) == []


@pytest.fixture
def customer(served, slug):
    """A customer of one provider."""
    return new_customer(served, providers=(slug,))


def assert_billed(served, customer, slug, tokens, *, documents=0, requests=1):
    """The books have these requests at the provider's price, to the pico-dollar."""
    rows, money = customer.rows(served), customer.money(served)
    assert [row.provider for row in rows] == [slug] * requests
    assert (sum(row.tokens for row in rows), sum(row.documents for row in rows)) == (tokens, documents)
    cost = tokens * PRICES[slug] + documents * PRICES[slug] * 1000
    assert (sum(row.cost for row in rows), money.spent, money.held) == (cost, cost, 0)


def tokens_of(slug, texts, result):
    """What a request is billed: what the model counted, or a token for each byte where the provider does not say."""
    return sum(len(text.encode()) + 1 for text in texts) if slug == "tei" else sum(result.num_tokens)


def assert_same(embeddings, expected):
    np.testing.assert_array_equal(np.array(embeddings, np.float32), expected)


def test_the_other_server_opens_to_the_gateways_key_alone(served):
    customer = new_customer(served, providers=(VAULT,))
    (vault,) = (one for one in served.parts.gateway.registry.providers if one.slug == VAULT)
    for url, key in ((vault.base_url, customer.key), (served.url, VAULT_KEY)):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key) as client, pytest.raises(openai.AuthenticationError):
            client.embeddings.create(model=EMBEDDER, input="a")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=customer.key) as client:
        assert client.embeddings.create(model=EMBEDDER, input="a").data
    assert_billed(served, customer, VAULT, 2)


# OpenAI


@pytest.fixture
def client(served, customer):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=customer.key, max_retries=0) as client:
        yield client


def rows_of(reply):
    return [row.embedding for row in reply.data]


@every_provider
def test_openai_embeddings(served, customer, client, slug):
    expected = direct()
    packed = client.embeddings.create(model=EMBEDDER, input=TEXTS)
    floats = client.embeddings.create(model=EMBEDDER, input=TEXTS, encoding_format="float")
    assert_same(rows_of(packed), expected.vectors)
    assert_same(rows_of(floats), expected.vectors)
    short = client.embeddings.create(model=EMBEDDER, input=TEXTS, dimensions=32)
    assert_same(rows_of(short), direct(dimensions=32).vectors)
    assert packed.model == EMBEDDER
    tokens = tokens_of(slug, TEXTS, expected)
    assert_billed(served, customer, slug, 3 * tokens, requests=3)


@every_provider
def test_openai_headers_say_what_the_books_do(served, customer, client, slug):
    raw = client.embeddings.with_raw_response.create(model=EMBEDDER, input="one two", user="ada")
    (row,) = customer.rows(served)
    assert raw.headers["x-quernel-generation-id"] == row.id
    assert raw.headers["x-quernel-provider"] == row.provider == slug
    assert raw.headers["x-quernel-cost"] == format_dollars(row.cost)
    assert float(raw.headers["x-quernel-overhead-ms"]) >= 0
    assert raw.headers["x-request-id"]
    assert row.user == "ada"
    assert_same(rows_of(raw.parse()), direct(["one two"]).vectors)


def test_openai_rate_limits_are_in_the_headers(served):
    limits = (Limit(period=Period.MINUTE, requests=1000, tokens=100_000),)
    customer = new_customer(served, limits=limits, providers=(RACK,))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=customer.key) as client:
        headers = client.embeddings.with_raw_response.create(model=EMBEDDER, input="one two").headers
    assert headers["x-ratelimit-limit-requests"] == "1000"
    assert headers["x-ratelimit-remaining-requests"] == "999"
    assert headers["x-ratelimit-limit-tokens"] == "100000"
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert headers["x-ratelimit-reset-requests"].endswith("s")


@ours
def test_openai_fields_of_quernel_reach_the_other_server(served, customer, client, slug):
    reply = client.embeddings.create(
        model=EMBEDDER, input="word " * 600, extra_body={"truncate": "end", "instruction": "Find words"}
    )
    expected = direct(["word " * 600], instruction="Find words", truncate=Truncate.END)
    assert_same(rows_of(reply), expected.vectors)
    assert reply.truncated == [0]
    assert_billed(served, customer, slug, sum(expected.num_tokens))


def test_openai_extra_body_chooses_the_provider(served):
    customer = new_customer(served)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=customer.key) as client:
        for extra in ({"providerOptions": {"gateway": {"only": ["jina"]}}}, {"provider": {"only": ["jina"]}}):
            client.embeddings.create(model=EMBEDDER, input="a", extra_body=extra)
    assert_billed(served, customer, "jina", 4, requests=2)


def test_many_requests_of_the_asynchronous_client_add_up(served):
    customer = new_customer(served, providers=(RACK,))
    texts = [f"text {index}" for index in range(32)]

    async def embed():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=customer.key) as client:
            return await asyncio.gather(*(client.embeddings.create(model=EMBEDDER, input=text) for text in texts))

    replies = run(embed())
    assert_same([row for reply in replies for row in rows_of(reply)], direct(texts).vectors)
    assert_billed(served, customer, RACK, 3 * 32, requests=32)


@pytest.mark.parametrize("slug", [RACK])
def test_openai_models_are_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == [EMBEDDER, RERANKER, PAUSED]
    assert client.models.retrieve(EMBEDDER).id == EMBEDDER
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def elsewhere(**options):
    return {"extra_body": {"providerOptions": {"gateway": options}}}


OPENAI_ERRORS = {
    "no such key": (openai.AuthenticationError, 401, "invalid_api_key"),
    "not with this key": (openai.PermissionDeniedError, 403, "permission_denied"),
    "not this model": (openai.PermissionDeniedError, 403, "permission_denied"),
    "no such model": (openai.NotFoundError, 404, "model_not_found"),
    "a reranker": (openai.NotFoundError, 404, "model_not_found"),
    "bad dimensions": (openai.BadRequestError, 400, "invalid_dimensions"),
    "nothing": (openai.BadRequestError, 400, "empty_input"),
    "too long": (openai.BadRequestError, 400, "invalid_request"),
    "no provider fits": (openai.BadRequestError, 400, "no_route"),
    "no money": (openai.APIStatusError, 402, "insufficient_credits"),
    "too many requests": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "all are paused": (openai.InternalServerError, 503, "unavailable"),
}
"""Name of a refusal: class of the client's error, its status and code."""


@pytest.fixture(scope="module")
def refusals(served):
    """Keys and arguments that are refused."""
    none = (Limit(period=Period.MINUTE, requests=0),)
    good = new_customer(served, providers=(RACK,)).key
    return {
        "no such key": ("sk-wrong", {}),
        "not with this key": (new_customer(served, scopes=frozenset({Scope.READ})).key, {}),
        "not this model": (new_customer(served, account=AccountSettings(models=(RERANKER,))).key, {}),
        "no such model": (good, {"model": "text-embedding-3-small"}),
        "a reranker": (good, {"model": RERANKER}),
        "bad dimensions": (good, {"dimensions": 31}),
        "nothing": (good, {"input": []}),
        "too long": (good, {"input": "word " * 600}),
        "no provider fits": (good, elsewhere(zeroDataRetention=True)),
        "no money": (new_customer(served, "0").key, {}),
        "too many requests": (new_customer(served, limits=none).key, {}),
        "all are paused": (new_customer(served).key, {"model": PAUSED}),
    }


@pytest.mark.parametrize("name", OPENAI_ERRORS)
def test_openai_errors_are_of_the_client_s_own_classes(served, refusals, name):
    kind, status, code = OPENAI_ERRORS[name]
    key, arguments = refusals[name]
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(kind) as caught,
    ):
        client.embeddings.create(**{"model": EMBEDDER, "input": "a"} | arguments)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.request_id


def test_openai_does_not_ask_again_where_there_is_no_money(served):
    customer = new_customer(served, "0")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=customer.key) as client:
        assert client.max_retries == 2
        with pytest.raises(openai.APIStatusError):
            client.embeddings.create(model=EMBEDDER, input="a")
    assert [(row.status, row.cost) for row in customer.rows(served)] == [(402, 0)]


def test_openai_has_a_class_for_a_key_of_another_request(served):
    customer = new_customer(served, providers=(RACK,))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=customer.key, max_retries=0) as client:
        client.embeddings.create(model=EMBEDDER, input="a", extra_headers={"idempotency-key": "k"})
        with pytest.raises(openai.ConflictError):
            client.embeddings.create(model=EMBEDDER, input="b", extra_headers={"idempotency-key": "k"})
    assert customer.money(served).spent == 2 * PRICES[RACK]


# Cohere


@pytest.fixture
def cohere():
    return pytest.importorskip("cohere", reason="the cohere package is not installed (dependency group `clients`)")


@every_provider
def test_cohere_embeddings(served, cohere, customer, slug):
    expected = direct(input_type=InputType.DOCUMENT)
    kinds = ["float", "int8", "ubinary"]
    with cohere.ClientV2(api_key=customer.key, base_url=served.url) as client:
        reply = client.embed(model=EMBEDDER, texts=TEXTS, input_type="search_document", embedding_types=kinds)
    assert_same(reply.embeddings.float_, expected.vectors)
    for dtype in kinds[1:]:
        assert getattr(reply.embeddings, dtype) == quantise(expected.vectors, OutputDtype(dtype)).tolist()
    assert_billed(served, customer, slug, tokens_of(slug, TEXTS, expected))


@ours
def test_cohere_queries_and_lengths_reach_the_other_server(served, cohere, customer, slug):
    with cohere.ClientV2(api_key=customer.key, base_url=served.url) as client:
        reply = client.embed(model=EMBEDDER, texts=["a"], input_type="search_query", output_dimension=32)
        whole = client.embed(model=EMBEDDER, texts=["a", "word " * 600], input_type="search_document")
    expected = direct(["a"], input_type=InputType.QUERY, dimensions=32)
    assert_same(reply.embeddings.float_, expected.vectors)
    assert whole.truncated == [1]
    assert_billed(served, customer, slug, sum(expected.num_tokens) + 2 + 512, requests=2)


@every_reranker
@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_cohere_rerank(served, cohere, customer, slug, version):
    with getattr(cohere, version)(api_key=customer.key, base_url=served.url) as client:
        reply = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS)
    assert_ranked(reply.results)
    (row,) = customer.rows(served)
    assert_billed(served, customer, slug, row.tokens, documents=3)
    if slug != "tei":
        assert row.tokens == sum(direct_rank().num_tokens)


def assert_ranked(results):
    """The order and the scores of the reranker itself."""
    expected = direct_rank().results
    assert [row.index for row in results] == [row.index for row in expected] == [1, 2, 0]
    scores = [row.relevance_score for row in results]
    assert scores == pytest.approx([row.relevance_score for row in expected], rel=1e-12)


COHERE_ERRORS = {
    "no such key": ("UnauthorizedError", 401),
    "not with this key": ("ForbiddenError", 403),
    "no such model": ("NotFoundError", 404),
    "no money": (None, 402),
    "too many requests": ("TooManyRequestsError", 429),
    "all are paused": ("ServiceUnavailableError", 503),
}


@pytest.mark.parametrize("name", COHERE_ERRORS)
def test_cohere_errors_are_of_the_client_s_own_classes(served, cohere, refusals, name):
    from cohere.core.api_error import ApiError

    kind, status = COHERE_ERRORS[name]
    key, arguments = refusals[name]
    with (
        cohere.ClientV2(api_key=key, base_url=served.url) as client,
        pytest.raises(ApiError if kind is None else getattr(cohere, kind)) as caught,
    ):
        client.embed(
            **{"model": EMBEDDER, "texts": ["a"], "input_type": "search_query"} | arguments,
            request_options={"max_retries": 0},
        )
    assert caught.value.status_code == status
    message = caught.value.body["message"]
    assert message


# Voyage


@pytest.fixture
def voyage(served, customer):
    voyageai = pytest.importorskip("voyageai", reason="the voyageai package is not installed (group `clients`)")
    from voyageai.api_resources import api_requestor

    yield voyageai.Client(api_key=customer.key, base_url=f"{served.url}/v1", max_retries=0)
    api_requestor._thread_context.session.close()  # The package keeps it open for as long as the thread lives.


@every_provider
def test_voyage_embeddings(served, customer, voyage, slug):
    expected = direct(input_type=InputType.DOCUMENT)
    reply = voyage.embed(TEXTS, model=EMBEDDER, input_type="document")
    assert_same(reply.embeddings, expected.vectors)
    short = voyage.embed(TEXTS, model=EMBEDDER, output_dimension=32, output_dtype="int8")
    assert short.embeddings == quantise(direct(dimensions=32).vectors, OutputDtype.INT8).tolist()
    assert_billed(served, customer, slug, 2 * tokens_of(slug, TEXTS, expected), requests=2)


@every_reranker
def test_voyage_rerank(served, customer, voyage, slug):
    reply = voyage.rerank(QUERY, DOCUMENTS, model=RERANKER)
    assert_ranked(reply.results)
    assert [row.document for row in reply.results] == [DOCUMENTS[row.index] for row in reply.results]
    (row,) = customer.rows(served)
    assert_billed(served, customer, slug, row.tokens, documents=3)


VOYAGE_ERRORS = {
    "no such key": "AuthenticationError",
    "too many requests": "RateLimitError",
    "all are paused": "ServiceUnavailableError",
}


@pytest.mark.parametrize("slug", [RACK])
@pytest.mark.parametrize("name", VOYAGE_ERRORS)
def test_voyage_errors_are_of_the_client_s_own_classes(served, voyage, refusals, name):
    import voyageai

    key, arguments = refusals[name]
    client = voyageai.Client(api_key=key, base_url=f"{served.url}/v1", max_retries=0)
    with pytest.raises(getattr(voyageai.error, VOYAGE_ERRORS[name])):
        client.embed(**{"texts": ["a"], "model": EMBEDDER} | arguments)


# LangChain


@ours
def test_langchain_openai(served, customer, slug):
    langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=f"{served.url}/v1", api_key=customer.key, model=EMBEDDER, check_embedding_ctx_length=False
    )
    assert_same(embeddings.embed_documents(TEXTS), direct().vectors)
    assert_same(embeddings.embed_query(TEXTS[0]), direct(TEXTS[:1]).vectors[0])
    embeddings.client._client.close()
    asyncio.run(embeddings.async_client._client.close())
    assert_billed(served, customer, slug, sum(direct().num_tokens) + 4, requests=2)


COHERE_5 = Path(sys.prefix) / "langchain-cohere/bin/python"
"""An environment of its own: langchain-cohere holds the cohere package back at version 5."""


@pytest.mark.skipif(not COHERE_5.exists(), reason="langchain-cohere is not installed (`make check` does it)")
@pytest.mark.parametrize("slug", [RACK])
def test_langchain_cohere(served, customer, slug):
    code = f"""
import json
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
options = {{"cohere_api_key": {customer.key!r}, "base_url": {served.url!r}}}
embeddings = CohereEmbeddings(model={EMBEDDER!r}, **options)
reranker = CohereRerank(model={RERANKER!r}, **options, top_n=2)
ranked = reranker.compress_documents([Document(text) for text in {DOCUMENTS!r}], {QUERY!r})
print(json.dumps([
    embeddings.embed_documents({TEXTS!r}), embeddings.embed_query("a"), [document.page_content for document in ranked]
]))
"""
    done = subprocess.run([str(COHERE_5), "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documents, query, ranked = json.loads(done.stdout)
    written, asked = direct(input_type=InputType.DOCUMENT), direct(["a"], input_type=InputType.QUERY)
    assert_same(documents, written.vectors)
    assert_same(query, asked.vectors[0])
    assert ranked == [DOCUMENTS[1], DOCUMENTS[2]]
    tokens = sum(written.num_tokens) + sum(asked.num_tokens) + sum(direct_rank().num_tokens)
    assert_billed(served, customer, slug, tokens, documents=3, requests=3)


# Our own


class Waiting:
    """The asynchronous client, each call waited for."""

    def __init__(self, *arguments, **options):
        self._arguments, self._options = arguments, options

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        async def call(*arguments, **options):
            async with AsyncClient(*self._arguments, **self._options) as client:
                return await getattr(client, name)(*arguments, **options)

        return lambda *arguments, **options: run(call(*arguments, **options))


both = pytest.mark.parametrize("kind", [Client, Waiting])


@both
@every_provider
def test_our_client_embeds(served, customer, kind, slug):
    with kind(served.url, model=EMBEDDER, api_key=customer.key, texts_per_request=2) as client:
        result = client.embed(EmbeddingRequest(inputs=TEXTS, dimensions=32))
    expected = direct(dimensions=32)
    assert_same(result.vectors, expected.vectors)
    if slug != "tei":
        assert sum(result.num_tokens) == sum(expected.num_tokens)
    assert_billed(served, customer, slug, tokens_of(slug, TEXTS, expected), requests=2)


@both
@every_reranker
def test_our_client_ranks(served, customer, kind, slug):
    with kind(served.url, model=RERANKER, api_key=customer.key) as client:
        assert_ranked(client.rank(QUERY, DOCUMENTS))
    (row,) = customer.rows(served)
    assert_billed(served, customer, slug, row.tokens, documents=3)


@both
@ours
def test_our_client_s_options_reach_the_other_server(served, customer, kind, slug):
    with kind(served.url, api_key=customer.key) as client:
        queries = client.embed_queries(["a"], model=EMBEDDER, instruction="Find a", dimensions=40)
        (best,) = client.rank(QUERY, DOCUMENTS, model=RERANKER, instruction="Find it", top_n=1)
    expected = direct(["a"], instruction="Find a", dimensions=40)
    ranking = direct_rank(instruction="Find it", top_n=1)
    assert_same(queries, expected.vectors)
    assert (best.index, best.relevance_score) == (1, ranking.results[0].relevance_score)
    tokens = sum(expected.num_tokens) + sum(ranking.num_tokens)
    assert_billed(served, customer, slug, tokens, documents=3, requests=2)


@both
@pytest.mark.parametrize("slug", [RACK])
def test_our_client_lists_models(served, customer, kind):
    with kind(served.url, api_key=customer.key) as client:
        listed = client.models()
    assert [(model.name, model.kind.value) for model in listed] == [
        (EMBEDDER, "embedding"),
        (RERANKER, "reranker"),
        (PAUSED, "embedding"),
    ]


OUR_ERRORS = {
    "no such key": errors.AuthenticationError,
    "not with this key": errors.PermissionDeniedError,
    "no such model": errors.ModelNotFoundError,
    "bad dimensions": errors.InvalidDimensionsError,
    "no money": errors.InsufficientCreditError,
    "too many requests": errors.LimitExceededError,
    "all are paused": errors.UnavailableError,
}


@both
@pytest.mark.parametrize("name", OUR_ERRORS)
def test_our_client_s_errors_are_those_of_the_gateway(served, refusals, kind, name):
    key, arguments = refusals[name]
    model = arguments.get("model", EMBEDDER)
    once = RetryPolicy(max_attempts=1)
    with kind(served.url, api_key=key, retry=once) as client, pytest.raises(errors.QuernelError) as caught:
        client.embed(EmbeddingRequest(inputs=["a"], dimensions=arguments.get("dimensions")), model=model)
    assert type(caught.value) is OUR_ERRORS[name]


def test_our_client_tells_a_request_that_nobody_fits(served):
    customer = new_customer(served, zdr=True)
    with Client(served.url, api_key=customer.key) as client, pytest.raises(errors.NoRouteError) as caught:
        client.embed_documents(["a"], model=EMBEDDER)
    assert "zero data retention" in caught.value.message
