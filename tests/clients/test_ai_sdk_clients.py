"""Vercel's AI SDK, majors 5, 6 and 7, against the gateway protocol: the published packages, not our idea of them."""

import asyncio
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from quernel.protocols.ai_gateway import MOUNTS
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel
from quernel.types import EmbeddingRequest, InputType
from tests.clients.ai_sdk import app

FOLDER = Path(__file__).parent / "ai_sdk"
MAJORS = (5, 6, 7)
PATHS = dict(zip(MAJORS, MOUNTS, strict=True))
"""The path of each major's `baseURL`."""

BACKOFF_MS = 2000
"""What a client waits for before its second attempt, unless it is told a time."""

WITH_WARNINGS = pytest.mark.parametrize("major", [6, 7])
"""Version 2 of the protocol has neither warnings nor reranking."""

ALL = pytest.mark.parametrize("major", MAJORS)


@dataclass(frozen=True)
class Gateway:
    """A gateway as these tests see it: to point them at another one, make this of it.

    Attributes:
        url: Its URL, without a path.
        key: A key that opens everything.
        embedding: An embedding model that it offers, of 64 dimensions at least.
        reranker: A reranker that it offers.
        refusals: What makes it refuse a call to embed, by the name of the refusal.
    """

    url: str
    key: str
    embedding: str
    reranker: str
    refusals: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def rehearsal():
    return app.Rehearsal()


@pytest.fixture(scope="module")
def gateway(rehearsal):
    with running(app.create_app(rehearsal)) as url:
        yield Gateway(
            url=url,
            key=app.OPEN,
            embedding=app.EMBEDDING,
            reranker=app.RERANKER,
            refusals={
                "no such key": {"apiKey": "key-wrong"},
                "no money": {"apiKey": app.SPENT},
                "not with this key": {"apiKey": app.DENIED},
                "no such model": {"model": "alibaba/none"},
                "bad option": {"providerOptions": {"gateway": {"order": "first"}}},
                "bad dimensions": {"providerOptions": {"gateway": {"dimensions": 3}}},
                "too large": {"value": "x" * (app.MAX_BODY_BYTES + 1)},
                "too many requests": {"apiKey": app.LIMITED},
                "not ready": {"model": app.COLD},
            },
        )


def ask(gateway, major, *calls):
    """What the client of a major makes of each call."""
    if shutil.which("node") is None or not (FOLDER / f"ai{major}/node_modules").is_dir():
        pytest.skip(f"Node or its packages are missing (npm ci --prefix tests/clients/ai_sdk/ai{major})")
    question = {"baseURL": gateway.url + PATHS[major], "apiKey": gateway.key, "calls": calls}
    done = subprocess.run(
        ["node", str(FOLDER / f"ai{major}/main.mjs")],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def answers(gateway, major, *calls):
    """The value that each call gave."""
    outcomes = ask(gateway, major, *calls)
    assert [outcome["error"] for outcome in outcomes if "error" in outcome] == []
    return [outcome["value"] for outcome in outcomes]


def vectors(texts, **options):
    """The vectors that the model behind the gateway gives."""
    model = FakeEmbeddingModel(app.EMBEDDING)
    return asyncio.run(model.embed(EmbeddingRequest(inputs=texts, **options))).vectors


METADATA = {"gateway": {"generationId": app.GENERATION, "cost": "0.0000012", "routing": {"finalProvider": "first"}}}


@ALL
def test_texts_become_the_models_vectors(gateway, major):
    texts = ["one two", "", "Zürich \u2028 🙂"]
    many, one, named = answers(
        gateway,
        major,
        {"call": "embedMany", "model": gateway.embedding, "values": texts},
        {"call": "embed", "model": gateway.embedding, "value": texts[0]},
        {"call": "embed", "model": gateway.embedding, "value": texts[0], "byName": True},
    )
    np.testing.assert_array_equal(np.array(many["embeddings"], np.float32), vectors(texts))
    np.testing.assert_array_equal(np.array(one["embedding"], np.float32), vectors(texts[:1])[0])
    assert named == one
    assert (many["usage"], one["usage"]) == ({"tokens": 7}, {"tokens": 3})
    assert many["providerMetadata"] == one["providerMetadata"] == METADATA
    assert many.get("warnings", []) == one.get("warnings", []) == []


@ALL
def test_a_long_list_is_cut_into_requests_and_put_together_in_order(gateway, major):
    texts = [f"text {index}" for index in range(2049)]
    (many,) = answers(gateway, major, {"call": "embedMany", "model": gateway.embedding, "values": texts})
    np.testing.assert_array_equal(np.array(many["embeddings"], np.float32), vectors(texts))
    assert many["usage"] == {"tokens": 3 * len(texts)}


@ALL
def test_options_reach_the_model(gateway, major):
    options = {"quernel": {"dimensions": 32, "inputType": "query"}, "gateway": {"order": ["second"]}}
    (one,) = answers(
        gateway, major, {"call": "embed", "model": gateway.embedding, "value": "a", "providerOptions": options}
    )
    expected = vectors(["a"], dimensions=32, input_type=InputType.QUERY)[0]
    np.testing.assert_array_equal(np.array(one["embedding"], np.float32), expected)
    assert one["providerMetadata"]["gateway"]["routing"] == {"finalProvider": "second"}


def test_dimensions_of_version_4_reach_the_model(gateway):
    one, many = ask(
        gateway,
        7,
        {"call": "embed", "model": gateway.embedding, "value": "a", "dimensions": 32},
        {"call": "embedMany", "model": gateway.embedding, "values": ["a"], "dimensions": 32},
    )
    assert len(one["value"]["embedding"]) == len(many["value"]["embeddings"][0]) == 32
    assert one["shown"] == many["shown"] == []


@WITH_WARNINGS
def test_warnings_reach_the_caller(gateway, major):
    options = {"alibaba": {"dimensions": 32}, "gateway": {"caching": "auto"}, "quernel": {"truncate": "end"}}
    value = "word " * 600
    call = {"call": "embed", "model": gateway.embedding, "value": value, "providerOptions": options}
    (outcome,) = ask(gateway, major, call)
    warnings = outcome["value"]["warnings"]
    kinds = ["other" if major == 6 else "deprecated", "unsupported", "other"]
    assert [warning["type"] for warning in warnings] == kinds
    assert "providerOptions.alibaba.dimensions" in json.dumps(warnings[0])
    assert warnings[1]["feature"] == "providerOptions.gateway.caching"
    assert "were cut" in warnings[2]["message"]
    assert outcome["shown"] == warnings


def test_a_reply_with_warnings_does_not_trouble_version_2(gateway):
    options = {"alibaba": {"dimensions": 32}, "gateway": {"caching": "auto"}}
    (one,) = answers(
        gateway, 5, {"call": "embed", "model": gateway.embedding, "value": "a", "providerOptions": options}
    )
    assert len(one["embedding"]) == 32


@WITH_WARNINGS
def test_documents_are_ordered(gateway, major):
    documents = ["bananas are yellow", "the capital of france is paris", "the capital"]
    call = {"call": "rerank", "model": gateway.reranker, "query": "capital of france", "documents": documents}
    whole, best = answers(gateway, major, call, call | {"topN": 1})
    assert [row["originalIndex"] for row in whole["ranking"]] == [1, 2, 0]
    assert [row["document"] for row in best["ranking"]] == best["rerankedDocuments"] == documents[1:2]
    scores = [row["score"] for row in whole["ranking"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert whole["providerMetadata"] == METADATA


@WITH_WARNINGS
def test_objects_are_ordered_by_their_json(gateway, rehearsal, major):
    documents = [{"title": "Zürich", "n": 1}, {"title": "capital", "n": [2.5, None]}]
    call = {"call": "rerank", "model": gateway.reranker, "query": '{"title":"capital","n":[2.5,null]}'}
    (outcome,) = ask(gateway, major, call | {"documents": documents})
    assert [row["originalIndex"] for row in outcome["value"]["ranking"]] == [1, 0]
    assert outcome["value"]["rerankedDocuments"] == documents[::-1]
    assert rehearsal.reranker.requests[-1].documents[0] == '{"title":"Zürich","n":1}'
    assert [warning["type"] for warning in outcome["shown"]] == ["compatibility"]


@ALL
def test_models_are_listed(gateway, major):
    (listed,) = answers(gateway, major, {"call": "getAvailableModels"})
    models = {model["id"]: model for model in listed["models"]}
    # The client of version 2 knows no rerankers, and leaves them out.
    assert set(models) == {gateway.embedding} | ({gateway.reranker} if major > 5 else set())
    embedding = models[gateway.embedding]
    assert (embedding["modelType"], embedding["specification"]["provider"]) == ("embedding", "alibaba")
    assert embedding["pricing"] == {"input": "0.00000001", "output": "0"}


@ALL
def test_an_account_is_looked_up(gateway, major):
    funds, generation, report = answers(
        gateway,
        major,
        {"call": "getCredits"},
        {"call": "getGenerationInfo", "id": app.GENERATION},
        {
            "call": "getSpendReport",
            "startDate": "2026-11-01",
            "endDate": "2026-11-30",
            "groupBy": "tag",
            "userId": "u",
            "model": "m/n",
            "tags": ["a", "b"],
        },
    )
    assert funds == {"balance": "95.50", "totalUsed": "4.50"}
    assert generation == {
        "id": app.GENERATION,
        "model": app.EMBEDDING,
        "providerName": "first",
        "createdAt": "2026-11-02T00:00:00.000Z",
        "totalCost": 0.0000012,
        "upstreamInferenceCost": 0,
        "usage": 0.0000012,
        "isByok": False,
        "streamed": False,
        "finishReason": "stop",
        "latency": 12,
        "generationTime": 20,
        "promptTokens": 120,
        "completionTokens": 0,
        "reasoningTokens": 0,
        "cachedTokens": 0,
        "cacheCreationTokens": 0,
        "billableWebSearchCalls": 0,
    }
    assert report == {
        "results": [
            {
                "tag": "2026-11-01 2026-11-30 u m/n a b",
                "totalCost": 1.25,
                "marketCost": 1.5,
                "inputTokens": 1000,
                "cachedInputTokens": 0,
                "requestCount": 3,
            }
        ]
    }


@ALL
def test_a_generation_that_is_not_there_is_not_found(gateway, major):
    (outcome,) = ask(gateway, major, {"call": "getGenerationInfo", "id": "gen_none"})
    # Before version 4 there was no class for it.
    name = "GatewayNotFoundError" if major == 7 else "GatewayInternalServerError"
    assert (outcome["error"]["name"], outcome["error"]["statusCode"]) == (name, 404)


REFUSALS = {
    "no such key": ("GatewayAuthenticationError", 401, "Invalid API key", False),
    "no money": ("GatewayInternalServerError", 402, "The balance is $0.00. Add money to the account.", False),
    "not with this key": ("GatewayForbiddenError", 403, "This key may not use the model.", False),
    "no such model": ("GatewayModelNotFoundError", 404, "The model 'alibaba/none' is not offered.", False),
    "bad option": ("GatewayInvalidRequestError", 400, "providerOptions.gateway.order: expected `array", False),
    "bad dimensions": ("GatewayInvalidRequestError", 400, "dimensions is 3", False),
    "too large": ("GatewayInvalidRequestError", 413, "The body has", False),
    "too many requests": ("GatewayRateLimitError", 429, "60 requests a minute", True),
    "not ready": ("GatewayInternalServerError", 503, "The model is being loaded.", True),
}
"""Name of a refusal: class of the client's error, its status, part of its message, whether the client tries again."""


@pytest.fixture(scope="module", params=MAJORS)
def refused(request, gateway):
    """Each refusal as the client of a major tells it, all of them asked for in one process."""
    call = {"call": "embed", "model": gateway.embedding, "value": "a", "maxRetries": 0}
    outcomes = ask(gateway, request.param, *(call | gateway.refusals[name] for name in REFUSALS))
    return dict(zip(REFUSALS, outcomes, strict=True))


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_told_by_its_class(refused, name):
    kind, status, message, retried = REFUSALS[name]
    error = refused[name]["error"]
    assert (error["name"], error["statusCode"], error["isRetryable"]) == (kind, status, retried)
    assert message in error["message"]


def test_a_refusal_names_the_model_or_the_rule(refused):
    assert refused["no such model"]["error"]["modelId"] == "alibaba/none"
    assert refused["not with this key"]["error"]["ruleId"] == "models-of-key"


@ALL
def test_the_time_to_wait_before_the_next_attempt_is_obeyed(gateway, major):
    call = {"call": "embed", "model": gateway.embedding, "value": "a"}
    busy, limited = ask(gateway, major, call | {"apiKey": app.BUSY}, call | {"apiKey": app.LIMITED})
    assert len(busy["value"]["embedding"]) == 64
    assert app.RETRY_AFTER_MS <= busy["milliseconds"] < BACKOFF_MS
    assert (limited["error"]["name"], limited["error"]["attempts"]) == ("GatewayRateLimitError", 3)
    assert 2 * app.RETRY_AFTER_MS <= limited["milliseconds"] < BACKOFF_MS


@ALL
def test_an_account_without_money_is_not_asked_again(gateway, rehearsal, major):
    before = rehearsal.attempts
    (outcome,) = ask(gateway, major, {"call": "embed", "model": gateway.embedding, "value": "a", "apiKey": app.SPENT})
    assert (outcome["error"]["statusCode"], outcome["error"]["attempts"]) == (402, 1)
    assert rehearsal.attempts == before + 1
