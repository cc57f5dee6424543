"""The gateway over HTTP: who is let in, how often, at whose cost, to which providers."""

import asyncio
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from tests.support import provider as steps
from tests.support.customers import new_customer
from tests.support.gateway import CATALOGUE, DIMENSIONS, EMBEDDER, RERANKER, gateway, offer
from tests.support.provider import provider

from quernel.gateway import ids, ledger, schema, service
from quernel.gateway.accounts import AccountSettings, AccountStatus, change_account, find_account
from quernel.gateway.byok import drop_credential, store_credential
from quernel.gateway.database import Database
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import Scope, revoke_key
from quernel.gateway.limits import MINUTE_MS, Limit, Period
from quernel.gateway.listings import Wanted, list_requests
from quernel.gateway.money import format_dollars, parse_dollars
from quernel.gateway.routes import GATEWAY_ENDPOINTS
from quernel.gateway.upkeep import DEAD_MS
from quernel.server.keys import PUBLIC

FLAT, EXACT, SLOW = "fake/flat", "fake/exact", "fake/slow"
"""A model that costs so much a request, one whose tokenizer is here, and one that takes its time."""

FLAT_PRICE = parse_dollars("0.001", place="price")

WAITS = {"a while": 1.0, "forever": 60.0}
"""Texts with which the slow provider takes so many seconds."""

TOKENIZER = Path(__file__).parents[2] / "src" / "quernel" / "builtin" / "tiny-embedding"

NUM_REQUESTS, NUM_SERVED = 50, 7

SECONDS = 5.0
"""The most that anything here is waited for."""

PROMISES = {
    "plain": {"price": "10", "region": "cn-east", "headquarters": "CN"},
    "quiet": {"price": "15", "region": "us-east", "headquarters": "US", "no_training": True},
    "private": {"price": "20", "region": "eu-west", "headquarters": "DE", "zdr": True, "no_training": True},
}
"""What the providers of the embedding model cost a million tokens, and promise."""

KEYS = {f"{slug.upper()}_KEY": f"sk-ours-{slug}" for slug in (*PROMISES, "small")}


@dataclass(frozen=True)
class Market:
    """A gateway with providers that promise different things."""

    served: object
    providers: dict

    def asked(self):
        """How many requests each provider has had."""
        return {slug: len(one.requests) for slug, one in self.providers.items()}


def take_time(call):
    return steps.slow(WAITS.get(call.texts[0], 0.0))(call)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """One gateway for all tests that only need customers of their own."""
    embedder = CATALOGUE[0]
    catalogue = [
        *CATALOGUE,
        embedder | {"name": FLAT},
        embedder | {"name": SLOW},
        *([embedder | {"name": EXACT, "tokenizer": str(TOKENIZER)}] if TOKENIZER.is_dir() else []),
    ]
    waits = itertools.repeat(steps.slow(0.02))
    with (
        provider("openai") as plain,
        provider("openai") as quiet,
        provider("quernel") as private,
        provider("openai") as small,
        provider("openai", waits) as flat,
        provider("openai", itertools.repeat(take_time)) as slow,
    ):
        providers = {"plain": plain, "quiet": quiet, "private": private, "small": small}
        models = {"plain": (EMBEDDER, RERANKER), "quiet": (EMBEDDER,), "private": (EMBEDDER, RERANKER)}
        formats = {"plain": "quernel", "private": "quernel"}
        tables = [
            offer(
                slug,
                providers[slug].url,
                models=models[slug],
                format=formats.get(slug, "openai"),
                api_key=f"env:{slug.upper()}_KEY",
                byok=slug == "private",
                **promises,
            )
            for slug, promises in PROMISES.items()
        ]
        int8 = offer("small", small.url, price="1", api_key="env:SMALL_KEY")
        int8["models"][0]["quantization"] = "int8"
        priced = {"prices": [{"usd_per_request": format_dollars(FLAT_PRICE)}]}
        by_request = offer("flat", flat.url) | {"models": [{"model": FLAT, **priced}]}
        if TOKENIZER.is_dir():
            by_request["models"].append({"model": EXACT, "prices": [{"usd_per_million_tokens": "3"}]})
        by_time = offer("slow", slow.url) | {"models": [{"model": SLOW, **priced}]}
        folder = tmp_path_factory.mktemp("market")
        with gateway(
            folder, *tables, int8, by_request, by_time, catalogue=catalogue, environment=KEYS, welcome_usd="3.5"
        ) as served:
            yield Market(served, providers | {"flat": flat, "slow": slow})


@pytest.fixture
def served(market):
    """The gateway; at the end of the test its books are right."""
    yield market.served
    assert market.served.read(ledger.reconcile) == []


@pytest.fixture
def one_minute(monkeypatch):
    """The gateway's clock stands in the middle of a minute, so that none ends during the test."""
    moment = ids.now_ms() // MINUTE_MS * MINUTE_MS + MINUTE_MS // 2
    monkeypatch.setattr(service, "now_ms", lambda: moment)


def embedding(text="a", *, model=EMBEDDER, **more):
    return {"model": model, "input": [text], **more}


def post(served, customer, body, path="/v1/embeddings", **headers):
    with customer.client(served, headers=headers) as client:
        return client.post(path, json=body)


def at_once(served, customer, body, count=NUM_REQUESTS, **headers):
    """The replies to so many equal requests that are sent at the same time."""

    async def send():
        limits = httpx.Limits(max_connections=count)
        authorization = {"authorization": f"Bearer {customer.key}"}
        async with httpx.AsyncClient(
            base_url=served.url, headers=authorization | headers, limits=limits, timeout=30
        ) as client:
            return await asyncio.gather(*(client.post("/v1/embeddings", json=body) for _ in range(count)))

    return asyncio.run(send())


def error_of(reply):
    return reply.status_code, reply.json()["error"]["code"]


def column(served, wanted):
    """All values of a column of the books."""
    return served.read(lambda connection: connection.execute(sa.select(wanted)).scalars().all())


def until(condition):
    """Wait until it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


# Who is let in


def is_public(endpoint):
    return endpoint.method == "GET" and (
        endpoint.path in PUBLIC - {"/metrics"} or endpoint.path.startswith("/v1/models")
    )


def path_of(endpoint):
    return re.sub(r"\{.*?\}", "none", endpoint.path)


@pytest.mark.parametrize("credential", [None, "sk-wrong", "quernel_0000000000_" + "0" * 59])
def test_without_a_key_nothing_is_answered_but_what_is_public(served, credential):
    headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
    with httpx.Client(base_url=served.url, headers=headers) as client:
        for endpoint in GATEWAY_ENDPOINTS:
            reply = client.request(endpoint.method, path_of(endpoint))
            if is_public(endpoint):
                assert reply.status_code in (200, 404), endpoint
                continue
            assert reply.status_code == 401, endpoint
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "API key" in reply.text


def test_no_route_fails_when_it_is_sent_nothing(served):
    for endpoint in GATEWAY_ENDPOINTS:
        reply = served.http.request(endpoint.method, path_of(endpoint))
        assert reply.status_code < 500, (endpoint.path, reply.text)


@pytest.mark.parametrize("path", sorted(PUBLIC - {"/metrics"}))
def test_what_is_public_answers_head_too(served, path):
    with httpx.Client(base_url=served.url, follow_redirects=True) as client:
        whole, head = client.get(path), client.head(path)
    assert (whole.status_code, head.status_code) == (200, 200)
    assert whole.content
    assert not head.content
    assert whole.headers["content-type"] == head.headers["content-type"]


def test_the_catalogue_is_public(served):
    with httpx.Client(base_url=served.url) as client:
        listed = client.get("/v1/models").json()["data"]
        one = client.get(f"/v1/models/{EMBEDDER}").json()
        offered = client.get(f"/v1/models/{EMBEDDER}/endpoints").json()["data"]["endpoints"]
        assert client.get("/v1/models/none").status_code == 404
        rerankers = client.get("/v1/models", params={"type": "reranking"}).json()["data"]
    assert one in listed
    assert [model["id"] for model in rerankers] == [RERANKER]
    assert {row["provider"]: (row["zdr"], row["quantization"]) for row in offered} == {
        "plain": (False, "full"),
        "quiet": (False, "full"),
        "private": (True, "full"),
        "small": (False, "int8"),
    }
    prices = {row["provider"]: parse_dollars(row["pricing"]["input"], place="input") for row in offered}
    assert prices == {"plain": 10_000_000, "quiet": 15_000_000, "private": 20_000_000, "small": 1_000_000}


DOTTED = [
    "/v1/models/../credits",
    "/v1/models/../../v1/credits",
    "/v1/models/%2e%2e/credits",
    "/v1/models/..%2fcredits",
    "/v1/models/..%2f..%2f..%2f..%2fetc%2fpasswd/endpoints",
    "/docs/../v1/credits",
    "/../gateway.db",
    "/..%2fgateway.db.secret",
    "//v1/credits",
    "/v1/credits/",
    "/v1/models\\..\\credits",
]


@pytest.mark.parametrize("path", DOTTED)
def test_paths_with_dots_lead_nowhere(served, path):
    address = httpx.URL(served.url)
    for headers, allowed in (({}, (401, 404)), (dict(served.http.headers), (404,))):
        # httpx would resolve the dots itself.
        connection = HTTPConnection(address.host, address.port, timeout=SECONDS)
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        assert reply.status in allowed
        assert b"balance" not in content


@pytest.mark.parametrize("scopes", [{Scope.READ}, {Scope.MANAGE}])
def test_a_key_that_may_not_ask_models_asks_none(market, served, scopes):
    customer, before = new_customer(served, scopes=frozenset(scopes)), market.asked()
    for endpoint in GATEWAY_ENDPOINTS:
        if endpoint.path in ("/v1/embeddings", "/v1/rerank", "/embed", "/v2/embed", "/v2/rerank"):
            body = {"model": EMBEDDER, "input": "a", "inputs": "a", "texts": ["a"], "query": "a", "documents": ["a"]}
            body |= {"input_type": "search_query"}
            known = {name: body[name] for name in FIELDS[endpoint.path]}
            reply = post(served, customer, known, endpoint.path)
            assert reply.status_code == 403, reply.text
    assert market.asked() == before


FIELDS = {
    "/v1/embeddings": ("model", "input"),
    "/v1/rerank": ("query", "documents"),
    "/embed": ("inputs",),
    "/v2/embed": ("model", "texts", "input_type"),
    "/v2/rerank": ("model", "query", "documents"),
}


def test_a_suspended_account_is_refused_within_a_second(served):
    customer = new_customer(served)
    assert post(served, customer, embedding()).status_code == 200
    change = served.parts.database.write_now
    change(lambda connection: change_account(connection, customer.account, status=AccountStatus.SUSPENDED))
    started = time.monotonic()
    until(lambda: post(served, customer, embedding()).status_code == 403)
    assert time.monotonic() - started < 1
    change(lambda connection: change_account(connection, customer.account, status=AccountStatus.ACTIVE))
    until(lambda: post(served, customer, embedding()).status_code == 200)


def test_a_key_that_was_revoked_is_refused_everywhere_within_a_second(tmp_path):
    with (
        provider("openai") as first,
        gateway(tmp_path, offer("first", first.url)) as here,
        gateway(tmp_path, offer("first", first.url)) as there,
    ):
        customer = new_customer(here)
        with customer.client(here) as near, customer.client(there) as far:
            replies = [client.post("/v1/embeddings", json=embedding()) for client in (near, far)]
            assert [reply.status_code for reply in replies] == [200, 200]
            here.parts.database.write_now(lambda books: revoke_key(books, customer.key_id, None, now=now_ms()))
            started = time.monotonic()
            for client in (near, far):
                until(lambda client=client: client.get("/v1/credits").status_code == 401)
            assert time.monotonic() - started < 1
            assert error_of(far.post("/v1/embeddings", json=embedding())) == (401, "invalid_api_key")


def test_a_new_operator_has_the_welcome_credit(tmp_path):
    with gateway(tmp_path, welcome_usd="3.5") as served:
        assert served.http.get("/v1/credits").json() == {"balance": "3.50", "total_used": "0.00"}


# Idempotency keys


def test_the_same_request_is_answered_again_and_paid_once(served):
    customer = new_customer(served)
    first, again = (post(served, customer, embedding(), **{"idempotency-key": "k"}) for _ in range(2))
    assert first.json()["data"] == again.json()["data"]
    assert [reply.headers["x-quernel-cost"] for reply in (first, again)] == ["0.00002", "0.00"]
    assert customer.money(served).spent == 20_000_000
    assert sorted(row.cost for row in customer.rows(served)) == [0, 20_000_000]


def test_another_request_under_the_same_key_is_a_conflict(served):
    customer = new_customer(served)
    key = {"idempotency-key": "k"}
    assert post(served, customer, embedding("a"), **key).status_code == 200
    others = [
        post(served, customer, embedding("b"), **key),
        post(served, customer, embedding("a", model=FLAT), **key),
        post(served, customer, embedding("a"), "/embeddings", **key),
        post(served, customer, embedding("a"), **key, **{"x-quernel-instruction": "Find b"}),
        post(served, customer, embedding("a"), **key, **{"x-quernel-provider-options": '{"only": ["private"]}'}),
    ]
    assert [error_of(reply) for reply in others] == [(409, "conflict")] * len(others)
    assert customer.money(served).spent == 20_000_000


def test_the_model_that_a_header_names_is_a_part_of_the_request(served):
    customer = new_customer(served)
    names = {"idempotency-key": "k", "ai-model-id": EMBEDDER}
    body = {"values": ["a"]}
    assert post(served, customer, body, "/v4/ai/embedding-model", **names).status_code == 200
    reply = post(served, customer, body, "/v4/ai/embedding-model", **names | {"ai-model-id": FLAT})
    assert reply.status_code == 409
    assert customer.money(served).spent == 20_000_000


def test_an_idempotency_key_is_its_accounts_own(served):
    one, other = new_customer(served), new_customer(served)
    key = {"idempotency-key": "k"}
    assert post(served, one, embedding("a"), **key).status_code == 200
    assert post(served, other, embedding("b"), **key).status_code == 200
    assert one.money(served).spent == other.money(served).spent == 20_000_000


def test_of_equal_requests_at_the_same_time_one_is_answered_and_paid(served):
    customer = new_customer(served)
    replies = at_once(served, customer, embedding("a while", model=SLOW), 5, **{"idempotency-key": "k"})
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409, 409]
    money = customer.money(served)
    assert (money.spent, money.held) == (FLAT_PRICE, 0)


def test_a_request_that_failed_may_be_sent_again_under_its_key(tmp_path):
    script = [steps.failing(500)] * 3
    with provider("openai", script) as first, gateway(tmp_path, offer("first", first.url)) as served:
        customer, key = new_customer(served), {"idempotency-key": "k"}
        assert post(served, customer, embedding(), **key).status_code == 502
        assert customer.money(served).held == 0
        with provider("openai") as second, gateway(tmp_path, offer("second", second.url)) as other:
            assert post(other, customer, embedding(), **key).status_code == 200
            assert customer.money(other).spent == 20_000_000
            assert other.read(ledger.reconcile) == []


def test_an_empty_idempotency_key_is_none(served):
    customer = new_customer(served)
    replies = [post(served, customer, embedding(text), **{"idempotency-key": ""}) for text in "aba"]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert customer.money(served).spent == 3 * 20_000_000


@pytest.mark.parametrize("key", ["k" * 201, "tab\tin it"])
def test_an_idempotency_key_that_cannot_be_kept_is_refused(served, key):
    customer = new_customer(served)
    assert post(served, customer, embedding(), **{"idempotency-key": key}).status_code == 400
    assert customer.money(served).spent == 0


# Money and limits


@pytest.mark.parametrize("model", [FLAT, EXACT])
def test_a_balance_for_seven_serves_seven_of_fifty_at_once(served, model):
    if model == EXACT and not TOKENIZER.is_dir():
        pytest.skip("the built-in models are not here")
    body = embedding("a text of some words", model=model)
    first = new_customer(served)
    post(served, first, body)
    cost = first.money(served).spent
    customer = new_customer(served, format_dollars(NUM_SERVED * cost))
    replies = at_once(served, customer, body)
    refused = [error_of(reply) for reply in replies if reply.status_code != 200]
    assert refused == [(402, "insufficient_credits")] * (NUM_REQUESTS - NUM_SERVED)
    money = customer.money(served)
    assert (money.balance, money.held, money.spent) == (0, 0, NUM_SERVED * cost)
    assert sorted(row.cost for row in customer.rows(served)) == [0] * len(refused) + [cost] * NUM_SERVED


@pytest.mark.parametrize("period", Period)
def test_a_keys_budget_for_seven_serves_seven_of_fifty_at_once(served, one_minute, period):
    customer = new_customer(served, limits=(Limit(period=period, spend=NUM_SERVED * FLAT_PRICE),))
    replies = at_once(served, customer, embedding(model=FLAT))
    refused = [error_of(reply) for reply in replies if reply.status_code != 200]
    assert refused == [(402, "insufficient_credits")] * (NUM_REQUESTS - NUM_SERVED)
    money = customer.money(served)
    assert (money.held, money.spent) == (0, NUM_SERVED * FLAT_PRICE)


def test_an_account_that_has_no_money_is_told_not_to_try_again(served):
    reply = post(served, new_customer(served, "0"), embedding())
    assert error_of(reply) == (402, "insufficient_credits")
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("whose", ["key", "account"])
def test_seven_requests_a_minute_are_seven_of_fifty_at_once(served, one_minute, whose):
    limits = (Limit(period=Period.MINUTE, requests=NUM_SERVED),)
    customer = (
        new_customer(served, limits=limits)
        if whose == "key"
        else new_customer(served, account=AccountSettings(limits=limits))
    )
    replies = at_once(served, customer, embedding(model=FLAT))
    good = [reply for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code != 200]
    assert len(good) == NUM_SERVED
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in good} == {"7"}
    assert sorted(int(reply.headers["x-ratelimit-remaining-requests"]) for reply in good) == list(range(NUM_SERVED))
    assert {error_of(reply) for reply in refused} == {(429, "rate_limit_exceeded")}
    assert {(reply.headers["retry-after"], reply.headers["retry-after-ms"]) for reply in refused} == {("30", "30000")}
    assert customer.money(served).spent == NUM_SERVED * FLAT_PRICE


def test_tokens_a_minute_are_limited_too(served, one_minute):
    customer = new_customer(served, limits=(Limit(period=Period.MINUTE, tokens=5),))
    first, second, third = (post(served, customer, embedding()) for _ in range(3))
    assert [reply.headers["x-ratelimit-remaining-tokens"] for reply in (first, second)] == ["3", "1"]
    assert first.headers["x-ratelimit-limit-tokens"] == "5"
    assert re.fullmatch(r"\d+s", first.headers["x-ratelimit-reset-tokens"])
    assert error_of(third) == (429, "rate_limit_exceeded")


def test_questions_of_one_request_are_billed_together(served):
    customer = new_customer(served)
    body = {"model": RERANKER, "text_1": ["one", "two"], "text_2": ["one", "three"]}
    reply = post(served, customer, body, "/v1/score")
    assert reply.status_code == 200, reply.text
    (row,) = customer.rows(served)
    assert row.documents == 2
    assert row.cost == customer.money(served).spent > 0
    assert reply.headers["x-quernel-cost"] == format_dollars(row.cost)


# Visitors without a key


def test_visitors_have_an_allowance_for_each_address_and_one_for_all(tmp_path, one_minute):
    budget = format_dollars(3 * FLAT_PRICE)
    with provider("openai") as first:
        table = offer("first", first.url) | {"models": [{"model": EMBEDDER, "prices": [{"usd_per_request": "0.001"}]}]}
        with gateway(tmp_path, table, demo_usd_a_day=budget, demo_requests_a_day=2) as served:
            here, there = (
                httpx.Client(base_url=served.url, transport=httpx.HTTPTransport(local_address=address))
                for address in ("127.0.0.1", "127.0.0.2")
            )
            with here, there:
                visits = here, here, here, there, there
                replies = [client.post("/v1/embeddings", json=embedding()) for client in visits]
                assert [reply.status_code for reply in replies] == [200, 200, 429, 200, 402]
                assert replies[2].json()["error"]["code"] == "rate_limit_exceeded"
                assert here.get("/v1/report?start_date=2026-01-01&end_date=2026-01-02").status_code == 403
                wrong = {"authorization": "Bearer wrong"}
                assert there.post("/v1/embeddings", json=embedding(), headers=wrong).status_code == 401
            account = served.read(lambda connection: find_account(connection, "demo"))
            assert (account.balance, account.held, account.spent) == (0, 0, 3 * FLAT_PRICE)
            assert not any("127.0.0" in subject for subject in column(served, schema.counters.c.subject))


# Where a request may go

OPTIONS = {
    "nothing": ({}, "plain"),
    "zero data retention": ({"providerOptions": {"gateway": {"zeroDataRetention": True}}}, "private"),
    "zero data retention, as OpenRouter has it": ({"provider": {"zdr": True}}, "private"),
    "no training": ({"providerOptions": {"gateway": {"disallowPromptTraining": True}}}, "quiet"),
    "no training, as OpenRouter has it": ({"provider": {"data_collection": "deny"}}, "quiet"),
    "a country": ({"providerOptions": {"gateway": {"headquarters": ["DE"]}}}, "private"),
    "another country": ({"providerOptions": {"gateway": {"headquarters": ["!CN"]}}}, "quiet"),
    "weights": ({"providerOptions": {"gateway": {"has": ["quantization:int8"]}}}, "small"),
    "other weights": ({"providerOptions": {"gateway": {"has": ["!quantization:bf16"]}}}, "small"),
    "weights, as OpenRouter has it": ({"provider": {"quantizations": ["int8"]}}, "small"),
    "an order": ({"providerOptions": {"gateway": {"order": ["private", "quiet"]}}}, "private"),
    "a provider left out": ({"provider": {"ignore": ["plain"]}}, "quiet"),
    "one provider": ({"providerOptions": {"gateway": {"only": ["quiet"]}}}, "quiet"),
}
"""What a body asks for, to who answers."""

SETTINGS = {
    "zdr of the key": ({"zdr": True}, "private"),
    "no training of the key": ({"no_training": True}, "quiet"),
    "providers of the key": ({"providers": ("quiet", "private")}, "quiet"),
    "zdr of the account": ({"account": AccountSettings(zdr=True)}, "private"),
    "no training of the account": ({"account": AccountSettings(no_training=True)}, "quiet"),
    "region of the account": ({"account": AccountSettings(regions=("eu-west",))}, "private"),
    "providers of account and key": (
        {"providers": ("plain", "quiet"), "account": AccountSettings(providers=("quiet", "private"))},
        "quiet",
    ),
}
"""What a customer's settings demand, to who answers."""


def assert_answered_by(market, customer, slug, **body):
    """It is answered by that provider and nobody else is asked; without it, there is no route and nobody is."""
    before = market.asked()
    reply = post(market.served, customer, embedding(**body))
    assert reply.status_code == 200, reply.text
    told = reply.json()["providerMetadata"]["gateway"]["routing"]
    assert told["provider"] == reply.headers["x-quernel-provider"] == slug
    after = market.asked()
    assert {name for name in after if after[name] != before[name]} == {slug}
    (row, *_) = customer.rows(market.served)
    assert (row.provider, row.status) == (slug, 200)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_request_goes_where_its_body_says(market, served, name):
    body, slug = OPTIONS[name]
    assert_answered_by(market, new_customer(served), slug, **body)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_request_goes_where_its_key_and_account_say(market, served, name):
    settings, slug = SETTINGS[name]
    customer = new_customer(served, **settings)
    assert_answered_by(market, customer, slug)
    before = market.asked()
    reply = post(served, customer, embedding(providerOptions={"gateway": {"only": ["plain"]}}))
    assert error_of(reply) == (400, "no_route")
    assert "plain: " in reply.json()["error"]["message"]
    assert market.asked() == before
    assert customer.money(served).held == 0


IMPOSSIBLE = [
    {"zeroDataRetention": True, "only": ["quiet"]},
    {"disallowPromptTraining": True, "only": ["plain"]},
    {"headquarters": ["DE"], "only": ["plain"]},
    {"headquarters": ["!CN"], "only": ["small"]},
    {"has": ["quantization:int4"]},
    {"only": ["nobody"]},
]


@pytest.mark.parametrize("options", IMPOSSIBLE, ids=str)
def test_a_request_that_nobody_fits_goes_to_nobody(market, served, options):
    customer, before = new_customer(served), market.asked()
    reply = post(served, customer, embedding(providerOptions={"gateway": options}))
    assert error_of(reply) == (400, "no_route")
    assert market.asked() == before
    (row,) = customer.rows(served)
    assert (row.status, row.code, row.cost, row.provider) == (400, "no_route", 0, "")


ELSEWHERE = {
    "/v1/embeddings": embedding(),
    "/embed": {"inputs": "a"},
    "/v2/embed": {"model": EMBEDDER, "texts": ["a"], "input_type": "search_document"},
    "/v1/rerank": {"model": RERANKER, "query": "a", "documents": ["a"]},
    "/v2/rerank": {"model": RERANKER, "query": "a", "documents": ["a"]},
    "/rerank": {"query": "a", "texts": ["a"]},
    "/v1/score": {"model": RERANKER, "text_1": "a", "text_2": ["a"]},
}
"""Routes of other vendors, and what they are asked."""


@pytest.mark.parametrize("path", ELSEWHERE)
def test_every_wire_format_reaches_the_providers_that_keep_nothing(market, served, path):
    customer = new_customer(served, zdr=True)
    before = market.asked()
    reply = post(served, customer, ELSEWHERE[path], path)
    assert (reply.status_code, reply.headers.get("x-quernel-provider")) == (200, "private"), reply.text
    after = market.asked()
    assert {name for name in after if after[name] != before[name]} == {"private"}


@pytest.mark.parametrize("path", ELSEWHERE)
def test_every_wire_format_can_say_where_it_goes_in_a_header(served, path):
    options = json.dumps({"order": ["private"], "user": "ada"})
    customer = new_customer(served)
    headers = {"x-quernel-provider-options": options, "x-quernel-tags": "x, y"}
    reply = post(served, customer, ELSEWHERE[path], path, **headers)
    assert (reply.status_code, reply.headers.get("x-quernel-provider")) == (200, "private"), reply.text
    (row,) = customer.rows(served)
    assert (row.user, row.tags) == ("ada", "x,y")


SDK = {
    "/v1/ai/embedding-model": (EMBEDDER, {"input": "a"}),
    "/v3/ai/embedding-model": (EMBEDDER, {"values": ["a"]}),
    "/v4/ai/embedding-model": (EMBEDDER, {"values": ["a"]}),
    "/v4/ai/reranking-model": (RERANKER, {"query": "a", "documents": {"type": "text", "values": ["a"]}}),
}
"""Routes of the AI SDK: the model that a header names, and what it is asked."""


@pytest.mark.parametrize("path", [*ELSEWHERE, *SDK])
def test_a_failure_names_the_generation_that_it_is_written_down_as(served, path):
    customer = new_customer(served, "0")
    model, body = SDK.get(path, (EMBEDDER, ELSEWHERE.get(path)))
    with customer.client(served, headers={"ai-model-id": model}) as client:
        reply = client.post(path, json=body)
        named = reply.headers["x-quernel-generation-id"]
        found = client.get("/v1/generation", params={"id": named}).json()["data"]
    (row,) = customer.rows(served)
    assert reply.is_error
    assert (row.status, row.id) == (402, named)
    assert (found["id"], found["model"], found["finish_reason"]) == (named, row.model, "error")
    assert reply.json().get("generationId") == (named if path in SDK else None)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v4/ai/embedding-model"])
@pytest.mark.parametrize("whose", ["key", "account"])
def test_a_model_that_may_not_be_asked_is_refused_by_a_rule_with_a_name(market, served, path, whose):
    allowed, before = {"models": (RERANKER,)}, market.asked()
    customer = (
        new_customer(served, **allowed) if whose == "key" else new_customer(served, account=AccountSettings(**allowed))
    )
    _, body = SDK.get(path, (EMBEDDER, embedding()))
    reply = post(served, customer, body, path, **{"ai-model-id": EMBEDDER})
    assert error_of(reply) == (403, "permission_denied")
    rule = f"{whose}.models"
    assert reply.json()["error"]["param"] == ({"ruleId": rule} if path in SDK else rule)
    # What is not written down has no name to be found by.
    assert customer.rows(served) == []
    assert "x-quernel-generation-id" not in reply.headers
    assert "generationId" not in reply.json()
    assert market.asked() == before


@pytest.mark.parametrize("content", ["{", '"private"', '{"order": "private"}', "[" * 5000], ids=lambda text: text[:9])
def test_a_header_that_cannot_be_read_is_refused(market, served, content):
    customer, before = new_customer(served), market.asked()
    reply = post(served, customer, embedding(), **{"x-quernel-provider-options": content})
    assert error_of(reply) == (400, "invalid_request")
    assert market.asked() == before


def test_where_no_model_is_named_it_is_the_first_that_is_offered(tmp_path):
    catalogue = [CATALOGUE[0] | {"name": name} for name in ("fake/off", EMBEDDER)]
    with provider("openai") as off, provider("openai") as on:
        tables = offer("off", off.url, models=("fake/off",), enabled=False), offer("on", on.url)
        with gateway(tmp_path, *tables, catalogue=catalogue) as served:
            replies = [
                served.http.post("/embed", json={"inputs": "a"}),
                served.http.post("/v1/embeddings", json={"model": "default", "input": "a"}),
            ]
            assert [reply.status_code for reply in replies] == [200, 200]
            assert (len(off.requests), len(on.requests)) == (0, 2)


# Customers' keys to providers

BROUGHT = {"providerOptions": {"gateway": {"byok": {"private": [{"apiKey": "sk-brought"}]}}}}


def store(served, customer, key):
    served.parts.database.write_now(
        lambda connection: store_credential(
            connection, served.parts.vault, customer.account, "private", key, now=now_ms()
        )
    )


def sent_with(market):
    """The key that the provider was asked with last."""
    return market.providers["private"].requests[-1].headers["authorization"].removeprefix("Bearer ")


def test_a_key_that_a_request_brings_is_used_and_costs_nothing(market, served):
    customer = new_customer(served, "0")
    reply = post(served, customer, embedding(**BROUGHT))
    assert (reply.status_code, reply.headers["x-quernel-cost"]) == (200, "0.00"), reply.text
    assert sent_with(market) == "sk-brought"
    (row,) = customer.rows(served)
    assert (row.provider, row.byok, row.credential) == ("private", True, "byok")
    assert (row.cost, row.upstream_cost) == (0, 40_000_000)
    assert "sk-brought" not in reply.text


def test_a_key_that_is_stored_is_used_until_it_is_dropped(market, served):
    customer = new_customer(served, "0")
    store(served, customer, "sk-stored")
    assert post(served, customer, embedding()).headers["x-quernel-provider"] == "private"
    assert sent_with(market) == "sk-stored"
    assert post(served, customer, embedding(**BROUGHT)).status_code == 200
    assert sent_with(market) == "sk-brought"
    assert customer.money(served).spent == 0
    assert not any(b"sk-stored" in ciphertext for ciphertext in column(served, schema.credentials.c.ciphertext))
    served.parts.database.write_now(lambda connection: drop_credential(connection, customer.account, "private"))
    until(lambda: post(served, customer, embedding()).status_code == 402)


@pytest.mark.parametrize("body", [{}, BROUGHT], ids=["stored", "brought"])
def test_without_retention_a_customers_key_is_not_used(market, served, body):
    customer = new_customer(served, zdr=True)
    store(served, customer, "sk-stored")
    assert post(served, customer, embedding(**body)).status_code == 200
    assert sent_with(market) == KEYS["PRIVATE_KEY"]
    assert customer.money(served).spent == 40_000_000


UNUSABLE = [
    {"plain": [{"apiKey": "sk-x"}]},
    {"private": [{"token": "sk-x"}]},
    {"private": [{"apiKey": "sk-x\r\ny: z"}]},
]


@pytest.mark.parametrize("byok", UNUSABLE, ids=["a provider that takes none", "no key", "no header"])
def test_a_customers_key_that_cannot_be_used_is_refused(market, served, byok):
    customer, before = new_customer(served), market.asked()
    reply = post(served, customer, embedding(providerOptions={"gateway": {"byok": byok}}))
    assert reply.status_code == 400
    assert "sk-x" not in reply.text
    assert market.asked() == before
    assert customer.money(served).held == 0


# Nothing leaks

LEAKS = {
    "400": steps.failing(400),
    "401": steps.failing(401),
    "429": steps.rate_limited(100),
    "500": steps.failing(500),
    "not JSON": lambda call: steps.Answer(body=call.recorded.headers["authorization"].encode()),
    "a redirect": lambda call: steps.redirected(f"http://127.0.0.1/{call.recorded.headers['authorization']}")(call),
}
"""Failures that repeat the key they were asked with."""


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed", "/v2/embed"])
def test_our_own_key_to_a_provider_is_shown_to_nobody(tmp_path, caplog, name, path):
    key = "sk-ours-and-nobody-elses"
    table = {"api_key": "env:KEY", "timeout_seconds": 2}
    with (
        provider("openai", [LEAKS[name]] * 9) as first,
        gateway(tmp_path, offer("first", first.url, **table), environment={"KEY": key}) as served,
    ):
        reply = served.http.post(path, json=ELSEWHERE[path])
        again = served.http.get(f"/v1/models/{EMBEDDER}/endpoints")
        rows = served.read(lambda connection: list_requests(connection, Wanted(), most=100))
    assert first.requests[0].headers["authorization"] == f"Bearer {key}"
    assert reply.status_code >= 400
    for text in (reply.text, str(reply.headers), again.text, repr(rows), caplog.text):
        assert key not in text


# Clients that go away, and gateways that die


def test_a_client_that_goes_away_is_not_charged(market, served):
    customer = new_customer(served)
    body, before = json.dumps(embedding("forever", model=SLOW)).encode(), market.asked()["slow"]
    address = httpx.URL(served.url)
    with socket.create_connection((address.host, address.port)) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {customer.key}\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: market.asked()["slow"] > before)
        assert customer.money(served).held == FLAT_PRICE
    until(lambda: [(row.status, row.cost) for row in customer.rows(served)] == [(499, 0)])
    money = customer.money(served)
    assert (money.held, money.spent) == (0, 0)
    assert served.http.post("/v1/embeddings", json=embedding(model=SLOW)).status_code == 200


def test_many_clients_that_go_away_leave_nothing_held(served):
    customer = new_customer(served)

    def leave(seconds):
        with customer.client(served) as client:
            try:
                return client.post("/v1/embeddings", json=embedding(model=FLAT), timeout=seconds).status_code
            except httpx.TimeoutException:
                return None

    def spent_and_costs(connection):
        """Of one moment, as some requests may still be under way."""
        rows = list_requests(connection, Wanted(account=customer.account), most=100)
        return ledger.balance_of(connection, customer.account).spent, [row.cost for row in rows if row.cost]

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(leave, [0.001 + 0.002 * number for number in range(24)]))
    until(lambda: customer.money(served).held == 0)
    spent, costs = served.read(spent_and_costs)
    assert spent == sum(costs)
    assert set(costs) <= {FLAT_PRICE}
    assert len(costs) >= outcomes.count(200)


GATEWAY = [sys.executable, "-c", "from quernel.cli.main import main; main()", "gateway"]

CONFIG = """
[gateway]
database = "sqlite:///{folder}/gateway.db"

[[catalogue]]
name = "{model}"
kind = "embedding"
dimensions = {dimensions}
max_tokens = 512

[[providers]]
slug = "first"
format = "openai"
base_url = "{url}"
models = [{{ model = "{model}", prices = [{{ usd_per_request = "0.001" }}] }}]
"""


@contextmanager
def process(folder):
    """A gateway in a process of its own: its URL, the operator's key at the first start, and the process."""
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            [*GATEWAY, "--no-local", "--json", "-p", "0", "--config", str(folder / "gateway.toml")],
            stdout=subprocess.PIPE,
            stderr=log,
        ) as started,
    ):
        try:
            line = started.stdout.readline()
            assert line, (folder / "log").read_text(encoding="utf-8")
            ready = json.loads(line)
            yield ready["url"], ready["key"], started
        finally:
            started.kill()


def test_what_a_gateway_held_that_was_killed_is_let_go(tmp_path):
    def wait_if_told(call):
        return steps.slow(60)(call) if call.texts == ["wait"] else steps.ok(call)

    with provider("openai", itertools.repeat(wait_if_told)) as first:
        config = CONFIG.format(folder=tmp_path, model=EMBEDDER, dimensions=DIMENSIONS, url=first.url)
        (tmp_path / "gateway.toml").write_text(config, encoding="utf-8")
        books = Database(f"sqlite:///{tmp_path}/gateway.db")

        def money():
            return books.read_now(lambda connection: find_account(connection, "operator"))

        with process(tmp_path) as (url, key, running):
            headers = {"authorization": f"Bearer {key}"}

            def ask():
                with pytest.raises(httpx.TransportError):
                    httpx.post(f"{url}/v1/embeddings", json=embedding("wait"), headers=headers, timeout=30)

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: any(request.json["input"] == ["wait"] for request in first.requests))
            assert money().held == FLAT_PRICE
            running.kill()
            running.wait(SECONDS)
            asking.join(SECONDS)
        assert money().held == FLAT_PRICE
        # Half a minute passes in which the gateway does not show that it lives.
        late = sa.update(schema.instances).values(heartbeat=schema.instances.c.heartbeat - DEAD_MS - 1)
        books.write_now(lambda connection: connection.execute(late))
        with process(tmp_path) as (url, again, running):
            assert again is None
            assert (money().held, money().spent) == (0, 0)
            reply = httpx.post(f"{url}/v1/embeddings", json=embedding(), headers=headers, timeout=30)
            assert len(reply.json()["data"][0]["embedding"]) == DIMENSIONS
            running.terminate()
            assert running.wait(SECONDS) == 0
        assert (money().held, money().spent) == (0, FLAT_PRICE)
        assert books.read_now(ledger.reconcile) == []
        assert books.read_now(lambda connection: connection.execute(sa.select(schema.holds)).all()) == []
        books.close()
