"""A faulty provider before the gateway: the right answer, from the right provider, at the right price."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.support import provider as steps
from tests.support.gateway import DIMENSIONS, EMBEDDER, RERANKER, gateway, offer
from tests.support.provider import provider

from quernel.gateway import ledger
from quernel.gateway.listings import Wanted, list_requests
from quernel.gateway.money import format_dollars
from quernel.testing import FakeEmbeddingModel
from quernel.types import EmbeddingRequest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "gateway.md"

TEXTS = ["one two three", "four five"]
TOKENS = 4 + 3
CHEAP, DEAR = "10", "20"
PICOS = {"first": 10_000_000, "second": 20_000_000}
"""Price of a token."""

FAULTS = {
    "slow": (steps.slow(5), "timeout"),
    "429": (steps.rate_limited(), "rate_limited"),
    "429 with Retry-After": (steps.rate_limited(30), "rate_limited"),
    "500": (steps.failing(500), "failed"),
    "503": (steps.failing(503), "failed"),
    "401": (steps.failing(401), "credentials"),
    "402": (steps.failing(402), "credentials"),
    "404": (steps.failing(404), "failed"),
    "connection closed": (steps.hung_up, "unreachable"),
    "connection reset": (steps.reset, "unreachable"),
    "cut in the middle": (steps.broken_off, "unreachable"),
    "not HTTP": (steps.garbled, "bad_reply"),
    "wrong JSON": (steps.malformed, "bad_reply"),
    "HTML": (steps.sends(b"<html>welcome</html>", content_type="text/html"), "bad_reply"),
    "a vector too few": (steps.one_less, "bad_reply"),
    "wrong dimension": (steps.shorter, "bad_reply"),
    "NaN": (steps.not_a_number, "bad_reply"),
    "a vector of zeros": (steps.zeros, "bad_reply"),
    "two vectors for one text": (steps.doubled, "bad_reply"),
    "decompression bomb": (steps.bomb(300_000_000), "bad_reply"),
    "redirect": (steps.redirected("http://169.254.169.254/latest"), "bad_reply"),
}
"""What the first provider does, and what the attempt is called."""


@pytest.fixture(scope="module")
def expected():
    import asyncio

    model = FakeEmbeddingModel(EMBEDDER, dimensions=DIMENSIONS)
    return asyncio.run(model.embed(EmbeddingRequest(inputs=TEXTS))).vectors


def vectors_of(reply):
    return np.array([row["embedding"] for row in reply.json()["data"]], dtype=np.float32)


def money_of(served):
    """What the operator's account has spent and holds; nothing is amiss anywhere."""
    assert served.read(ledger.reconcile) == []
    principal = served.http.get("/v1/credits").json()
    (account,) = served.read(lambda connection: connection.exec_driver_sql("select held, spent from accounts").all())
    assert account.held == 0
    assert principal["total_used"] == format_dollars(account.spent)
    return account.spent


def rows_of(served):
    return served.read(lambda connection: list_requests(connection, Wanted(), most=100))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_first_is_answered_by_the_second_and_billed_at_its_price(fault, tmp_path, expected):
    step, outcome = FAULTS[fault]
    with provider("openai", [step]) as first, provider("openai") as second:
        tables = offer("first", first.url, price=CHEAP, timeout_seconds=0.5), offer("second", second.url, price=DEAR)
        with gateway(tmp_path, *tables) as served:
            reply = served.embed(*TEXTS)
            assert reply.status_code == 200, reply.text
            np.testing.assert_array_equal(vectors_of(reply), expected)
            assert reply.json()["usage"]["total_tokens"] == TOKENS
            told = reply.json()["providerMetadata"]["gateway"]
            assert told["routing"]["provider"] == reply.headers["x-quernel-provider"] == "second"
            attempts = [(one["provider"], one["outcome"]) for one in told["routing"]["attempts"]]
            assert attempts == [("first", outcome), ("second", "ok")]
            cost = TOKENS * PICOS["second"]
            assert told["cost"] == reply.headers["x-quernel-cost"] == format_dollars(cost)
            assert money_of(served) == cost
            (row,) = rows_of(served)
            assert (row.provider, row.cost, row.tokens, row.status) == ("second", cost, TOKENS, 200)
            assert [one["outcome"] for one in row.attempts] == [outcome, "ok"]


@pytest.mark.parametrize("step", [steps.ok, steps.shuffled, steps.packed, steps.slow(0.05)])
def test_what_is_no_fault_is_answered_by_the_first(step, tmp_path, expected):
    with provider("openai", [step]) as first, provider("openai") as second:
        tables = offer("first", first.url, price=CHEAP), offer("second", second.url, price=DEAR)
        with gateway(tmp_path, *tables) as served:
            reply = served.embed(*TEXTS)
            np.testing.assert_array_equal(vectors_of(reply), expected)
            assert reply.headers["x-quernel-provider"] == "first"
            assert money_of(served) == TOKENS * PICOS["first"]
            assert second.requests == []


def test_a_request_that_the_provider_refuses_goes_to_no_other_and_costs_nothing(tmp_path):
    with provider("openai", [steps.failing(400)]) as first, provider("openai") as second:
        tables = offer("first", first.url, price=CHEAP), offer("second", second.url, price=DEAR)
        with gateway(tmp_path, *tables) as served:
            reply = served.embed(*TEXTS)
            assert reply.status_code == 400
            assert second.requests == []
            assert money_of(served) == 0
            (row,) = rows_of(served)
            assert (row.status, row.cost, row.tokens) == (400, 0, 0)
            assert [one["outcome"] for one in row.attempts] == ["refused"]


def test_a_pause_that_a_provider_asks_for_is_kept(tmp_path):
    with provider("openai", [steps.rate_limited(30)]) as first, provider("openai") as second:
        tables = offer("first", first.url, price=CHEAP), offer("second", second.url, price=DEAR)
        with gateway(tmp_path, *tables) as served:
            served.embed(*TEXTS)
            again = served.embed(*TEXTS)
            assert again.headers["x-quernel-provider"] == "second"
            assert "paused" in again.json()["providerMetadata"]["gateway"]["routing"]["leftOut"]["first"]
            assert len(first.requests) == 1


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        (steps.failing(500), 502, "provider_failed"),
        (steps.one_less, 502, "provider_failed"),
        (steps.rate_limited(), 429, "overloaded"),
        (steps.rate_limited(100), 429, "overloaded"),
        (steps.slow(5), 504, "deadline_exceeded"),
    ],
)
def test_when_all_fail_the_client_is_told_how_and_charged_nothing(step, status, code, tmp_path):
    with provider("openai", [step] * 20) as first, provider("openai", [step] * 20) as second:
        tables = [offer(slug, one.url, timeout_seconds=0.2) for slug, one in (("first", first), ("second", second))]
        with gateway(tmp_path, *tables, attempt_budget_seconds=2.0) as served:
            reply = served.embed(*TEXTS)
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
            if status == 429:
                assert "retry-after" in reply.headers
            assert money_of(served) == 0
            (row,) = rows_of(served)
            assert (row.status, row.code, row.cost) == (status, code, 0)


def test_rerank_is_billed_by_document_and_falls_back_too(tmp_path):
    documents = ["one two", "three", "four"]
    with provider("cohere", [steps.out_of_range]) as first, provider("jina") as second:
        tables = (
            offer("first", first.url, format="cohere", price=CHEAP, models=(RERANKER,)),
            offer("second", second.url, format="jina", price=DEAR, models=(RERANKER,)),
        )
        with gateway(tmp_path, *tables) as served:
            reply = served.rerank("three", *documents)
            assert reply.status_code == 200, reply.text
            assert reply.json()["results"][0]["index"] == 1
            assert reply.headers["x-quernel-provider"] == "second"
            (row,) = rows_of(served)
            assert row.documents == 3
            assert money_of(served) == row.cost == 3 * 20_000_000_000 + row.tokens * PICOS["second"]


def test_a_customers_wrong_key_pauses_a_provider_for_that_customer_alone(tmp_path):
    with (
        provider("openai", [steps.failing(401)] * 3) as first,
        gateway(tmp_path, offer("first", first.url, byok=True)) as served,
    ):
        own = {"providerOptions": {"gateway": {"byok": {"first": [{"apiKey": "wrong"}]}}}}
        for _ in range(3):
            assert served.embed(*TEXTS, **own).status_code == 502
        assert served.embed(*TEXTS, **own).status_code == 503
        assert served.embed(*TEXTS).status_code == 200
        assert money_of(served) == TOKENS * PICOS["first"]


@pytest.mark.parametrize(("script", "status"), [([], 200), ([steps.ok, *[steps.one_less] * 9], 502)])
def test_several_questions_of_a_request_are_answered_and_charged_together_or_not_at_all(script, status, tmp_path):
    with (
        provider("jina", script) as first,
        gateway(tmp_path, offer("first", first.url, format="jina", models=(RERANKER,))) as served,
    ):
        body = {"model": RERANKER, "queries": ["one", "two"], "documents": ["one two", "three"]}
        reply = served.http.post("/v1/score", json=body)
        assert reply.status_code == status, reply.text
        (row,) = rows_of(served)
        assert money_of(served) == row.cost == (0 if status == 502 else 2 * 10_000_000_000 + row.tokens * 10_000_000)


def test_a_request_whose_time_is_over_is_written_down_as_such(tmp_path):
    with provider("openai", [steps.slow(5)]) as first, gateway(tmp_path, offer("first", first.url)) as served:
        body = {"model": EMBEDDER, "input": TEXTS}
        reply = served.http.post("/v1/embeddings", json=body, headers={"x-quernel-timeout": "0.1"})
        assert reply.status_code == 504
        assert money_of(served) == 0
        (row,) = rows_of(served)
        assert (row.status, row.code) == (504, "deadline_exceeded")


def test_the_guide_has_a_row_for_every_fault():
    rows = set(re.findall(r"^\| ([^|]+?) +\|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(FAULTS) <= rows
