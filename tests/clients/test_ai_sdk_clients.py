"""Vercel's AI SDK, majors 5, 6 and 7, against the gateway: the published packages, not our idea of them."""

import asyncio
import itertools
import json
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from quernel.gateway import ids, service, usage
from quernel.gateway.accounts import list_accounts
from quernel.gateway.app import create_gateway_app
from quernel.gateway.config import GatewayConfig
from quernel.gateway.keys import Scope
from quernel.gateway.limits import MINUTE_MS, Limit, Period
from quernel.gateway.money import format_dollars, parse_dollars
from quernel.gateway.opening import Tables, open_gateway
from quernel.protocols.ai_gateway import MOUNTS
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel
from quernel.types import EmbeddingRequest, InputType
from tests.support import chats
from tests.support.canaries import no_canaries
from tests.support.customers import new_customer
from tests.support.gateway import CATALOGUE, EMBEDDER, RERANKER, Served, offer
from tests.support.provider import provider, rate_limited

FOLDER = Path(__file__).parent / "ai_sdk"
MAJORS = (5, 6, 7)
PATHS = dict(zip(MAJORS, MOUNTS, strict=True))
"""The path of each major's `baseURL`."""

BACKOFF_MS = 2000
"""What a client waits for before its second attempt, unless it is told a time."""

SECONDS = 60
"""The longest that a client is waited for."""

MAX_TEXTS = 2048
"""Texts that a client puts into one request."""

MAX_BODY_BYTES = 200_000

PAUSED = "fake/paused"
"""A model whose only provider is paused."""

PICOS = {"first": 10_000_000, "second": 20_000_000}
"""Price of a token."""

ENVIRONMENT = {"FIRST_KEY": "sk-first", "SECOND_KEY": "sk-second"}

SINCE_6 = pytest.mark.parametrize("major", [6, 7])
"""Version 2 of the protocol has neither warnings nor reranking, nor do its errors name generations."""

ALL = pytest.mark.parametrize("major", MAJORS)


class Node:
    """The client of each major, in a process of its own that is started when it is first asked.

    Args:
        log: Where they write what is amiss.
    """

    def __init__(self, log):
        self._log = log
        self._started = {}

    def ask(self, major, question):
        """The answer of a major's client."""
        process = self._started.get(major) or self._start(major)
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        finally:
            timer.cancel()
        assert line, self._log.read_text(encoding="utf-8")
        return json.loads(line)

    def close(self):
        """End them; nothing was amiss."""
        for process in self._started.values():
            with process:
                process.stdin.close()
                assert process.wait(SECONDS) == 0
        assert not self._started or self._log.read_text(encoding="utf-8") == ""

    def _start(self, major):
        if shutil.which("node") is None or not (FOLDER / f"ai{major}/node_modules").is_dir():
            pytest.skip(f"Node or its packages are missing (npm ci --prefix tests/clients/ai_sdk/ai{major})")
        with self._log.open("ab") as log:
            self._started[major] = subprocess.Popen(
                ["node", str(FOLDER / f"ai{major}/main.mjs")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        return self._started[major]


@dataclass(frozen=True)
class Gateway(Served):
    """A gateway, and the clients that ask it.

    Attributes:
        node: The clients.
    """

    node: Node


class TokenIssuer:
    """An issuer of OIDC tokens on this machine.

    Attributes:
        url: Its address.
        keys: What it signs with, and what another signs with in its name.
    """

    def __init__(self):
        self.own, self.forged = (ECKey.generate_key("P-256", {"kid": "k1"}) for _ in range(2))
        self.url = ""

    def app(self):
        document = {"keys": [self.own.as_dict(private=False)]}
        return Starlette(routes=[Route("/keys", lambda request: JSONResponse(document))])

    def table(self):
        """Of the gateway's configuration."""
        return {
            "name": "deployments",
            "issuer": self.url,
            "jwks_url": f"{self.url}/keys",
            "algorithms": "ES256",
            "audience": "https://vercel.com/acme",
            "required_claims": {"owner": ["acme"]},
            "account": "{owner}",
            "user": "{user_id}",
            "tags": ["environment:{environment}"],
            "scopes": [Scope.INFER, Scope.READ],
            "auto_provision": True,
        }

    def token(self, *, key=None, **changes):
        """A token as a deployment has it."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": "owner:acme:project:search", "aud": "https://vercel.com/acme"}
        claims |= {"owner": "acme", "environment": "production", "user_id": "ada"}
        claims |= {"iat": now, "nbf": now, "exp": now + 3600} | changes
        return jwt.encode({"alg": "ES256", "kid": "k1"}, claims, key or self.own)


@pytest.fixture(scope="module")
def issuer():
    issuer = TokenIssuer()
    with running(issuer.app()) as url:
        issuer.url = url
        yield issuer


@pytest.fixture(scope="module")
def providers():
    """The cheap one, and one that keeps nothing and takes customers' keys."""
    with provider("quernel") as first, provider("quernel") as second:
        yield {"first": first, "second": second}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, issuer, providers):
    """A gateway that takes small bodies, with a model that nobody can serve now."""
    both = (EMBEDDER, RERANKER)
    with ExitStack() as stack:
        stack.enter_context(no_canaries())
        busy = stack.enter_context(provider("openai", [rate_limited(100)]))
        talker = stack.enter_context(provider("openai", itertools.repeat(chats.whole("Hello."))))
        first, second = (providers[slug].url for slug in ("first", "second"))
        tables = Tables(
            providers=(
                offer("first", first, format="quernel", price="10", models=both, api_key="env:FIRST_KEY"),
                offer(
                    "second",
                    second,
                    format="quernel",
                    price="20",
                    models=both,
                    api_key="env:SECOND_KEY",
                    zdr=True,
                    byok=True,
                ),
                offer("busy", busy.url, models=(PAUSED,)),
                chats.offer("talker", talker.url),
            ),
            catalogue=(*CATALOGUE, CATALOGUE[0] | {"name": PAUSED}, *chats.CATALOGUE),
            issuers=[issuer.table()],
        )
        file = tmp_path_factory.mktemp("gateway") / "gateway.db"
        parts = open_gateway(
            GatewayConfig(welcome_usd="100"), database=f"sqlite:///{file}", tables=tables, environment=ENVIRONMENT
        )
        config = ServerConfig(port=0, shutdown_grace_seconds=1, access_log=False, max_body_bytes=MAX_BODY_BYTES)
        url = stack.enter_context(running(create_gateway_app(parts, config=config), config))
        headers = {"authorization": f"Bearer {parts.first_key}"}
        http = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=30))
        node = Node(tmp_path_factory.mktemp("node") / "log")
        stack.callback(node.close)
        served = Gateway(url, parts.first_key, parts, http, node)
        assert served.embed("a", model=PAUSED).status_code == 429
        yield served


def ask(gateway, major, *calls, key=None):
    """What the client of a major makes of each call."""
    return gateway.node.ask(
        major, {"baseURL": gateway.url + PATHS[major], "apiKey": key or gateway.key, "calls": calls}
    )


def answers(gateway, major, *calls, key=None):
    """The value that each call gave."""
    outcomes = ask(gateway, major, *calls, key=key)
    assert [outcome["error"] for outcome in outcomes if "error" in outcome] == []
    return [outcome["value"] for outcome in outcomes]


def embed(value="a", **more):
    return {"call": "embed", "model": EMBEDDER, "value": value, **more}


def routed(value="a", **options):
    """A call with options under `gateway`."""
    return embed(value, providerOptions={"gateway": options})


def vectors(texts, **options):
    """The vectors that the model behind the gateway gives."""
    model = FakeEmbeddingModel(EMBEDDER)
    return asyncio.run(model.embed(EmbeddingRequest(inputs=texts, **options))).vectors


def assert_same(embeddings, expected):
    np.testing.assert_array_equal(np.array(embeddings, np.float32), expected)


def told_of(value):
    """What a reply says of how it was answered."""
    return value["providerMetadata"]["gateway"]


def row_of(gateway, value):
    """The row of an answer in the books, which must say what the answer does."""
    told = told_of(value)
    row = gateway.read(lambda connection: usage.find_usage(connection, told["generationId"]))
    assert (told["cost"], told["routing"]["provider"]) == (format_dollars(row.cost), row.provider)
    assert (told["marketCost"], told["routing"]["byok"]) == (format_dollars(row.upstream_cost), row.byok)
    assert [one["provider"] for one in told["routing"]["attempts"]] == [one["provider"] for one in row.attempts]
    return row


# Embedding and reranking


@ALL
def test_texts_become_the_models_vectors(gateway, major):
    texts = ["one two", "", "Zürich \u2028 🙂"]
    many, one, named = answers(
        gateway,
        major,
        {"call": "embedMany", "model": EMBEDDER, "values": texts},
        embed(texts[0]),
        embed(texts[0], byName=True),
    )
    assert_same(many["embeddings"], vectors(texts))
    assert_same(one["embedding"], vectors(texts[:1])[0])
    assert (named["embedding"], named["usage"]) == (one["embedding"], one["usage"])
    assert (many["usage"], one["usage"]) == ({"tokens": 7}, {"tokens": 3})
    assert many.get("warnings", []) == one.get("warnings", []) == []
    for value, tokens in ((many, 7), (one, 3), (named, 3)):
        row = row_of(gateway, value)
        assert (row.tokens, row.cost, row.provider) == (tokens, tokens * PICOS["first"], "first")
        assert told_of(value)["routing"]["planned"] == ["first", "second"]


@ALL
def test_a_long_list_is_cut_into_requests_and_put_together_in_order(gateway, major):
    customer = new_customer(gateway)
    texts = [f"text {index}" for index in range(MAX_TEXTS + 1)]
    (many,) = answers(gateway, major, {"call": "embedMany", "model": EMBEDDER, "values": texts}, key=customer.key)
    assert_same(many["embeddings"], vectors(texts))
    assert many["usage"] == {"tokens": 3 * len(texts)}
    rows = customer.rows(gateway)
    assert sorted(row.items for row in rows) == [1, MAX_TEXTS]
    assert sum(row.cost for row in rows) == customer.money(gateway).spent == 3 * len(texts) * PICOS["first"]


@cache
def many_vectors(count):
    return vectors([f"text {index}" for index in range(count)], dimensions=32)


@ALL
def test_five_requests_at_once_are_put_together_in_order(gateway, major):
    customer = new_customer(gateway, "5")
    count = 4 * MAX_TEXTS + 1
    texts = [f"text {index}" for index in range(count)]
    options = {"quernel": {"dimensions": 32}}
    call = {"call": "embedMany", "model": EMBEDDER, "values": texts, "providerOptions": options, "maxParallelCalls": 5}
    (many,) = answers(gateway, major, call, key=customer.key)
    assert_same(many["embeddings"], many_vectors(count))
    assert many["usage"] == {"tokens": 3 * count}
    rows, money = customer.rows(gateway), customer.money(gateway)
    assert sorted(row.items for row in rows) == [1, *[MAX_TEXTS] * 4]
    assert (money.held, money.spent) == (0, 3 * count * PICOS["first"])


def test_dimensions_of_version_4_reach_the_model(gateway):
    one, many = ask(
        gateway,
        7,
        embed(dimensions=32),
        {"call": "embedMany", "model": EMBEDDER, "values": ["a"], "dimensions": 32},
    )
    expected = vectors(["a"], dimensions=32)
    assert_same(one["value"]["embedding"], expected[0])
    assert_same(many["value"]["embeddings"], expected)
    assert one["shown"] == many["shown"] == []


@SINCE_6
def test_warnings_reach_the_caller(gateway, major):
    options = {"alibaba": {"dimensions": 32}, "gateway": {"caching": "auto"}, "quernel": {"truncate": "end"}}
    (outcome,) = ask(gateway, major, embed("word " * 600, providerOptions=options))
    warnings = outcome["value"]["warnings"]
    kinds = ["other" if major == 6 else "deprecated", "unsupported", "other"]
    assert [warning["type"] for warning in warnings] == kinds
    assert "providerOptions.alibaba.dimensions" in json.dumps(warnings[0])
    assert warnings[1]["feature"] == "providerOptions.gateway.caching"
    assert "were cut" in warnings[2]["message"]
    assert outcome["shown"] == warnings


def test_a_reply_with_warnings_does_not_trouble_version_2(gateway):
    options = {"alibaba": {"dimensions": 32}, "gateway": {"caching": "auto"}}
    (one,) = answers(gateway, 5, embed(providerOptions=options))
    assert len(one["embedding"]) == 32


@SINCE_6
def test_documents_are_ordered(gateway, major):
    documents = ["bananas are yellow", "the capital of france is paris", "the capital"]
    call = {"call": "rerank", "model": RERANKER, "query": "capital of france", "documents": documents}
    whole, best = answers(gateway, major, call, call | {"topN": 1})
    assert [row["originalIndex"] for row in whole["ranking"]] == [1, 2, 0]
    assert [row["document"] for row in best["ranking"]] == best["rerankedDocuments"] == documents[1:2]
    scores = [row["score"] for row in whole["ranking"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    row = row_of(gateway, whole)
    assert (row.operation, row.documents) == ("rerank", 3)
    assert row.cost == 3 * parse_dollars("10", place="price", unit=1000) + row.tokens * PICOS["first"]


@SINCE_6
def test_objects_are_ordered_by_their_json(gateway, providers, major):
    documents = [{"title": "Zürich", "n": 1}, {"title": "capital", "n": [2.5, None]}]
    call = {"call": "rerank", "model": RERANKER, "query": '{"title":"capital","n":[2.5,null]}'}
    (outcome,) = ask(gateway, major, call | {"documents": documents})
    assert [row["originalIndex"] for row in outcome["value"]["ranking"]] == [1, 0]
    assert outcome["value"]["rerankedDocuments"] == documents[::-1]
    assert providers["first"].requests[-1].json["documents"][0] == '{"title":"Zürich","n":1}'
    assert [warning["type"] for warning in outcome["shown"]] == ["compatibility"]


# Options


@ALL
def test_options_reach_the_model(gateway, major):
    options = {"quernel": {"dimensions": 32, "inputType": "query"}}
    (one,) = answers(gateway, major, embed(providerOptions=options))
    assert_same(one["embedding"], vectors(["a"], dimensions=32, input_type=InputType.QUERY)[0])


@ALL
def test_options_choose_the_provider(gateway, major):
    order, only, slow, private = answers(
        gateway,
        major,
        routed(order=["second"]),
        routed(only=["second"]),
        routed(sort="ttft"),
        routed(zeroDataRetention=True),
    )
    for value in (order, only, private):
        row = row_of(gateway, value)
        assert (row.provider, row.cost) == ("second", 2 * PICOS["second"])
    assert told_of(order)["routing"]["planned"] == ["second", "first"]
    assert told_of(only)["routing"]["leftOut"] == {"first": "it is not in `only`"}
    assert told_of(private)["routing"]["leftOut"] == {"first": "it does not promise zero data retention"}
    assert told_of(slow)["routing"]["sort"] == "latency"


@ALL
def test_another_model_answers_where_the_first_cannot(gateway, major):
    (one,) = answers(gateway, major, routed(models=[EMBEDDER]) | {"model": PAUSED})
    assert_same(one["embedding"], vectors(["a"])[0])
    assert told_of(one)["routing"]["model"] == row_of(gateway, one).model == EMBEDDER


@ALL
def test_user_and_tags_reach_the_books(gateway, major):
    (one,) = answers(gateway, major, routed(user="ada", tags=["search", "beta"]))
    row = row_of(gateway, one)
    assert (row.user, row.tags, row.credential) == ("ada", "beta,search", "system")


@ALL
def test_a_key_of_the_customer_is_used_and_charged_nothing(gateway, providers, major):
    customer = new_customer(gateway, "0", scopes=frozenset({Scope.INFER}))
    call = routed(byok={"second": [{"apiKey": f"sk-customer-{major}"}]})
    info = {"call": "getGenerationInfo", "generationOf": 0}
    one, funds, info = answers(gateway, major, call, {"call": "getCredits"}, info, key=customer.key)
    assert funds == {"balance": "0.00", "totalUsed": "0.00"}
    assert providers["second"].requests[-1].headers["authorization"] == f"Bearer sk-customer-{major}"
    row = row_of(gateway, one)
    assert (row.provider, row.byok, row.credential) == ("second", True, "byok")
    assert (row.cost, row.upstream_cost) == (0, 2 * PICOS["second"])
    market = float(format_dollars(row.upstream_cost))
    assert (info["isByok"], info["totalCost"], info["upstreamInferenceCost"]) == (True, 0, market)


# What a client looks up


@ALL
def test_models_are_listed(gateway, major):
    (listed,) = answers(gateway, major, {"call": "getAvailableModels"})
    models = {model["id"]: model for model in listed["models"]}
    # The client of version 2 knows no rerankers, and leaves them out. Chat models are not asked by this protocol.
    assert set(models) == {EMBEDDER, PAUSED} | ({RERANKER} if major > 5 else set())
    embedding = models[EMBEDDER]
    version = {5: "v2", 6: "v3", 7: "v4"}[major]
    assert embedding["modelType"] == "embedding"
    assert embedding["specification"] == {
        "specificationVersion": version,
        "provider": "fake",
        "modelId": EMBEDDER,
    }
    assert {name: parse_dollars(price, place=name) for name, price in embedding["pricing"].items()} == {
        "input": PICOS["first"],
        "output": 0,
    }
    assert all(model["modelType"] == "reranking" for name, model in models.items() if name == RERANKER)


@ALL
def test_credits_are_those_of_the_books(gateway, major):
    customer = new_customer(gateway, "95.5")
    _, funds = answers(gateway, major, embed("one two"), {"call": "getCredits"}, key=customer.key)
    money = customer.money(gateway)
    assert money.spent == 3 * PICOS["first"]
    assert funds == {"balance": format_dollars(money.balance), "totalUsed": format_dollars(money.spent)}


@ALL
def test_a_generation_is_told_as_the_books_have_it(gateway, major):
    customer = new_customer(gateway)
    info = {"call": "getGenerationInfo", "generationOf": 0}
    one, info = answers(gateway, major, embed("one two"), info, key=customer.key)
    row = row_of(gateway, one)
    cost = float(format_dollars(row.cost))
    assert info | {"marketCost": cost, "gatewayCost": cost} == {
        "id": row.id,
        "model": EMBEDDER,
        "providerName": "first",
        "createdAt": f"{moment_of(row):%Y-%m-%dT%H:%M:%S}.{row.time % 1000:03}Z",
        "totalCost": cost,
        "marketCost": cost,
        "gatewayCost": cost,
        "upstreamInferenceCost": 0,
        "usage": cost,
        "isByok": False,
        "streamed": False,
        "finishReason": "stop",
        "latency": pytest.approx(row.upstream_milliseconds, abs=0.001),
        "generationTime": pytest.approx(row.milliseconds, abs=0.001),
        "promptTokens": 3,
        "completionTokens": 0,
        "reasoningTokens": 0,
        "cachedTokens": 0,
        "cacheCreationTokens": 0,
        "billableWebSearchCalls": 0,
    }


@ALL
def test_a_generation_that_is_not_there_is_not_found(gateway, major):
    stranger = new_customer(gateway)
    lookups = [
        {"call": "getGenerationInfo", "id": "gen_none"},
        {"call": "getGenerationInfo", "generationOf": 0, "apiKey": stranger.key},
    ]
    for outcome in ask(gateway, major, embed(), *lookups)[1:]:
        # Before version 4 there was no class for it.
        name = "GatewayNotFoundError" if major == 7 else "GatewayInternalServerError"
        assert (outcome["error"]["name"], outcome["error"]["statusCode"]) == (name, 404)


@ALL
def test_reports_are_those_of_the_books(gateway, major):
    customer = new_customer(gateway, scopes=frozenset({Scope.INFER, Scope.READ}))
    yesterday, tomorrow = (datetime.now(UTC) + timedelta(days) for days in (-1, 1))
    span = {"call": "getSpendReport", "startDate": f"{yesterday:%Y-%m-%d}", "endDate": f"{tomorrow:%Y-%m-%d}"}
    outcomes = answers(
        gateway,
        major,
        routed(user="ada", tags=["a", "b"]),
        routed("one two", user="ada", tags=["b"]),
        routed("one", user="bob", order=["second"]),
        routed("gone", byok={"second": [{"apiKey": "sk-own"}]}, tags=["a"]),
        *([{"call": "rerank", "model": RERANKER, "query": "a", "documents": ["a", "b"]}] if major > 5 else []),
        *(span | {"groupBy": by} for by in GROUPS),
        span | {"groupBy": "model", "userId": "ada", "model": EMBEDDER, "tags": ["a", "none"]},
        span | {"groupBy": "provider", "credentialType": "byok"},
        span | {"groupBy": "day", "datePart": "hour"},
        key=customer.key,
    )
    rows, reports = customer.rows(gateway), [value["results"] for value in outcomes if "results" in value]
    assert len(rows) == 4 + (major > 5)
    for (by, groups_of), told in zip(GROUPS.items(), reports, strict=False):
        name = "credentialType" if by == "credential_type" else by
        assert {row[name]: row for row in told} == expected_report(rows, name, groups_of)
    narrow, by_credential, hourly = reports[len(GROUPS) :]
    assert [(row["model"], row["requestCount"]) for row in narrow] == [(EMBEDDER, 1)]
    assert [(row["provider"], row["totalCost"]) for row in by_credential] == [("second", 0)]
    assert sum(row["requestCount"] for row in hourly) == len(rows)
    assert {row["hour"] for row in hourly} == {f"{moment_of(row):%Y-%m-%dT%H:00Z}" for row in rows}


def moment_of(row):
    return datetime.fromtimestamp(row.time / 1000, UTC)


GROUPS = {
    "day": lambda row: [f"{moment_of(row):%Y-%m-%d}"],
    "user": lambda row: [row.user],
    "model": lambda row: [row.model],
    "tag": lambda row: row.tags.split(","),
    "provider": lambda row: [row.provider],
    "credential_type": lambda row: [row.credential],
}
"""What a report is grouped by, to the groups of a row."""


def expected_report(rows, name, groups_of):
    """The lines of a report by the rows themselves."""
    sums = defaultdict(lambda: [0, 0, 0, 0])
    for row in rows:
        for group in groups_of(row):
            for place, amount in enumerate((row.cost, row.upstream_cost, row.tokens, 1)):
                sums[group][place] += amount
    return {
        group: {
            name: group,
            "totalCost": float(format_dollars(cost)),
            "marketCost": float(format_dollars(market)),
            "inputTokens": tokens,
            "cachedInputTokens": 0,
            "requestCount": count,
        }
        for group, (cost, market, tokens, count) in sums.items()
    }


@ALL
def test_what_a_chat_model_wrote_is_told_too(gateway, major):
    customer = new_customer(gateway, scopes=frozenset({Scope.INFER, Scope.READ}))
    with customer.client(gateway) as client:
        body = {"model": chats.CHAT, "messages": [{"role": "user", "content": "Say hello."}]}
        reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    (row,) = customer.rows(gateway)
    today = f"{moment_of(row):%Y-%m-%d}"
    info, report = answers(
        gateway,
        major,
        {"call": "getGenerationInfo", "id": row.id},
        {"call": "getSpendReport", "startDate": today, "endDate": today, "groupBy": "model"},
        key=customer.key,
    )
    assert (info["promptTokens"], info["completionTokens"]) == (row.tokens, row.output_tokens) == (11, 7)
    (line,) = report["results"]
    assert (line["model"], line["inputTokens"], line["outputTokens"]) == (chats.CHAT, 11, 7)
    assert line["totalCost"] == info["totalCost"] == float(format_dollars(row.cost))


# Refusals

INVALID, INTERNAL = "GatewayInvalidRequestError", "GatewayInternalServerError"
FORBIDDEN, UNKNOWN = "GatewayForbiddenError", "GatewayModelNotFoundError"

REFUSALS = {
    "no such key": ("GatewayAuthenticationError", 401, "Invalid API key", False),
    "no money": (INTERNAL, 402, "the account has $0.00 available", False),
    "not with this key": (FORBIDDEN, 403, "lacks the scope 'infer'", False),
    "not this model": (FORBIDDEN, 403, f"may not ask {EMBEDDER}", False),
    "no such model": (UNKNOWN, 404, "The model 'alibaba/none' is not served here.", False),
    "a model of another kind": (UNKNOWN, 404, "Send it to its own route.", False),
    "bad option": (INVALID, 400, "providerOptions.gateway.order: expected `array", False),
    "bad dimensions": (INVALID, 400, "dimensions is 3", False),
    "too large": (INVALID, 413, f"larger than {MAX_BODY_BYTES} bytes", False),
    "no provider fits": (INVALID, 400, "first: it does not promise zero data retention", False),
    "too many requests": ("GatewayRateLimitError", 429, "This key may use 0 requests a minute", True),
    "all are paused": (INTERNAL, 503, "busy: it is paused after failures", True),
}
"""Name of a refusal: class of the client's error, its status, part of its message, whether the client tries again."""

FILED = {"no money", "no provider fits", "too many requests", "all are paused"}
"""Refusals that are written down; of the others it is not known what was asked, or whether its caller may."""


@pytest.fixture(scope="module")
def refusals(gateway):
    """What makes the gateway refuse a call to embed."""
    none = (Limit(period=Period.MINUTE, requests=0),)
    return {
        "no such key": {"apiKey": "key-wrong"},
        "no money": {"apiKey": new_customer(gateway, "0").key},
        "not with this key": {"apiKey": new_customer(gateway, scopes=frozenset({Scope.READ})).key},
        "not this model": {"apiKey": new_customer(gateway, models=(RERANKER,)).key},
        "no such model": {"model": "alibaba/none"},
        "a model of another kind": {"model": RERANKER},
        "bad option": {"providerOptions": {"gateway": {"order": "first"}}},
        "bad dimensions": {"providerOptions": {"quernel": {"dimensions": 3}}},
        "too large": {"value": "x" * (MAX_BODY_BYTES + 1)},
        "no provider fits": {"providerOptions": {"gateway": {"only": ["first"], "zeroDataRetention": True}}},
        "too many requests": {"apiKey": new_customer(gateway, limits=none).key},
        "all are paused": {"model": PAUSED},
    }


@pytest.fixture(scope="module", params=MAJORS)
def refused(request, gateway, refusals):
    """Each refusal as the client of a major tells it, all of them asked for in one process."""
    calls = [embed(maxRetries=0) | refusals[name] for name in REFUSALS]
    return dict(zip(REFUSALS, ask(gateway, request.param, *calls), strict=True))


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_told_by_its_class(refused, name):
    kind, status, message, retried = REFUSALS[name]
    error = refused[name]["error"]
    assert (error["name"], error["statusCode"], error["isRetryable"]) == (kind, status, retried)
    assert message in error["message"]


def test_an_unknown_model_is_named(refused):
    assert refused["no such model"]["error"]["modelId"] == "alibaba/none"
    assert refused["a model of another kind"]["error"]["modelId"] == RERANKER


def test_the_rule_that_a_model_is_refused_by_is_named(refused):
    assert refused["not this model"]["error"]["ruleId"] == "key.models"


@SINCE_6
def test_an_error_names_the_generation_that_it_is_written_down_as(gateway, refusals, major):
    outcomes = ask(gateway, major, *(embed(maxRetries=0) | refusals[name] for name in REFUSALS))
    named = {name: outcome["error"].get("generationId") for name, outcome in zip(REFUSALS, outcomes, strict=True)}
    assert {name for name, generation in named.items() if generation} == FILED
    for name in FILED:
        key = refusals[name].get("apiKey")
        (info,) = answers(gateway, major, {"call": "getGenerationInfo", "id": named[name]}, key=key)
        assert (info["id"], info["finishReason"], info["totalCost"]) == (named[name], "error", 0)


@ALL
def test_the_unknown_one_of_several_models_is_named(gateway, major):
    (outcome,) = ask(gateway, major, routed(models=["fake/none"]) | {"model": PAUSED})
    assert (outcome["error"]["name"], outcome["error"]["modelId"]) == (UNKNOWN, "fake/none")


@ALL
def test_a_report_needs_a_key_that_may_read(gateway, major):
    call = {"call": "getSpendReport", "startDate": "2026-11-01", "endDate": "2026-11-30"}
    (outcome,) = ask(gateway, major, call, key=new_customer(gateway).key)
    assert (outcome["error"]["name"], outcome["error"]["statusCode"]) == (FORBIDDEN, 403)


class MinuteClock:
    """Milliseconds since 1970, which stand a while before the end of a minute until they are first read."""

    def __init__(self, left_ms):
        self.start, self.first = ids.now_ms() // MINUTE_MS * MINUTE_MS + MINUTE_MS - left_ms, None

    def __call__(self):
        now = ids.now_ms()
        self.first = self.first or now
        return self.start + now - self.first


@ALL
def test_the_time_to_wait_before_the_next_attempt_is_obeyed(gateway, major, monkeypatch):
    monkeypatch.setattr(service, "now_ms", MinuteClock(left_ms=1000))
    customer = new_customer(gateway, limits=(Limit(period=Period.MINUTE, requests=1),))
    _, second = ask(gateway, major, embed(), embed(), key=customer.key)
    assert second["milliseconds"] < BACKOFF_MS
    assert_same(second["value"]["embedding"], vectors(["a"])[0])
    assert customer.money(gateway).spent == 4 * PICOS["first"]
    # Had it come too early, there would be more refusals.
    assert [row.status for row in customer.rows(gateway)] == [200, 429, 200]


@ALL
def test_an_account_without_money_is_not_asked_again(gateway, major):
    customer = new_customer(gateway, "0")
    (outcome,) = ask(gateway, major, embed(), key=customer.key)
    assert (outcome["error"]["statusCode"], outcome["error"]["attempts"]) == (402, 1)
    assert [(row.status, row.code) for row in customer.rows(gateway)] == [(402, "insufficient_credits")]


# Tokens of a deployment instead of a key


@ALL
def test_a_deployments_token_is_taken_for_its_account(gateway, issuer, major):
    token = issuer.token(jti=str(major))
    before = money_of_acme(gateway)
    one, funds = answers(gateway, major, embed(oidcToken=token), {"call": "getCredits", "oidcToken": token})
    assert_same(one["embedding"], vectors(["a"])[0])
    row, money = row_of(gateway, one), money_of_acme(gateway)
    assert (row.user, row.tags) == ("ada", "environment:production")
    assert row.account == money.id
    assert (before.spent if before else 0) + 2 * PICOS["first"] == money.spent
    assert money.balance + money.spent == parse_dollars("100", place="welcome")
    assert funds == {"balance": format_dollars(money.balance), "totalUsed": format_dollars(money.spent)}


def money_of_acme(gateway):
    """The account that tokens of acme are taken for; `None` before the first."""
    accounts = gateway.read(lambda connection: list_accounts(connection, most=100))
    return next((account for account in accounts if account.slug == "acme"), None)


@ALL
def test_other_tokens_are_refused(gateway, issuer, major):
    tokens = [issuer.token(owner="evil"), issuer.token(key=issuer.forged), issuer.token(aud="https://vercel.com/evil")]
    outcomes = ask(gateway, major, *(embed(oidcToken=token) for token in tokens))
    names = [(outcome["error"]["name"], outcome["error"]["statusCode"]) for outcome in outcomes]
    assert names == [(FORBIDDEN, 403), *[("GatewayAuthenticationError", 401)] * 2]
    assert not any(token in json.dumps(outcomes) for token in tokens)
