"""The canary: whoever gives other vectors than the first leaves the pool, visibly, until they are the model's again."""

import asyncio
import logging
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from tests.support import chats
from tests.support.gateway import CATALOGUE, EMBEDDER, RERANKER, gateway, offer
from tests.support.provider import provider

from quernel.errors import FailureKind, ModelNotFoundError, ProviderError
from quernel.gateway import schema
from quernel.gateway.attempts import Attempts
from quernel.gateway.canary import DOCUMENTS, LOOK_SECONDS, QUESTIONS, Canary, reset_canaries
from quernel.gateway.config import GatewayConfig
from quernel.gateway.health import BreakerState, HealthTable
from quernel.gateway.models import Models, build_model, parse_entry
from quernel.gateway.providers import parse_provider
from quernel.protocols.provider_replies import Reply
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest, RerankRequest

INTERVAL = 300.0


class Endpoint:
    """A model at a provider that can be anything from right to wrong to away.

    `tilt` mixes another vector in: the cosine with the right one is 1 / sqrt(1 + tilt^2).
    """

    def __init__(self):
        self.tilt, self.shift, self.swapped, self.failure, self.cannot = 0.0, 0.0, False, None, ()
        self.dimensions = None
        self.requests = []
        self.gate = None

    def refuses(self, request):
        is_query = isinstance(request, EmbeddingRequest) and request.instruction is not None
        return "it takes no instructions" if is_query and "instruction" in self.cannot else None

    async def answer(self, request):
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if isinstance(request, RerankRequest):
            return Reply(result=self._ranked(await FakeRerankModel(RERANKER).rerank(request)))
        result = await FakeEmbeddingModel(EMBEDDER).embed(request)
        right = result.vectors
        other = np.roll(right, 1, axis=1)
        other -= (other * right).sum(axis=1, keepdims=True) * right
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        vectors = (right + self.tilt * other)[:, : self.dimensions]
        return Reply(result=replace(result, vectors=vectors.astype(np.float32)))

    def _ranked(self, result):
        moved = [replace(one, relevance_score=one.relevance_score + self.shift) for one in result.results]
        if self.swapped:
            scores = sorted(one.relevance_score for one in moved)
            moved = [replace(one, relevance_score=score) for one, score in zip(moved, scores, strict=True)]
        return replace(result, results=tuple(moved))


class FakeRegistry:
    """Providers of whom each has an endpoint of its own."""

    def __init__(self, tables):
        self.models = Models([build_model(parse_entry(one, place="c")) for one in (*CATALOGUE, *chats.CATALOGUE)])
        self.providers = [parse_provider(table, place="p") for table in tables]
        self.endpoints = {provider.slug: Endpoint() for provider in self.providers}

    def offered(self):
        return [(one, two, self.models.find(two.model)) for one in self.providers for two in one.models]

    def upstream(self, provider, offer):
        return self.endpoints[provider.slug]


def table(slug, *, models=(EMBEDDER,), quantization="bf16", **more):
    offers = [{"model": model, "quantization": quantization} for model in models]
    return {"slug": slug, "format": "openai", "base_url": "http://localhost", "models": offers, **more}


class Clock:
    """A time that moves when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Watch:
    """A canary over fakes and a real database."""

    def __init__(self, database, run, *tables, chance=0.5):
        self.run = run
        self.clock = Clock()
        self.registry = FakeRegistry(tables)
        self.endpoints = self.registry.endpoints
        self.health = HealthTable()
        self.database = database
        self.slept = []
        self.canary = Canary(
            database,
            self.registry,
            attempts=Attempts(clock=self.clock),
            health=self.health,
            settings=GatewayConfig(canary_seconds=INTERVAL, canary_cosine=0.99),
            clock=self.clock,
            sleep=self._sleep,
            chance=lambda: chance,
        )

    async def _sleep(self, seconds):
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def look(self, after=0.0):
        self.clock.now += after
        self.run(asyncio.wait_for(self.canary.look(), 10))

    def of(self, slug, model=EMBEDDER, weights="full"):
        return self.health.of(slug, model, weights)

    def num_asked(self, slug):
        return len(self.endpoints[slug].requests)

    def stored(self):
        rows = self.database.read_now(lambda c: c.execute(sa.select(schema.canaries)).all())
        return {(row.model, row.number): row.provider for row in rows}


@pytest.fixture
def run():
    """Runs coroutines, all in one loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def watch(database, run):
    return lambda *tables, **more: Watch(database, run, *tables, **more)


def test_the_first_provider_is_the_measure_of_all_others(watch):
    found = watch(table("acme"), table("beta"))
    found.endpoints["beta"].tilt = 0.4
    found.look()
    assert set(found.stored().values()) == {"acme"}
    assert len(found.stored()) == len(DOCUMENTS) + 1
    assert (found.of("acme").drifted, found.of("acme").canary_cosine) == ("", pytest.approx(1.0))
    assert found.of("beta").drifted == "its vectors are not those of the model (cosine 0.92)"
    assert found.of("beta").canary_cosine == pytest.approx(1 / np.sqrt(1 + 0.4**2), abs=1e-6)


def test_this_machine_is_first_wherever_it_stands(watch):
    found = watch(table("acme"), table("here", format="local"))
    found.look()
    assert set(found.stored().values()) == {"here"}


def test_the_next_in_order_is_first_where_the_first_does_not_answer(watch):
    found = watch(table("acme"), table("beta"), table("gamma"))
    found.endpoints["acme"].failure = ProviderError("acme is away.", kind=FailureKind.UNREACHABLE)
    found.endpoints["gamma"].tilt = 1.0
    found.look()
    assert set(found.stored().values()) == {"beta"}
    assert found.of("gamma").drifted
    found.endpoints["acme"].failure = None
    found.look(INTERVAL)
    assert found.of("acme").canary_cosine == pytest.approx(1.0)


def test_others_wait_for_the_first_however_long_it_takes(watch):
    found = watch(table("acme"), table("beta"))

    async def work():
        found.endpoints["acme"].gate = asyncio.Event()
        looking = asyncio.create_task(found.canary.look())
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert found.num_asked("acme")
        assert not found.num_asked("beta")
        found.endpoints["acme"].gate.set()
        await looking

    found.run(work())
    assert set(found.stored().values()) == {"acme"}


def test_a_provider_that_is_right_again_is_back_and_both_are_said_once(watch, caplog):
    caplog.set_level(logging.WARNING, "quernel.gateway")
    found = watch(table("acme"), table("beta"))
    for tilt in (0.0, 0.5, 0.6, 0.7, 0.0, 0.0):
        found.endpoints["beta"].tilt = tilt
        found.look(INTERVAL)
    assert not found.of("beta").drifted
    assert [record.getMessage() for record in caplog.records] == [
        f"beta has left the pool of {EMBEDDER}: its vectors are not those of the model (cosine 0.89). "
        "If the model was changed on purpose, reset its canaries.",
        f"beta is back in the pool of {EMBEDDER}.",
    ]


def test_a_cosine_just_below_what_is_asked_is_not_shown_as_what_is_asked(watch):
    found = watch(table("acme"), table("beta"))
    found.endpoints["beta"].tilt = 0.15
    found.look()
    assert 0.98 < found.of("beta").canary_cosine < 0.99
    assert found.of("beta").drifted.endswith("(cosine 0.98)")


def test_weights_that_are_not_mixed_are_not_compared(watch):
    found = watch(table("acme"), table("beta", quantization="int8"), table("gamma", quantization="fp16"))
    found.endpoints["beta"].tilt = 5.0
    found.look()
    assert not found.of("beta", weights="int8").drifted
    assert {model for model, _ in found.stored()} == {f"{EMBEDDER}@full", f"{EMBEDDER}@int8"}
    assert found.of("gamma").canary_cosine == pytest.approx(1.0)


def test_shorter_vectors_are_compared_as_far_as_they_go(watch):
    found = watch(table("acme"), table("beta"), table("gamma"))
    found.endpoints["beta"].dimensions = 32
    found.endpoints["gamma"].dimensions, found.endpoints["gamma"].tilt = 32, 1.0
    found.look()
    assert found.of("beta").canary_cosine == pytest.approx(1.0)
    assert found.of("gamma").drifted


def test_a_provider_without_instructions_is_held_to_the_rest_and_the_next_adds_what_it_left(watch):
    found = watch(table("acme"), table("beta"), table("gamma"))
    found.endpoints["acme"].cannot = ("instruction",)
    found.look()
    assert found.stored() == {
        **{(f"{EMBEDDER}@full", number): "acme" for number in range(len(DOCUMENTS))},
        (f"{EMBEDDER}@full", len(DOCUMENTS)): "beta",
    }


def test_one_that_has_drifted_adds_nothing(watch):
    found = watch(table("acme"), table("beta"), table("gamma"))
    found.endpoints["acme"].cannot = ("instruction",)
    found.endpoints["beta"].tilt = 1.0
    found.look()
    assert found.stored()[f"{EMBEDDER}@full", len(DOCUMENTS)] == "gamma"


def test_a_reranker_is_held_to_its_scores(watch):
    tables = [table(slug, models=(RERANKER,)) for slug in ("acme", "beta", "gamma", "delta")]
    found = watch(*tables)
    found.endpoints["beta"].shift = 0.04
    found.endpoints["gamma"].shift = -0.06
    found.endpoints["delta"].swapped = True
    found.look()
    assert not found.of("beta", RERANKER).drifted
    assert found.of("gamma", RERANKER).drifted == "its scores are not those of the model (0.06 off)"
    assert "not those of the model" in found.of("delta", RERANKER).drifted


ORDERS = {
    "a clear lead lost": ((0.50, 0.47), (0.48, 0.49), "its order of documents is not that of the model"),
    "a narrow lead lost": ((0.50, 0.49), (0.49, 0.50), ""),
    "a lead that shrank": ((0.50, 0.46), (0.48, 0.48), ""),
}


@pytest.mark.parametrize(("known", "scores", "fault"), ORDERS.values(), ids=ORDERS)
def test_a_reranker_is_held_to_its_order(watch, known, scores, fault):
    found = watch(table("acme", models=(RERANKER,)), table("beta", models=(RERANKER,)))
    for slug, given in (("acme", known), ("beta", scores)):
        endpoint = found.endpoints[slug]
        endpoint._ranked = lambda result, given=given: replace(
            result,
            results=tuple(replace(one, relevance_score=(*given, 0.1)[one.index]) for one in result.results),
        )
    found.look()
    assert found.of("beta", RERANKER).drifted == fault


def test_everybody_is_asked_again_when_the_time_has_come_and_not_before(watch):
    found = watch(table("acme"), table("beta"))
    found.look()
    found.look(INTERVAL - 1)
    assert found.num_asked("acme") == found.num_asked("beta") == len(QUESTIONS["embedding"])
    found.look(1)
    assert found.num_asked("acme") == found.num_asked("beta") == 2 * len(QUESTIONS["embedding"])


def test_gateways_of_a_fleet_begin_and_go_on_at_different_times(watch, run):
    async def first_sleep(chance):
        found = watch(table("acme"), chance=chance)
        watching = asyncio.create_task(found.canary.watch())
        while len(found.slept) < 3:
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert set(found.slept[1:]) == {LOOK_SECONDS}
        return found.slept[0]

    assert [run(first_sleep(chance)) for chance in (0.0, 0.5, 1.0)] == [0.0, 30.0, 60.0]
    early, late = (watch(table("acme"), chance=chance) for chance in (0.0, 1.0))
    for found in (early, late):
        found.look()
        found.look(0.95 * INTERVAL)
    assert (early.num_asked("acme"), late.num_asked("acme")) == (4, 2)


def test_a_paused_provider_is_tried_when_its_pause_is_over_and_by_no_user(watch):
    found = watch(table("acme"), table("beta"))
    found.look()
    health, now = found.of("beta"), found.clock.now
    health.begin(now)
    health.fail(now, FailureKind.RATE_LIMITED, retry_after=20.0)
    found.look(19)
    assert found.num_asked("beta") == 2
    assert health.state(found.clock.now) is BreakerState.OPEN
    found.look(1)
    assert found.num_asked("beta") == 4
    assert found.num_asked("acme") == 2
    assert health.state(found.clock.now) is BreakerState.CLOSED
    assert health.running == 0


def test_a_failure_is_told_to_health_and_makes_the_next_pause_longer(watch):
    found = watch(table("acme"))
    found.endpoints["acme"].failure = ProviderError("acme is away.", kind=FailureKind.UNREACHABLE)
    health = found.of("acme")
    pauses = []
    for _ in range(3):
        found.look(INTERVAL * 2)
    for _ in range(3):
        pauses.append(health.opens_in(found.clock.now))
        found.look(pauses[-1])
    assert pauses == [5.0, 10.0, 20.0]
    assert health.last_failure is FailureKind.UNREACHABLE
    assert not health.drifted
    assert health.canary_cosine is None


def test_a_provider_that_refuses_the_question_is_not_asked_each_second(watch):
    found = watch(table("acme"))
    health = found.of("acme")
    health.begin(found.clock.now)
    health.fail(found.clock.now, FailureKind.FAILED, retry_after=1.0)
    found.endpoints["acme"].failure = ProviderError("acme answered with status 400.", kind=FailureKind.REFUSED)
    for _ in range(10):
        found.look(1)
    assert found.num_asked("acme") == 2 * len(QUESTIONS["embedding"])
    assert not health.drifted


def test_who_is_still_being_asked_is_not_asked_again_and_holds_up_no_other(watch):
    found = watch(table("acme"), table("beta"))
    found.look()

    async def work():
        found.endpoints["acme"].gate = asyncio.Event()
        for _ in range(3):
            found.clock.now += INTERVAL
            looking = asyncio.create_task(found.canary.look())
            await asyncio.sleep(0.05)
        assert found.num_asked("acme") == 3
        assert found.num_asked("beta") == 8
        found.endpoints["acme"].gate.set()
        await looking

    found.run(work())


def test_what_is_asked_stops_with_the_watch(watch):
    found = watch(table("acme"))

    async def work():
        found.endpoints["acme"].gate = asyncio.Event()
        watching = asyncio.create_task(found.canary.watch())
        while not found.num_asked("acme"):
            await asyncio.sleep(0.001)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    found.run(work())
    assert found.of("acme").running == 0


def test_a_provider_that_is_switched_off_or_sells_chats_is_not_asked(watch):
    found = watch(table("acme", enabled=False), table("beta", models=(chats.CHAT,)))
    found.look()
    assert found.num_asked("acme") == found.num_asked("beta") == 0


def test_a_reset_stores_anew_and_lets_everybody_back_in(watch):
    found = watch(table("acme"), table("beta"), table("gamma", quantization="int8"))
    found.look()
    for slug in ("acme", "beta"):
        found.endpoints[slug].tilt = 3.0
    found.look(INTERVAL)
    assert found.of("acme").drifted
    assert found.of("beta").drifted
    assert found.run(found.canary.reset("FAKE/Embedding")) == 2 * (len(DOCUMENTS) + 1)
    assert not found.stored()
    found.look()
    assert not found.of("acme").drifted
    assert not found.of("beta").drifted
    with pytest.raises(ModelNotFoundError):
        found.run(found.canary.reset("nobody/knows"))


def test_a_reset_by_another_process_is_seen_in_the_next_round(watch):
    found = watch(table("acme"))
    found.look()
    found.endpoints["acme"].tilt = 3.0
    found.database.write_now(lambda connection: reset_canaries(connection, EMBEDDER))
    found.look(INTERVAL)
    assert not found.of("acme").drifted


def test_two_gateways_store_once_and_each_measures_for_itself(watch, run):
    one, two = watch(table("acme"), table("beta")), watch(table("acme"), table("beta"))
    two.endpoints["acme"].tilt = 0.5

    async def both():
        await asyncio.gather(one.canary.look(), two.canary.look())

    run(both())
    assert len(one.stored()) == len(DOCUMENTS) + 1
    first_is_right = not one.of("acme").drifted and not one.of("beta").drifted
    assert first_is_right or (one.of("acme").drifted and one.of("beta").drifted)
    assert bool(two.of("acme").drifted) is first_is_right


def test_a_database_that_is_away_changes_nobodys_standing(watch, caplog):
    found = watch(table("acme"))
    found.look()
    found.database.close()
    found.look(INTERVAL)
    assert not found.of("acme").drifted
    assert not [record for record in caplog.records if "Task" in record.getMessage()]


@contextmanager
def quick(folder, *tables, local=None):
    """A gateway whose canary sings all the time."""
    with gateway(folder, *tables, local=local, canaries=True, canary_seconds=0.05, canary_cosine=0.99) as served:
        yield served


def endpoints_of(served, model=EMBEDDER):
    shown = served.http.get(f"/v1/models/{model}/endpoints").json()["data"]["endpoints"]
    return {one["provider"]: one for one in shown}


def until(look):
    for _ in range(2000):
        if look():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come to that")


def test_a_drifting_provider_is_not_asked_by_users_and_everybody_can_see_why(tmp_path):
    with (
        provider("openai") as right,
        provider("openai", model="another/model") as wrong,
        quick(tmp_path, offer("acme", right.url, price="10"), offer("bargain", wrong.url, price="1")) as served,
    ):
        until(lambda: endpoints_of(served)["bargain"]["status"] == -5)
        shown = endpoints_of(served)
        assert shown["acme"]["canary_cosine"] == pytest.approx(1.0)
        assert shown["bargain"]["canary_cosine"] < 0.9
        assert shown["bargain"]["reason"].startswith("its vectors are not those of the model")
        reply = served.embed("hello")
        assert reply.headers["x-quernel-provider"] == "acme"
        reason = reply.json()["providerMetadata"]["gateway"]["routing"]["leftOut"]["bargain"]
        assert reason.startswith("its vectors are not those of the model")


def test_canaries_are_billed_to_nobody(tmp_path):
    with provider("openai") as acme, quick(tmp_path, offer("acme", acme.url)) as served:
        until(lambda: len(acme.requests) >= 6)
        rows = served.read(lambda c: c.execute(sa.select(schema.usage)).all())
        assert not rows
        assert not served.read(lambda c: c.execute(sa.select(schema.holds)).all())


def test_models_of_this_machine_and_rerankers_are_watched_too(tmp_path):
    local = {EMBEDDER: FakeEmbeddingModel(EMBEDDER), RERANKER: FakeRerankModel(RERANKER)}
    with provider("jina", model=RERANKER) as jina:
        table = offer("jina", jina.url, format="jina", models=(RERANKER,))
        with quick(tmp_path, table, local=local) as served:
            until(lambda: endpoints_of(served)["local"]["canary_cosine"] is not None)
            until(lambda: jina.requests)
            stored = served.read(lambda c: c.execute(sa.select(schema.canaries)).all())
            assert {row.provider for row in stored} == {"local"}
            assert endpoints_of(served, RERANKER)["jina"]["status"] == 0
