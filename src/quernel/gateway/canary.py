"""Fixed texts whose vectors are stored: a provider that gives others for them leaves the pool until it does not.

Silent wrong vectors (another model behind the same name, another cut, a lost prompt) look like an answer. So every
model at every provider is asked for the same few texts from time to time, without a bill and past all routing. The
first provider that answers, this machine before others, has its vectors stored for all weights that may be mixed with
its own, and every other is compared with them. Rerankers are held to their scores and to the order of the documents.

The same question tries a provider again that was paused after failures, when its pause is over, so that its recovery
costs no user a request.

What it costs: a round is 178 tokens of the family's tokenizer for an embedding model, and three short documents, 267
tokens with their prompts, for a reranker. With `canary_seconds` at 300 that is 51,000 tokens a day for each model of a
provider, which is $0.0005 at $0.01 per million; or 864 documents. Chat models are not asked: they say something else
each time.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import FailureKind, InvalidRequestError, ModelNotFoundError, ProviderError, QuernelError
from quernel.gateway import schema
from quernel.gateway.attempts import Attempts
from quernel.gateway.config import GatewayConfig
from quernel.gateway.database import Database
from quernel.gateway.health import FIRST_PAUSE_SECONDS, BreakerState, Health, HealthTable
from quernel.gateway.ids import now_ms
from quernel.gateway.models import GatewayKind, GatewayModel
from quernel.gateway.providers import LOCAL, Offer, Provider
from quernel.gateway.registry import Registry, Upstream
from quernel.gateway.router import Candidate
from quernel.protocols.provider_replies import Reply
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult

logger = logging.getLogger("quernel.gateway")

DOCUMENTS = (
    "A canary is a small songbird.",
    "Coal miners took canaries underground because the birds felt bad air before people did: a canary that swayed on "
    "its perch sent a whole shift back to the surface, long before anybody had a headache. The last of them retired "
    "from British pits in 1986, when an electronic nose took over.",
    "Le canari chante à l'aube. Der Vogel schläft am Abend. 金丝雀在矿井里。カナリアは黄色い。Канарейка поёт.",
    "def fits(beak: float, seed: float) -> bool:\n    return 0 < seed <= beak / 2  # no seed, no song\n",
)
QUERY = "Why did miners carry birds?"
INSTRUCTION = "Given a question about animals, retrieve passages that answer it"

RANKING = RerankRequest(
    query=QUERY,
    documents=(
        "Miners carried canaries because the birds showed them bad air.",
        "The canary is named after the Canary Islands.",
        "Interest on the loan is due at the end of each quarter.",
    ),
)

QUESTIONS: Mapping[GatewayKind, Sequence[tuple[int, EmbeddingRequest | RerankRequest]]] = {
    GatewayKind.EMBEDDING: (
        (0, EmbeddingRequest(inputs=DOCUMENTS)),
        (len(DOCUMENTS), EmbeddingRequest(inputs=(QUERY,), instruction=INSTRUCTION)),
    ),
    GatewayKind.RERANKER: ((0, RANKING),),
    GatewayKind.CHAT: (),
}
"""What is asked, each with the number of its first vector. The scores of a ranking are one vector."""

MOST_SCORE_DIFFERENCE = 0.05

CLEAR_LEAD = 0.02
"""A document that leads another by more must not fall behind it."""

LOOK_SECONDS = 1.0
"""How often is looked whose turn it is."""

LONGEST_START_SECONDS = 60.0
"""The first round is at some time within so long, so that the gateways of a fleet do not ask at once."""

SPREAD = 0.1
"""By so much of the whole a round is earlier or later."""

SEPARATOR = "@"

Vector: TypeAlias = npt.NDArray[np.float32]

Found: TypeAlias = dict[int, Vector]
"""Vectors by the number of their text."""


@dataclass(slots=True)
class _Watched:
    """A model at a provider.

    Attributes:
        due: When it is asked next.
        asked: When it was asked last.
        task: Asks it.
    """

    provider: Provider
    offer: Offer
    model: GatewayModel
    due: float
    asked: float = -math.inf
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def pool(self) -> str:
        """What its vectors are stored under: the same for all that may be mixed."""
        return f"{self.model.name.lower()}{SEPARATOR}{self.offer.weights}"


class Canary:
    """Watches all providers.

    Args:
        database: Where vectors are stored.
        registry: The providers.
        attempts: Asks them, each in its turn.
        health: Is told how they are.
        settings: How often, and how like the vectors must be.
        clock: Seconds, as the health of providers has them.
        sleep: Waits.
        chance: A number from 0 to 1, for when to ask.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        attempts: Attempts,
        health: HealthTable,
        settings: GatewayConfig,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._registry = registry
        self._attempts = attempts
        self._health = health
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._watched: dict[tuple[str, str, str], _Watched] = {}
        self._storing: dict[str, asyncio.Lock] = {}

    async def watch(self) -> None:
        """Ask everybody when it is their turn; until cancelled."""
        try:
            await self._sleep(self._chance() * min(self._settings.canary_seconds, LONGEST_START_SECONDS))
            while True:
                self._begin()
                await self._sleep(LOOK_SECONDS)
        finally:
            tasks = list(self._tasks())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Ask those whose turn it is, and wait until they have answered."""
        self._begin()
        await asyncio.gather(*self._tasks())

    async def reset(self, name: str) -> int:
        """Forget the stored vectors of a model that was changed on purpose; the first provider's are stored anew.

        Returns:
            How many there were.

        Raises:
            ModelNotFoundError: No such model.
            UnavailableError: The database does not answer.
        """
        model = self._registry.models.find(name)
        if model is None:
            raise ModelNotFoundError(f"The model {name[:200]!r} is not served here.", param="model")
        forgotten = await self._database.write(lambda connection: reset_canaries(connection, model.name))
        for watched in self._watched.values():
            if watched.model is model:
                watched.due = self._clock()
        return forgotten

    def _tasks(self) -> "Iterator[asyncio.Task[None]]":
        return (watched.task for watched in self._watched.values() if watched.task is not None)

    def _begin(self) -> None:
        """Ask those whose turn it is: who is well when its time has come, who is paused when its pause is over."""
        now, before = self._clock(), self._watched
        self._watched = {}
        # The first to answer is the one whose vectors are stored.
        for provider, offer, model in sorted(self._registry.offered(), key=lambda found: found[0].format != LOCAL):
            if not provider.enabled or not QUESTIONS[model.kind]:
                continue
            place = (provider.slug, offer.model.lower(), offer.weights)
            watched = before.get(place) or _Watched(provider, offer, model, due=now)
            watched.provider, watched.offer, watched.model = provider, offer, model
            self._watched[place] = watched
            if watched.task is not None and not watched.task.done():
                continue
            state = self._health_of(watched).state(now)
            is_recovering = state is BreakerState.PROBING and now >= watched.asked + FIRST_PAUSE_SECONDS
            if is_recovering or (state is BreakerState.CLOSED and now >= watched.due):
                watched.asked = now
                watched.due = now + self._settings.canary_seconds * (1 + SPREAD * (2 * self._chance() - 1))
                watched.task = asyncio.get_running_loop().create_task(self._ask(watched))

    async def _ask(self, watched: _Watched) -> None:
        try:
            upstream = self._registry.upstream(watched.provider, watched.offer)
            questions = [one for one in QUESTIONS[watched.model.kind] if upstream.refuses(one[1]) is None]
            async with self._storing.setdefault(watched.pool, asyncio.Lock()):
                stored = await self._stored(watched)
                is_first = any(number not in stored for number, _ in questions)
                if is_first:
                    # Others wait: whoever is next in order is compared with this one, or first itself if this fails.
                    found = await self._answers(watched, upstream, questions)
                    if not _judge(watched.model.kind, found, stored, self._settings.canary_cosine).fault:
                        stored = await self._store(watched, found)
            if not is_first:
                found = await self._answers(watched, upstream, questions)
            self._tell(watched, found, stored)
        except QuernelError as error:
            # Its health knows already, if it is a failure of the provider's.
            logger.debug("%s was not compared in %s (%s).", watched.provider.slug, watched.model.name, error.code)

    async def _answers(
        self, watched: _Watched, upstream: Upstream, questions: Sequence[tuple[int, EmbeddingRequest | RerankRequest]]
    ) -> Found:
        """What a provider says to the questions that it does not find fault with.

        Raises:
            ProviderError: It failed.
        """
        candidate = Candidate(
            provider=watched.provider,
            offer=watched.offer,
            price=watched.offer.price(now_ms()),
            health=self._health_of(watched),
        )
        found: Found = {}
        for first, question in questions:

            async def call(_: Candidate, question: object = question) -> Reply[Any]:
                reply: Reply[Any] = await upstream.answer(question)
                return reply

            try:
                tokens = watched.model.counter.count(question)
                answer = await self._attempts.ask_once(candidate, call, tokens)
            except InvalidRequestError:
                continue
            except ProviderError as error:
                if error.kind is not FailureKind.REFUSED:
                    raise
                continue
            for number, vector in enumerate(_vectors(answer.value.result), start=first):
                found[number] = vector
        return found

    async def _stored(self, watched: _Watched) -> Found:
        return await self._database.read(lambda connection: _load(connection, watched.pool))

    async def _store(self, watched: _Watched, found: Found) -> Found:
        """What is stored, now that this is too, where nothing was. Another gateway may have been first."""
        slug = watched.provider.slug

        def operation(connection: Connection) -> Found:
            stored = _load(connection, watched.pool)
            rows = [
                {
                    "model": watched.pool,
                    "number": number,
                    "vector": vector.tobytes(),
                    "provider": slug,
                    "time": now_ms(),
                }
                for number, vector in found.items()
                if number not in stored
            ]
            if rows:
                connection.execute(sa.insert(schema.canaries), rows)
            return {**found, **stored}

        return await self._database.write(operation)

    def _tell(self, watched: _Watched, found: Found, stored: Found) -> None:
        """Note how like the stored vectors a provider's are, and say when it leaves the pool or comes back."""
        if not found:
            return
        health, slug, model = self._health_of(watched), watched.provider.slug, watched.model.name
        verdict = _judge(watched.model.kind, found, stored, self._settings.canary_cosine)
        health.canary_cosine = verdict.cosine
        if verdict.fault and not health.drifted:
            logger.warning(
                "%s has left the pool of %s: %s. If the model was changed on purpose, reset its canaries.",
                slug,
                model,
                verdict.fault,
            )
        if health.drifted and not verdict.fault:
            logger.warning("%s is back in the pool of %s.", slug, model)
        health.drifted = verdict.fault

    def _health_of(self, watched: _Watched) -> Health:
        return self._health.of(watched.provider.slug, watched.offer.model, watched.offer.weights)


def reset_canaries(connection: Connection, model: str) -> int:
    """Forget the stored vectors of a model, of all its weights; every gateway stores and compares anew.

    Args:
        connection: The transaction.
        model: Its name, not an alias.

    Returns:
        How many there were.
    """
    column = schema.canaries.c.model
    pools = connection.execute(sa.select(column).distinct()).scalars().all()
    mine = [pool for pool in pools if pool.rpartition(SEPARATOR)[0] == model.lower()]
    return int(connection.execute(sa.delete(schema.canaries).where(column.in_(mine))).rowcount)


def _load(connection: Connection, pool: str) -> Found:
    rows = connection.execute(sa.select(schema.canaries).filter_by(model=pool))
    return {row.number: np.frombuffer(row.vector, dtype="<f4") for row in rows}


def _vectors(result: EmbeddingResult | RerankResult) -> list[Vector]:
    """Vectors in the order of their texts; of a ranking one, of the scores in the order of the documents."""
    if isinstance(result, EmbeddingResult):
        return [np.asarray(vector, dtype="<f4") for vector in result.vectors]
    ordered = sorted(result.results, key=lambda ranked: ranked.index)
    return [np.array([ranked.relevance_score for ranked in ordered], dtype="<f4")]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """How like the stored vectors others are.

    Attributes:
        fault: Why they are not the model's; empty where they are.
        cosine: Of the pair that is the least alike; `None` for scores.
    """

    fault: str = ""
    cosine: float | None = None


def _judge(kind: GatewayKind, found: Found, stored: Found, least: float) -> _Verdict:
    pairs = [(found[number], stored[number]) for number in found if number in stored]
    if not pairs:
        return _Verdict()
    if kind is GatewayKind.RERANKER:
        return _Verdict(fault=next(filter(None, (_score_fault(scores, known) for scores, known in pairs)), ""))
    cosine = min(_cosine(vector, known) for vector, known in pairs)
    if cosine >= least:
        return _Verdict(cosine=cosine)
    # Cut rather than rounded, so that what is shown is less than what was asked for.
    return _Verdict(f"its vectors are not those of the model (cosine {math.floor(cosine * 100) / 100:.2f})", cosine)


def _cosine(one: Vector, other: Vector) -> float:
    """Of as many dimensions as both have: the vectors of these models may be cut."""
    shared = min(len(one), len(other))
    a, b = one[:shared].astype(np.float64), other[:shared].astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _score_fault(scores: Vector, known: Vector) -> str:
    difference = float(np.abs(scores - known).max())
    if difference > MOST_SCORE_DIFFERENCE:
        return f"its scores are not those of the model ({difference:.2f} off)"
    leads, now = np.subtract.outer(known, known), np.subtract.outer(scores, scores)
    if ((leads > CLEAR_LEAD) & (now < 0)).any():
        return "its order of documents is not that of the model"
    return ""
