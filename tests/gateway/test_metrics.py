"""What `/metrics` of a gateway tells: of providers, of money, of its database, and of nobody who asks."""

import asyncio
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from tests.support import chats
from tests.support import provider as steps
from tests.support.customers import new_customer
from tests.support.gateway import CATALOGUE, EMBEDDER, RERANKER, gateway, offer
from tests.support.provider import provider

from quernel.errors import UnavailableError
from quernel.gateway import ledger
from quernel.gateway.accounts import AccountSettings
from quernel.gateway.limits import parse_limits
from quernel.gateway.metrics import GATEWAY_MEASURES, Distribution
from quernel.server.metrics import MEASURES, PROCESS_MEASURES, SECONDS

DOCS = Path(__file__).parents[2] / "docs"

TEXTS = ["one two three", "four five"]
TOKENS = 4 + 3
CHEAP, DEAR = "10", "20"


class Scrape:
    """What `/metrics` says now; a sample that is there twice is a fault of its own."""

    def __init__(self, served):
        self.text = served.http.get("/metrics").text
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = {}
        for family in self.families.values():
            for sample in family.samples:
                place = (sample.name, frozenset(sample.labels.items()))
                assert place not in self.samples, place
                self.samples[place] = sample.value

    def __call__(self, name, **labels):
        """The value of one sample; `None` where there is none."""
        return self.samples.get((name, frozenset(labels.items())))

    def named(self, name):
        """Labels of all samples of that name."""
        return [dict(labels) for found, labels in self.samples if found == name]


def eventually(look):
    until = time.monotonic() + 10
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def breaker_of(scrape, slug):
    """The state that a provider's breaker is in."""
    place = {"provider": slug, "model": EMBEDDER, "weights": "full"}
    shown = {state: scrape("quernel_provider_breaker", state=state, **place) for state in ("closed", "open", "probing")}
    assert sorted(shown.values()) == [0, 0, 1]
    return next(state for state, value in shown.items() if value)


def test_a_distribution_says_what_the_clients_histogram_says():
    ours, registry = Distribution(SECONDS), CollectorRegistry()
    theirs = Histogram("seconds", "Seconds.", registry=registry, buckets=SECONDS)
    for number in (0.0, 0.001, 0.0011, 0.3, 1, 299.5, 300, 301, 0.3):
        ours.observe(number)
        theirs.observe(number)
    family = HistogramMetricFamily("seconds", "Seconds.", labels=())
    family.add_metric((), ours.buckets(), ours.sum)

    class Ours:
        def collect(self):
            yield family

    mine = CollectorRegistry()
    mine.register(Ours())
    said, expected = (
        [line for line in generate_latest(one).splitlines() if b"_created" not in line] for one in (mine, registry)
    )
    assert said == expected


def test_every_metric_is_there_from_the_start_with_those_of_every_server(tmp_path):
    with gateway(tmp_path, offer("first", "http://127.0.0.1:9")) as served:
        scrape = Scrape(served)
        told = {line.split()[2] for line in scrape.text.splitlines() if line.startswith("# HELP")}
        assert told >= {measure.full_name for measure in (*MEASURES, *GATEWAY_MEASURES)} | set(PROCESS_MEASURES)
        assert scrape("quernel_database_failed_writes_total") == scrape("quernel_lost_records_total") == 0
        assert breaker_of(scrape, "first") == "closed"


def test_a_fallback_is_counted_with_both_attempts_and_the_money_of_the_second(tmp_path):
    with provider("openai", [steps.failing(500)]) as first, provider("openai") as second:
        tables = offer("first", first.url, price=CHEAP), offer("second", second.url, price=DEAR)
        with gateway(tmp_path, *tables) as served:
            assert served.embed(*TEXTS).headers["x-quernel-provider"] == "second"
            scrape = Scrape(served)
            asked = {"model": EMBEDDER, "credential": "system"}
            assert scrape("quernel_provider_requests_total", provider="first", outcome="failed", **asked) == 1
            assert scrape("quernel_provider_requests_total", provider="second", outcome="ok", **asked) == 1
            assert len(scrape.named("quernel_provider_requests_total")) == 2
            assert scrape.named("quernel_provider_seconds_count") == [{"provider": "second", "model": EMBEDDER}]
            place = {"provider": "second", "model": EMBEDDER}
            assert scrape("quernel_provider_seconds_count", **place) == 1
            assert 0 < scrape("quernel_provider_seconds_sum", **place) < 10
            assert scrape.named("quernel_provider_fallbacks_total") == [place]
            assert scrape("quernel_provider_fallbacks_total", **place) == 1
            assert scrape("quernel_provider_tokens_total", direction="input", **place) == TOKENS
            (spent,) = served.read(lambda c: c.exec_driver_sql("select spent from accounts").scalars().all())
            assert scrape.named("quernel_charged_dollars_total") == [place]
            assert scrape("quernel_charged_dollars_total", **place) == pytest.approx(spent / 10**12)
            assert spent == TOKENS * 20_000_000


def test_the_first_candidates_answer_is_no_fallback_and_a_repetition_is_charged_once(tmp_path):
    with provider("openai") as first, gateway(tmp_path, offer("first", first.url, price=CHEAP)) as served:
        for _ in range(2):
            body = {"model": EMBEDDER, "input": TEXTS}
            reply = served.http.post("/v1/embeddings", json=body, headers={"idempotency-key": "k"})
            assert reply.status_code == 200
        scrape, place = Scrape(served), {"provider": "first", "model": EMBEDDER}
        assert scrape.named("quernel_provider_fallbacks_total") == []
        assert scrape("quernel_charged_dollars_total", **place) == pytest.approx(TOKENS * 10e-6)
        assert scrape("quernel_provider_requests_total", outcome="ok", credential="system", **place) == 2


def test_a_paused_provider_is_open_until_it_answers_again(tmp_path):
    with provider("openai", [steps.rate_limited(60)]) as first, provider("openai") as second:
        tables = offer("first", first.url, price=CHEAP), offer("second", second.url, price=DEAR)
        with gateway(tmp_path, *tables) as served:
            served.embed(*TEXTS)
            scrape = Scrape(served)
            assert (breaker_of(scrape, "first"), breaker_of(scrape, "second")) == ("open", "closed")
            served.parts.gateway.clock = lambda: time.monotonic() + 61
            assert breaker_of(Scrape(served), "first") == "probing"
            assert served.embed(*TEXTS, providerOptions={"gateway": {"only": ["first"]}}).status_code == 200
            assert breaker_of(Scrape(served), "first") == "closed"


def test_a_drifted_provider_shows_until_it_is_switched_off(tmp_path):
    with gateway(tmp_path, offer("first", "http://127.0.0.1:9"), offer("second", "http://127.0.0.1:9")) as served:
        health = served.parts.gateway.health.of("second", EMBEDDER, "full")
        health.drifted, health.canary_cosine = "its vectors are not those of the model", 0.25
        scrape, place = Scrape(served), {"model": EMBEDDER, "weights": "full"}
        assert scrape("quernel_provider_drifted", provider="first", **place) == 0
        assert scrape("quernel_provider_drifted", provider="second", **place) == 1
        assert scrape.named("quernel_provider_canary_cosine") == [{"provider": "second", **place}]
        assert scrape("quernel_provider_canary_cosine", provider="second", **place) == 0.25
        served.http.patch("/v1/providers/second", json={"enabled": False}).raise_for_status()
        assert eventually(lambda: Scrape(served)("quernel_provider_drifted", provider="second", **place) is None)
        assert Scrape(served)("quernel_provider_drifted", provider="first", **place) == 0


def test_requests_under_way_are_those_with_the_customers_keys_too(tmp_path):
    with (
        provider("openai", [steps.slow(1.5), steps.slow(1.5)]) as first,
        gateway(tmp_path, offer("first", first.url, byok=True)) as served,
        ThreadPoolExecutor(2) as pool,
    ):

        def running():
            return Scrape(served)("quernel_provider_requests_running", provider="first")

        assert running() == 0
        own = {"providerOptions": {"gateway": {"byok": {"first": [{"apiKey": "mine"}]}}}}
        replies = [pool.submit(served.embed, *TEXTS), pool.submit(served.embed, *TEXTS, **own)]
        assert eventually(lambda: running() == 2)
        assert [reply.result().status_code for reply in replies] == [200, 200]
        assert running() == 0


def test_a_customers_wrong_key_is_told_from_ours_and_pauses_nobody(tmp_path):
    with (
        provider("openai", [steps.failing(401)] * 3) as first,
        gateway(tmp_path, offer("first", first.url, byok=True)) as served,
    ):
        own = {"providerOptions": {"gateway": {"byok": {"first": [{"apiKey": "wrong"}]}}}}
        for _ in range(3):
            assert served.embed(*TEXTS, **own).status_code == 502
        assert served.embed(*TEXTS).status_code == 200
        scrape, place = Scrape(served), {"provider": "first", "model": EMBEDDER}
        assert {**place, "outcome": "credentials", "credential": "byok"} in scrape.named(
            "quernel_provider_requests_total"
        )
        assert scrape("quernel_provider_requests_total", outcome="credentials", credential="byok", **place) == 3
        assert scrape("quernel_provider_requests_total", outcome="ok", credential="system", **place) == 1
        assert breaker_of(scrape, "first") == "closed"


def test_refusals_for_money_and_at_limits_are_counted_apart(tmp_path):
    with provider("openai") as first, gateway(tmp_path, offer("first", first.url)) as served:
        limits = parse_limits({"minute": {"requests": 1}}, place="limits")
        poor = new_customer(served, credit="0.00001")
        busy = new_customer(served, account=AccountSettings(limits=limits))
        for customer, statuses in ((poor, [402, 402]), (busy, [200, 429])):
            with customer.client(served) as http:
                body = {"model": EMBEDDER, "input": TEXTS}
                assert [http.post("/v1/embeddings", json=body).status_code for _ in statuses] == statuses
        scrape = Scrape(served)
        assert scrape("quernel_refusals_total", model=EMBEDDER, code="insufficient_credits") == 2
        assert scrape("quernel_refusals_total", model=EMBEDDER, code="rate_limit_exceeded") == 1
        assert len(scrape.named("quernel_refusals_total")) == 2


def test_a_stream_is_counted_as_it_ends_whole_broken_off_or_given_up(tmp_path):
    script = [
        chats.streamed("Hel", "lo."),
        chats.broken_off(chats.chunk("Hel")),
        chats.streamed(*["ab"] * 500, gap=0.02),
    ]
    place = {"provider": "acme", "model": chats.CHAT}
    with (
        provider("openai", script) as acme,
        gateway(tmp_path, chats.offer("acme", acme.url), catalogue=chats.CATALOGUE) as served,
    ):
        body = {"model": chats.CHAT, "messages": [{"role": "user", "content": "Hi."}], "stream": True}
        assert served.http.post("/v1/chat/completions", json=body).content.endswith(chats.DONE)
        whole = Scrape(served)
        assert whole("quernel_provider_tokens_total", direction="input", **place) == chats.USAGE["prompt_tokens"]
        assert whole("quernel_provider_tokens_total", direction="output", **place) == chats.USAGE["completion_tokens"]
        assert whole("quernel_charged_dollars_total", **place) == pytest.approx((11 * 2 + 7 * 8) * 1e-6)
        assert whole.named("quernel_provider_broken_answers_total") == []

        served.http.post("/v1/chat/completions", json=body)
        broken = Scrape(served)
        assert broken("quernel_provider_broken_answers_total", **place) == 1
        assert broken("quernel_provider_requests_total", outcome="ok", credential="system", **place) == 2
        for name in ("quernel_charged_dollars_total", "quernel_provider_requests_running"):
            labels = place if name.endswith("_total") else {"provider": "acme"}
            assert broken(name, **labels) == whole(name, **labels)

        with served.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            next(reply.iter_raw())
        charged = eventually(
            lambda: served.read(lambda c: c.exec_driver_sql("select held = 0 and spent from accounts").scalar())
        )
        assert charged
        (spent,) = served.read(lambda c: c.exec_driver_sql("select spent from accounts").scalars().all())
        assert spent > (11 * 2 + 7 * 8) * 10**6
        given_up = eventually(
            lambda: Scrape(served)("quernel_charged_dollars_total", **place) == pytest.approx(spent / 10**12)
        )
        assert given_up


def test_the_database_tells_its_groups_and_what_it_could_not_write(tmp_path):
    with (
        provider("openai", [steps.ok, steps.failing(400)]) as first,
        gateway(tmp_path, offer("first", first.url)) as served,
    ):
        assert served.embed(*TEXTS).status_code == 200
        before = Scrape(served)
        groups = before("quernel_database_group_size_count")
        assert groups == before("quernel_database_write_seconds_count") >= 2, "a hold and a charge"
        assert before("quernel_database_group_size_sum") >= groups
        assert before("quernel_database_write_seconds_sum") > 0
        assert before("quernel_database_operations_waiting") == 0

        served.parts.database.write_now(lambda c: c.execute(sa.text("ALTER TABLE usage RENAME TO gone")))
        assert served.embed(*TEXTS).status_code == 400
        lost = eventually(lambda: Scrape(served)("quernel_lost_records_total"))
        assert (lost, Scrape(served)("quernel_database_failed_writes_total")) == (1, 1)
        served.parts.database.write_now(lambda c: c.execute(sa.text("ALTER TABLE gone RENAME TO usage")))
        assert served.read(ledger.reconcile) == []


def test_operations_wait_until_they_are_written_and_refusals_are_no_failures(database):
    async def work():
        def refuse(connection):
            raise UnavailableError("not now")

        writing = asyncio.gather(*(database.write(refuse) for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(0)
        waiting = database.num_waiting
        return waiting, await writing

    sizes = []
    database.on_group.append(lambda size, seconds: sizes.append(size))
    waiting, outcomes = asyncio.run(work())
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 3
    assert (waiting, database.num_waiting, sizes, database.num_failed) == (3, 0, [3], 0)


def test_no_label_comes_from_who_asks_however_they_ask(tmp_path):
    catalogue = [{**CATALOGUE[0], "aliases": ["spare/name"]}, CATALOGUE[1]]
    with (
        provider("openai", [steps.ok] * 10) as first,
        gateway(tmp_path, offer("first", first.url, models=(EMBEDDER, "spare/name")), catalogue=catalogue) as served,
    ):
        customer = new_customer(served)
        names = (EMBEDDER, EMBEDDER.upper(), "Spare/Name", "embedding", "no/nonesuch", RERANKER)
        headers = {"x-quernel-tags": "tag-4711", "x-forwarded-for": "203.0.113.9", "user-agent": "agent-4711"}
        with customer.client(served, headers=headers) as http:
            for name in names:
                options = {"gateway": {"user": "user-4711", "order": ["prov-4711"]}}
                body = {"model": name, "input": TEXTS, "providerOptions": options}
                http.post("/v1/embeddings", json=body)
        scrape = Scrape(served)
        place = {"provider": "first", "model": EMBEDDER, "outcome": "ok", "credential": "system"}
        assert scrape("quernel_provider_requests_total", **place) == 4
        labels = {label for _, found in scrape.samples for label in found}
        assert {value for label, value in labels if label == "model"} <= {EMBEDDER}
        assert {value for label, value in labels if label == "provider"} == {"first"}
        for hidden in (customer.account, customer.key_id, customer.key, "4711", "203.0.113.9", "spare", "nonesuch"):
            assert hidden.lower() not in scrape.text.lower()


def test_the_dashboard_of_a_gateway_shows_every_metric_of_one():
    board = json.loads((DOCS / "grafana-gateway.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown = {
        re.sub(r"_bucket$", "", name) for one in expressions for name in re.findall(r"(?:quernel|process)_\w+", one)
    }
    own = {measure.full_name for measure in GATEWAY_MEASURES} | set(PROCESS_MEASURES)
    assert own <= shown <= own | {measure.full_name for measure in MEASURES}


def test_alerts_of_the_guide_ask_for_metrics_and_labels_that_there_are():
    guide = (DOCS / "guides" / "gateway.md").read_text(encoding="utf-8")
    section = guide.partition("## Watching it\n")[2].partition("\n## ")[0]
    known = {measure.full_name: set(measure.labels) for measure in (*MEASURES, *GATEWAY_MEASURES)}
    asked = re.findall(r"\b(quernel_\w+?)(?:_bucket|_sum|_count)?\b(?:\{([^}]*)\})?", section)
    assert len(asked) > 5
    for name, selector in asked:
        assert name in known
        assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector)) <= known[name]
    for name in ("drifted", "breaker"):
        assert f"quernel_provider_{name}" in dict(asked)
    assert "quernel_database_failed_writes_total" in dict(asked)


def test_what_a_gateway_earns_is_for_keys_of_that_scope_alone(tmp_path):
    with gateway(tmp_path, demo_usd_a_day="1") as served:

        def status(scope=None):
            headers = {}
            if scope is not None:
                body = {"name": scope, "scopes": [scope]}
                headers["authorization"] = f"Bearer {served.http.post('/v1/keys', json=body).json()['key']}"
            with httpx.Client(base_url=served.url, headers=headers) as client:
                return client.get("/metrics").status_code, client.get("/v1/keys").status_code

        assert status("metrics") == (200, 403)
        assert [status(scope)[0] for scope in (None, "infer", "read", "manage")] == [401, 403, 403, 403]
