"""A request from admission to bill: who may, where it goes, what it costs, what is written down.

    find the model ─▶ count tokens ─▶ find a route ─▶ hold ─▶ ask providers ─▶ settle and record ─▶ answer
                                                       │            │
                                                       └─ refused   └─ failed: void and record

An answer is given out only when its charge is on disk, and a charge is made only for an answer. Nothing of texts or
vectors is kept.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

from quernel.errors import InternalError, InvalidDimensionsError, PermissionDeniedError, QuernelError, UnavailableError
from quernel.gateway import ledger, usage
from quernel.gateway.attempts import Answer, Attempts, Trail
from quernel.gateway.byok import Wallet
from quernel.gateway.counting import count_beside
from quernel.gateway.database import Database
from quernel.gateway.formats import Reply
from quernel.gateway.health import Condition, HealthTable
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.ledger import Admission, Hold
from quernel.gateway.models import GatewayKind, GatewayModel
from quernel.gateway.money import MILLION, Picos, format_dollars, from_decimal
from quernel.gateway.principals import Principal
from quernel.gateway.providers import Offer, Provider
from quernel.gateway.registry import Registry
from quernel.gateway.replays import claim
from quernel.gateway.router import Candidate, Demands, Route, find_route
from quernel.gateway.upstream import Secret
from quernel.gateway.usage import Usage, join_tags
from quernel.protocols.provider_options import ProviderOptions
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult, check_dimensions

logger = logging.getLogger("quernel.gateway")

R = TypeVar("R", EmbeddingResult, RerankResult)

CLIENT_CLOSED = 499
"""The status of a request whose client hung up."""


@dataclass(slots=True, kw_only=True)
class Ask:
    """One request to the gateway, besides its texts.

    Attributes:
        principal: Who asks.
        options: Where it may go, and for whom it is.
        generation: The id that it is written down under.
        idempotency_key: The caller's name for it; `None` where it has none.
        fingerprint: A digest of it, for the idempotency key.
        started: When it came, by `time.perf_counter`.
        trail: Who was asked.
    """

    principal: Principal
    options: ProviderOptions = field(default_factory=ProviderOptions)
    generation: str = field(default_factory=lambda: new_id("gen"))
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    started: float = field(default_factory=time.perf_counter)
    trail: Trail = field(default_factory=Trail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a request came to.

    Attributes:
        generation: What it is written down under.
        model: The model that served it.
        provider: Who did.
        quantization: How its weights are stored there.
        cost: What was charged.
        market_cost: What it is at the provider's price, charged or not.
        byok: Whether the customer's own key was used.
        tokens: Tokens that the model read.
        admission: What is left, where that was looked at.
        route: Where it could go.
        attempts: Who was asked.
        upstream_milliseconds: How long the provider took.
    """

    generation: str
    model: str
    provider: str
    quantization: str
    cost: Picos
    market_cost: Picos
    byok: bool
    tokens: int
    admission: Admission | None
    route: Route
    attempts: list[dict[str, Any]]
    upstream_milliseconds: float

    def shown(self) -> dict[str, Any]:
        """As replies have it."""
        return {
            "generationId": self.generation,
            "cost": format_dollars(self.cost),
            "marketCost": format_dollars(self.market_cost),
            "routing": {
                "model": self.model,
                "provider": self.provider,
                "quantization": self.quantization,
                "byok": self.byok,
                "sort": self.route.sort.value,
                "planned": [candidate.provider.slug for candidate in self.route.candidates],
                "leftOut": dict(self.route.left_out),
                "attempts": self.attempts,
            },
        }


@dataclass(frozen=True, slots=True)
class Billed(Generic[R]):
    """An answer and what it came to."""

    result: R
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class _Plan(Generic[R]):
    model: GatewayModel
    request: EmbeddingRequest | RerankRequest
    tokens: int
    documents: int
    items: int
    operation: str


@dataclass(slots=True)
class _Held:
    """What a request holds: perhaps something, once it was asked for; `hold`, once it is written."""

    may_be: bool = False
    hold: Hold | None = None


class Gateway:
    """Answers requests for those who may ask.

    Args:
        database: The books.
        registry: Models and providers.
        attempts: Asks providers.
        health: How they are doing.
        wallet: Customers' own keys to providers.
        instance: The name of this process.
        clock: Seconds that do not go back, as the health of providers has them.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        attempts: Attempts,
        health: HealthTable,
        wallet: Wallet,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.registry = registry
        self.health = health
        self.instance = instance
        self._attempts = attempts
        self._wallet = wallet
        self._clock = clock
        self._writing: set[asyncio.Task[None]] = set()

    async def embed(self, ask: Ask, name: str, request: EmbeddingRequest) -> Billed[EmbeddingResult]:
        """Vectors of a model for texts, and what they cost.

        Raises:
            QuernelError: They cannot be had; nothing is charged.
        """

        async def plan(name: str) -> _Plan[EmbeddingResult]:
            model = self._model(ask.principal, name, GatewayKind.EMBEDDING)
            assert model.dimensions is not None, "embedding models have"
            _check_length(request.dimensions, model)
            tokens = await count_beside(model.counter, request)
            return _Plan(model, request, tokens=tokens, documents=0, items=len(request.inputs), operation="embed")

        return await self._serve(ask, name, plan)

    async def rerank(self, ask: Ask, name: str, request: RerankRequest) -> Billed[RerankResult]:
        """The order of documents by a model, and what it costs. Errors as `embed`."""

        async def plan(name: str) -> _Plan[RerankResult]:
            model = self._model(ask.principal, name, GatewayKind.RERANKER)
            tokens = await count_beside(model.counter, request)
            count = len(request.documents)
            return _Plan(model, request, tokens=tokens, documents=count, items=count, operation="rerank")

        return await self._serve(ask, name, plan)

    def condition(self, provider: Provider, offer: Offer) -> Condition:
        """How a model at a provider is doing."""
        return self.health.condition(provider.slug, offer.model, offer.weights, self._clock())

    async def drain(self) -> None:
        """Wait until all that is to be written down is."""
        while self._writing:
            await asyncio.gather(*self._writing, return_exceptions=True)

    async def _serve(self, ask: Ask, name: str, plan: Callable[[str], Coroutine[Any, Any, _Plan[R]]]) -> Billed[R]:
        """The answer of the model of that name, or of the first of the request's other models that has one."""
        names: tuple[str, ...] = (name, *ask.options.models)
        planned: _Plan[R] | None = None
        try:
            for other, one in zip((*names[1:], None), names, strict=True):
                try:
                    planned = await plan(one)
                    return await self._serve_one(ask, planned)
                except UnavailableError:
                    if other is None:
                        raise
            raise AssertionError("the last model answers or raises")
        except BaseException as error:
            if planned is not None:
                self._record_failure(ask, planned, error)
            raise

    async def _serve_one(self, ask: Ask, plan: _Plan[R]) -> Billed[R]:
        demands = self._demands(ask, plan)
        keys = await self._wallet.keys(ask, self.registry.providers, zdr=demands.zdr)
        route = find_route(
            plan.model.name,
            self.registry.providers,
            replace(demands, only=tuple(keys)) if keys and not demands.only else demands,
            self.health,
            now=self._clock(),
            now_ms=now_ms(),
            refuses=lambda provider, offer: self._refuses(provider, offer, plan.request),
        )
        most = max(_cost(candidate, plan, keys) for candidate in route.candidates)
        held = _Held()
        try:
            admission = None
            if most or ask.principal.meters or ask.idempotency_key is not None:
                admission = await self._hold(ask, plan, most, held)
            answer = await self._attempts.ask(
                route.candidates, lambda candidate: self._call(candidate, plan, keys), plan.tokens, ask.trail
            )
            return await self._settle(ask, plan, answer, held=held, admission=admission, route=route, keys=keys)
        except BaseException:
            self._let_go(held, ask.principal.account.id)
            raise

    def _model(self, principal: Principal, name: str, kind: GatewayKind) -> GatewayModel:
        model = self.registry.models.of_kind(name, kind)
        for whose, allowed in (
            ("This key", principal.settings.models),
            ("This account", principal.account.settings.models),
        ):
            if allowed and not {one.lower() for one in allowed} & set(model.names):
                raise PermissionDeniedError(f"{whose} may not ask {model.name}.", param="model")
        return model

    def _demands(self, ask: Ask, plan: _Plan[R]) -> Demands:
        options, account, key = ask.options, ask.principal.account.settings, ask.principal.settings
        allowed = [frozenset(names) for names in (account.providers, key.providers) if names]
        request = plan.request
        texts = len(request.documents) if isinstance(request, RerankRequest) else len(request.inputs)
        price = None if options.max_price is None else from_decimal(options.max_price) // MILLION
        return Demands(
            order=options.order,
            only=options.only,
            ignore=options.ignore,
            allowed=frozenset.intersection(*allowed) if allowed else None,
            sort=options.sort,
            zdr=options.zero_data_retention or account.zdr or key.zdr,
            no_training=options.disallow_prompt_training or account.no_training or key.no_training,
            regions=account.regions,
            headquarters=options.headquarters,
            not_headquarters=options.not_headquarters,
            quantizations=options.quantizations,
            not_quantizations=options.not_quantizations,
            max_token_price=price,
            tokens=plan.tokens if texts == 1 and plan.model.counter.is_exact else 0,
            dimensions=request.dimensions if isinstance(request, EmbeddingRequest) else None,
            allow_fallbacks=options.allow_fallbacks,
        )

    def _refuses(self, provider: Provider, offer: Offer, request: EmbeddingRequest | RerankRequest) -> str | None:
        try:
            return self.registry.upstream(provider, offer).refuses(request)
        except QuernelError as error:
            return f"it cannot be used as it is configured ({error.message})"

    async def _call(self, candidate: Candidate, plan: _Plan[R], keys: Mapping[str, Secret]) -> Reply[R]:
        upstream = self.registry.upstream(candidate.provider, candidate.offer, keys.get(candidate.provider.slug))
        return await upstream.answer(plan.request)

    async def _hold(self, ask: Ask, plan: _Plan[R], amount: Picos, held: "_Held") -> Admission:
        """Reserve what a request costs at most; `held` says what was, even to a caller that was cancelled meanwhile."""
        principal = ask.principal
        wanted = Hold(
            id=ask.generation,
            asker=ask.generation,
            account=principal.account.id,
            key=principal.key,
            amount=amount,
            tokens=plan.tokens,
            meters=principal.meters,
            instance=self.instance,
        )
        key, fingerprint = ask.idempotency_key, ask.fingerprint

        def operation(connection: Connection) -> Admission:
            now, named = now_ms(), wanted
            if key is not None:
                ledger.lock(connection, wanted.account)
                named = replace(wanted, id=claim(connection, wanted.account, key, fingerprint, wanted.id, now=now))
            admission = ledger.hold(connection, named, now=now)
            held.hold = named
            return admission

        held.may_be = True
        return await self.database.write(operation, lock=wanted.account)

    async def _settle(
        self,
        ask: Ask,
        plan: _Plan[R],
        answer: Answer[Reply[R]],
        *,
        held: "_Held",
        admission: Admission | None,
        route: Route,
        keys: Mapping[str, Secret],
    ) -> Billed[R]:
        reply, candidate = answer.value, answer.candidate
        counted = reply.reported_tokens
        # Our own count is the truth where it is exact. Else it is a bound, beyond which nobody is charged.
        tokens = plan.tokens if plan.model.counter.is_exact or counted is None else min(counted, plan.tokens)
        exact = replace(plan, tokens=tokens)
        market = candidate.price.cost(tokens=tokens, documents=plan.documents)
        cost = _cost(candidate, exact, keys)
        byok = candidate.provider.slug in keys
        row = replace(
            self._row(ask, exact),
            provider=candidate.provider.slug,
            cost=cost,
            upstream_cost=market,
            price=candidate.price.id,
            upstream_milliseconds=answer.seconds * 1000,
            byok=byok,
            credential="byok" if byok else "system",
        )
        if held.hold is None:
            self._write_later(lambda connection: usage.record(connection, row))
            charged = cost
        else:
            hold = held.hold

            def operation(connection: Connection) -> Picos:
                now = now_ms()
                charged = ledger.settle(connection, hold, cost=cost, tokens=tokens, now=now)
                usage.record(connection, replace(row, time=now, cost=charged))
                return charged

            charged = await self.database.write(operation, lock=hold.account)
        if counted is not None and plan.model.counter.is_exact and counted != tokens:
            logger.warning(
                "%s counted %d tokens in a request to %s that has %d.",
                candidate.provider.slug,
                counted,
                plan.model.name,
                tokens,
            )
        receipt = Receipt(
            generation=ask.generation,
            model=plan.model.name,
            provider=candidate.provider.slug,
            quantization=candidate.offer.quantization,
            cost=charged,
            market_cost=market,
            byok=byok,
            tokens=tokens,
            admission=admission,
            route=route,
            attempts=ask.trail.shown(),
            upstream_milliseconds=answer.seconds * 1000,
        )
        return Billed(replace(reply.result, model=plan.model.name), receipt)

    def _let_go(self, held: "_Held", account: str) -> None:
        """Void what a failed request held, or is perhaps just holding: operations are written in their order."""
        if not held.may_be:
            return

        def operation(connection: Connection) -> None:
            if held.hold is not None:
                ledger.void(connection, held.hold.id, account)

        self._write_later(operation, lock=account)

    def _record_failure(self, ask: Ask, plan: _Plan[R], error: BaseException) -> None:
        row = replace(self._row(ask, plan), tokens=0, documents=0, status=CLIENT_CLOSED, code="client_closed")
        if isinstance(error, QuernelError):
            row = replace(row, status=error.status, code=error.code)
        elif isinstance(error, Exception):
            row = replace(row, status=InternalError.status, code=InternalError.code)
        self._write_later(lambda connection: usage.record(connection, row), lock=row.account)

    def _row(self, ask: Ask, plan: _Plan[R]) -> Usage:
        principal: Principal = ask.principal
        return Usage(
            id=ask.generation,
            time=now_ms(),
            account=principal.account.id,
            key=principal.key,
            user=(ask.options.user or principal.user)[: usage.MOST_LABEL],
            tags=join_tags((*principal.tags, *ask.options.tags)),
            operation=plan.operation,
            model=plan.model.name,
            items=plan.items,
            tokens=plan.tokens,
            documents=plan.documents,
            milliseconds=(time.perf_counter() - ask.started) * 1000,
            attempts=ask.trail.shown(),
            credential="system",
        )

    def _write_later(self, operation: Callable[[Connection], None], lock: str = "") -> None:
        """Write what nobody waits for."""

        async def write() -> None:
            try:
                await self.database.write(operation, lock=lock)
            except QuernelError:
                logger.exception("A request could not be written down.")

        task = asyncio.get_running_loop().create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)


def _cost(candidate: Candidate, plan: _Plan[Any], keys: Mapping[str, Secret]) -> Picos:
    """What a request is charged at a provider: nothing where the customer pays the provider."""
    if candidate.provider.slug in keys:
        return 0
    return candidate.price.cost(tokens=plan.tokens, documents=plan.documents)


def _check_length(dimensions: int | None, model: GatewayModel) -> None:
    """Refuse a length that the model's vectors cannot have.

    Raises:
        InvalidDimensionsError: Such.
    """
    assert model.dimensions is not None, "embedding models have"
    if dimensions is not None and model.min_dimensions == model.dimensions != dimensions:
        raise InvalidDimensionsError(
            f"dimensions is {dimensions}, but {model.name} gives {model.dimensions}, which cannot be cut.",
            param="dimensions",
            hint="Leave it out.",
        )
    check_dimensions(dimensions, model.dimensions)
