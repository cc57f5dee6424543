"""A request from admission to bill: who may, where it goes, what it costs, what is written down.

    find the model ─▶ count tokens ─▶ find a route ─▶ hold ─▶ ask providers ─▶ settle and record ─▶ answer
                                                       │            │
                                                       └─ refused   └─ failed: void and record

An answer is given out only when its charge is on disk, and a charge is made only for an answer. What is held for an
answer that is sent as it is written is on disk before its first byte, its charge before its last. Nothing of texts or
vectors is kept, unless operator and account both have turned capture on.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar, cast

from sqlalchemy.engine import Connection

from quernel.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidDimensionsError,
    PermissionDeniedError,
    ProviderError,
    QuernelError,
    UnavailableError,
)
from quernel.gateway import ledger, usage
from quernel.gateway.attempts import Answer, Attempts, Trail
from quernel.gateway.byok import Wallet
from quernel.gateway.capture import Capture, Captured
from quernel.gateway.chat import ChatReply, ChatStream
from quernel.gateway.counting import count_beside
from quernel.gateway.database import Database
from quernel.gateway.health import Condition, HealthTable
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.ledger import Admission, Hold
from quernel.gateway.metrics import Counts
from quernel.gateway.models import GatewayKind, GatewayModel
from quernel.gateway.money import MILLION, Picos, format_dollars, from_decimal
from quernel.gateway.principals import Principal
from quernel.gateway.providers import Offer, Provider
from quernel.gateway.registry import Registry
from quernel.gateway.replays import claim
from quernel.gateway.router import Candidate, Demands, Route, find_route
from quernel.gateway.upstream import Secret
from quernel.gateway.usage import Usage, join_tags
from quernel.protocols.chat import DONE, ChatCall
from quernel.protocols.provider_options import ProviderOptions
from quernel.protocols.provider_replies import Reply
from quernel.server.inference import gather
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult, check_dimensions

logger = logging.getLogger("quernel.gateway")

R = TypeVar("R", EmbeddingResult, RerankResult)

T = TypeVar("T")
"""What a provider answers: a `Reply`, `ChatReply` or `ChatStream`."""

A = TypeVar("A")
"""What comes of it."""

Replies: TypeAlias = tuple[Reply[R], ...]
"""What a provider said to each question of a request: vectors to its texts, an order to each query."""

CLIENT_CLOSED = 499
"""The status of a request whose client hung up."""

CLIENT_CLOSED_CODE = "client_closed"

TIMER_SECONDS = 0.002
"""A timer of the event loop counts whole milliseconds and may end before its time."""

MOST_OWN = 1_000
"""Accounts with keys of their own to providers whose health is kept, those that asked last."""


@dataclass(slots=True, kw_only=True)
class Ask:
    """One request to the gateway, besides its texts.

    Attributes:
        principal: Who asks.
        options: Where it may go, and for whom it is.
        generation: The id that it is written down under.
        deadline: When its time is over, by the same clock; `None` for never.
        idempotency_key: The caller's name for it; `None` where it has none.
        fingerprint: A digest of it, for the idempotency key.
        started: When it came, by `time.perf_counter`.
        trail: Who was asked.
        is_filed: Whether it is written down, or will be; what is refused before its model is known is not.
    """

    principal: Principal
    options: ProviderOptions = field(default_factory=ProviderOptions)
    generation: str = field(default_factory=lambda: new_id("gen"))
    deadline: float | None = None
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    started: float = field(default_factory=time.perf_counter)
    trail: Trail = field(default_factory=Trail)
    is_filed: bool = False


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
        output_tokens: Tokens that it wrote.
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
    output_tokens: int
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
class Billed(Generic[T]):
    """An answer and what it came to."""

    result: T
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan(Generic[T]):
    """What a request to one model is, at most: what it reads, and what it writes."""

    model: GatewayModel
    request: tuple[EmbeddingRequest | RerankRequest, ...] | ChatCall
    tokens: int
    output_tokens: int = 0
    documents: int = 0
    items: int
    operation: str


@dataclass(slots=True)
class _Held:
    """What a request holds: perhaps something, once it was asked for; `hold`, once it is written."""

    may_be: bool = False
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Generic[T]):
    """A request that has its answer, and is still to be paid for."""

    ask: Ask
    plan: _Plan[T]
    answer: Answer[T]
    held: _Held
    admission: Admission | None
    route: Route
    keys: Mapping[str, Secret]

    @property
    def provider(self) -> str:
        """Who has answered."""
        return self.answer.candidate.provider.slug


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
        capture: Where requests of accounts that want it are written; `None` for nowhere.

    Attributes:
        counts: What was done so far, for `/metrics`.
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
        capture: Capture | None = None,
    ) -> None:
        self.database = database
        self.registry = registry
        self.health = health
        self.instance = instance
        self.clock = clock
        self.counts = Counts()
        self._attempts = attempts
        self._wallet = wallet
        self._capture = capture
        self._writing: set[asyncio.Task[None]] = set()
        self._own: dict[str, HealthTable] = {}
        self._miscounting: set[tuple[str, str]] = set()

    async def embed(self, ask: Ask, name: str, request: EmbeddingRequest) -> Billed[EmbeddingResult]:
        """Vectors of a model for texts, and what they cost.

        Raises:
            QuernelError: They cannot be had; nothing is charged.
        """

        async def plan(name: str) -> _Plan[Replies[EmbeddingResult]]:
            model = self._model(ask.principal, name, GatewayKind.EMBEDDING)
            _check_length(request.dimensions, model)
            tokens = await count_beside(model.counter, request)
            return _Plan(model=model, request=(request,), tokens=tokens, items=len(request.inputs), operation="embed")

        billed = await self._serve(ask, name, plan, self._settle_replies)
        return Billed(billed.result[0], billed.receipt)

    async def rerank(self, ask: Ask, name: str, *requests: RerankRequest) -> Billed[tuple[RerankResult, ...]]:
        """The order of each query's documents by a model, and what they cost together. Errors as `embed`."""

        async def plan(name: str) -> _Plan[Replies[RerankResult]]:
            model = self._model(ask.principal, name, GatewayKind.RERANKER)
            tokens = sum([await count_beside(model.counter, request) for request in requests])
            count = sum(len(request.documents) for request in requests)
            return _Plan(model=model, request=requests, tokens=tokens, documents=count, items=count, operation="rerank")

        return await self._serve(ask, name, plan, self._settle_replies)

    async def chat(self, ask: Ask, name: str, call: ChatCall) -> Billed[ChatReply]:
        """The answer of a chat model, and what it costs. Errors as `embed`."""

        async def plan(name: str) -> _Plan[ChatReply]:
            return self._plan_chat(ask, name, call)

        async def finish(served: Served[ChatReply]) -> Billed[ChatReply]:
            reply = served.answer.value
            return Billed(reply, await self.settle(served, *chat_tokens(served)))

        return await self._serve(ask, name, plan, finish)

    async def stream_chat(self, ask: Ask, name: str, call: ChatCall) -> "BilledStream":
        """The answer of a chat model as it is written, once it begins; whoever has it closes it. Errors as `embed`."""

        async def plan(name: str) -> _Plan[ChatStream]:
            return self._plan_chat(ask, name, call)

        async def finish(served: Served[ChatStream]) -> BilledStream:
            return BilledStream(self, served)

        return await self._serve(ask, name, plan, finish)

    def condition(self, provider: Provider, offer: Offer) -> Condition:
        """How a model at a provider is doing."""
        return self.health.condition(provider.slug, offer.model, offer.weights, self.clock())

    @property
    def health_tables(self) -> Sequence[HealthTable]:
        """How providers are doing with our keys, and with those of each account that has its own."""
        return self.health, *self._own.values()

    @property
    def is_writing(self) -> bool:
        """Whether something is to be written down yet."""
        return bool(self._writing)

    async def drain(self) -> None:
        """Wait until all is written down that is to be at this moment."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _serve(
        self,
        ask: Ask,
        name: str,
        plan: Callable[[str], Awaitable[_Plan[T]]],
        finish: Callable[[Served[T]], Awaitable[A]],
    ) -> A:
        """What comes of the answer of the model of that name, or of the first of the request's other models that has
        one."""
        names: tuple[str, ...] = (name, *ask.options.models)
        planned: _Plan[T] | None = None
        try:
            for other, one in zip((*names[1:], None), names, strict=True):
                try:
                    planned = await plan(one)
                    ask.is_filed = True
                    return await self._serve_one(ask, planned, finish)
                except UnavailableError:
                    if other is None:
                        raise
            raise AssertionError("the last model answers or raises")
        except BaseException as error:
            if planned is not None:
                self._record_failure(ask, planned, error)
            raise

    async def _serve_one(self, ask: Ask, plan: _Plan[T], finish: Callable[[Served[T]], Awaitable[A]]) -> A:
        demands = self._demands(ask, plan)
        keys = await self._wallet.keys(ask, self.registry.providers, zdr=demands.zdr)
        route = find_route(
            plan.model.name,
            self.registry.providers,
            replace(demands, only=tuple(keys)) if keys and not demands.only else demands,
            self._own_health(ask.principal.account.id) if keys else self.health,
            now=self.clock(),
            now_ms=now_ms(),
            refuses=lambda provider, offer: self._refuses(provider, offer, plan.request),
        )
        most = max(_cost(candidate, plan, keys) for candidate in route.candidates)
        held = _Held()
        try:
            admission = None
            if most or ask.principal.meters or ask.idempotency_key is not None:
                admission = await self._hold(ask, plan, most, held)
            answer = await self._ask_providers(ask, plan, route, keys)
            served = Served(ask=ask, plan=plan, answer=answer, held=held, admission=admission, route=route, keys=keys)
            return await finish(served)
        except BaseException:
            self._let_go(held, ask.principal.account.id)
            raise

    async def _ask_providers(self, ask: Ask, plan: _Plan[T], route: Route, keys: Mapping[str, Secret]) -> Answer[T]:
        num_before, is_chat = len(ask.trail.attempts), isinstance(plan.request, ChatCall)
        try:
            answer = await self._attempts.ask(
                route.candidates,
                lambda candidate: self._call(candidate, plan, keys),
                0 if is_chat else plan.tokens,  # what a chat model reads does not say how fast it writes
                ask.trail,
                hedge=not is_chat,
            )
        finally:
            self.counts.note_attempts(plan.model.name, ask.trail.attempts[num_before:], keys)
        if answer.candidate is not route.candidates[0]:
            self.counts.fallbacks[answer.candidate.provider.slug, plan.model.name] += 1
        return answer

    def _plan_chat(self, ask: Ask, name: str, call: ChatCall) -> _Plan[Any]:
        model = self._model(ask.principal, name, GatewayKind.CHAT)
        # A byte-level tokenizer makes at most one token of a byte; of an image it may make many.
        tokens = min(call.num_bytes, model.max_tokens) if call.is_text else model.max_tokens
        written = min(call.max_output_tokens or model.max_tokens, model.max_tokens) * call.num_choices
        return _Plan(model=model, request=call, tokens=tokens, output_tokens=written, items=1, operation="chat")

    def _model(self, principal: Principal, name: str, kind: GatewayKind) -> GatewayModel:
        model = self.registry.models.of_kind(name, kind)
        for whose, allowed in (("key", principal.settings.models), ("account", principal.account.settings.models)):
            if allowed and not {one.lower() for one in allowed} & set(model.names):
                raise PermissionDeniedError(f"This {whose} may not ask {model.name}.", param=f"{whose}.models")
        return model

    def _demands(self, ask: Ask, plan: _Plan[Any]) -> Demands:
        options, account, key = ask.options, ask.principal.account.settings, ask.principal.settings
        allowed = [frozenset(names) for names in (account.providers, key.providers) if names]
        questions = plan.request if isinstance(plan.request, tuple) else ()
        price = None if options.max_price is None else from_decimal(options.max_price) // MILLION
        return Demands(
            order=options.order,
            only=options.only,
            ignore=options.ignore,
            allowed=frozenset.intersection(*allowed) if allowed else None,
            sort=options.sort,
            zdr=_is_zdr(ask),
            no_training=options.disallow_prompt_training or account.no_training or key.no_training,
            regions=account.regions,
            headquarters=options.headquarters,
            not_headquarters=options.not_headquarters,
            quantizations=options.quantizations,
            not_quantizations=options.not_quantizations,
            max_token_price=price,
            tokens=plan.tokens if plan.items == 1 and plan.model.counter.is_exact else 0,
            dimensions=next((one.dimensions for one in questions if isinstance(one, EmbeddingRequest)), None),
            allow_fallbacks=options.allow_fallbacks,
        )

    def _own_health(self, account: str) -> HealthTable:
        """How providers are doing with an account's own keys, which says nothing of how they do with ours."""
        table = self._own.pop(account, None) or HealthTable(self.health)
        self._own[account] = table
        if len(self._own) > MOST_OWN:
            del self._own[next(iter(self._own))]
        return table

    def _refuses(self, provider: Provider, offer: Offer, request: object) -> str | None:
        questions = request if isinstance(request, tuple) else (request,)
        try:
            upstream = self.registry.upstream(provider, offer)
            reasons = (upstream.refuses(question) for question in questions)
            return next((reason for reason in reasons if reason is not None), None)
        except QuernelError as error:
            return f"it cannot be used as it is configured ({error.message})"

    async def _call(self, candidate: Candidate, plan: _Plan[T], keys: Mapping[str, Secret]) -> T:
        upstream = self.registry.upstream(candidate.provider, candidate.offer, keys.get(candidate.provider.slug))
        answer: Any
        if not isinstance(plan.request, tuple):
            answer = await upstream.answer(plan.request)
        elif len(plan.request) == 1:
            answer = (await upstream.answer(plan.request[0]),)
        else:
            answer = tuple(await gather([upstream.answer(question) for question in plan.request]))
        return cast("T", answer)

    async def _hold(self, ask: Ask, plan: _Plan[Any], amount: Picos, held: "_Held") -> Admission:
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

    async def _settle_replies(self, served: Served[Replies[R]]) -> Billed[tuple[R, ...]]:
        plan, replies = served.plan, served.answer.value
        counts = [reply.reported_tokens for reply in replies]
        counted = None if None in counts else sum(count or 0 for count in counts)
        # Our own count is the truth where it is exact. Else it is a bound, beyond which nobody is charged.
        is_exact = plan.model.counter.is_exact
        tokens = plan.tokens if is_exact or counted is None else min(counted, plan.tokens)
        receipt = await self.settle(served, tokens)
        if is_exact and counted not in (None, tokens):
            self._note_miscount(served.provider, plan.model.name, counted, tokens)
        return Billed(tuple(replace(reply.result, model=plan.model.name) for reply in replies), receipt)

    def _note_miscount(self, provider: str, model: str, counted: int | None, tokens: int) -> None:
        """Tell once of a provider that does not count as we do: it may charge us for other tokens than we charge."""
        if (provider, model) not in self._miscounting:
            self._miscounting.add((provider, model))
            logger.warning("%s counted %s tokens in a request to %s that has %d.", provider, counted, model, tokens)

    async def settle(self, served: Served[Any], tokens: int, output_tokens: int = 0) -> Receipt:
        """Charge an answered request, and write it down.

        Args:
            served: The request.
            tokens: What the model read.
            output_tokens: What it wrote.

        Raises:
            QuernelError: It cannot be charged; the answer, or the end of it, must not be given out.
        """
        row = self._bill(served, tokens, output_tokens)
        hold, charged = served.held.hold, row.cost
        if hold is None:
            self._write_later(lambda connection: usage.record(connection, row))
        else:
            charged = await self.database.write(_charge(hold, row), lock=hold.account)
        self.counts.note_answer(row, charged)
        self._note(served.ask, served.plan, row, served.answer.value)
        return Receipt(
            generation=row.id,
            model=row.model,
            provider=row.provider,
            quantization=served.answer.candidate.offer.quantization,
            cost=charged,
            market_cost=row.upstream_cost,
            byok=row.byok,
            tokens=tokens,
            output_tokens=output_tokens,
            admission=served.admission,
            route=served.route,
            attempts=served.ask.trail.shown(),
            upstream_milliseconds=row.upstream_milliseconds,
        )

    def give_up(self, served: Served[Any], tokens: int, output_tokens: int, *, why: QuernelError | None = None) -> None:
        """Charge a request that was given up in the middle of its answer, and write it down; nobody waits for it.

        Args:
            served: The request.
            tokens: What the model read.
            output_tokens: What it wrote until then.
            why: Why; `None` where the client hung up.
        """
        row = self._bill(served, tokens, output_tokens)
        status, code = (CLIENT_CLOSED, CLIENT_CLOSED_CODE) if why is None else (why.status, why.code)
        row = replace(row, status=status, code=code)
        hold = served.held.hold
        charge = _charge(hold, row) if hold is not None else lambda connection: usage.record(connection, row)
        self._write_later(charge, lock=row.account, then=lambda charged: self.counts.note_answer(row, charged or 0))
        self._note(served.ask, served.plan, row, served.answer.value)

    def fail(self, served: Served[Any], error: QuernelError) -> None:
        """Charge nothing for an answer that broke off, and write that down; its provider is told apart by it."""
        if isinstance(error, ProviderError):
            health, now = served.answer.candidate.health, self.clock()
            health.begin(now)
            health.fail(now, error.kind, retry_after=error.retry_after)
            self.counts.broken[served.provider, served.plan.model.name] += 1
        self._let_go(served.held, served.ask.principal.account.id)
        self._record_failure(served.ask, served.plan, error)

    def _bill(self, served: Served[Any], tokens: int, output_tokens: int) -> Usage:
        plan, answer = served.plan, served.answer
        candidate, byok = answer.candidate, served.provider in served.keys
        market = candidate.price.cost(tokens=tokens, documents=plan.documents, output_tokens=output_tokens)
        return self._row(
            served.ask,
            plan,
            tokens=tokens,
            output_tokens=output_tokens,
            documents=plan.documents,
            provider=served.provider,
            cost=0 if byok else market,
            upstream_cost=market,
            price=candidate.price.id,
            upstream_milliseconds=answer.seconds * 1000,
            byok=byok,
            credential="byok" if byok else "system",
        )

    def _let_go(self, held: "_Held", account: str) -> None:
        """Void what a failed request held, or is perhaps just holding: operations are written in their order."""
        if not held.may_be:
            return

        def operation(connection: Connection) -> None:
            if held.hold is not None:
                ledger.void(connection, held.hold.id, account)

        self._write_later(operation, lock=account)

    def _record_failure(self, ask: Ask, plan: _Plan[Any], error: BaseException) -> None:
        self.counts.note_failure(plan.model.name, error)
        row = self._row(ask, plan, status=CLIENT_CLOSED, code=CLIENT_CLOSED_CODE)
        if isinstance(error, QuernelError):
            row = replace(row, status=error.status, code=error.code)
        elif isinstance(error, Exception):
            row = replace(row, status=InternalError.status, code=InternalError.code)
        elif ask.deadline is not None and time.perf_counter() >= ask.deadline - TIMER_SECONDS:
            row = replace(row, status=DeadlineExceededError.status, code=DeadlineExceededError.code)
        self._write_later(lambda connection: usage.record(connection, row), lock=row.account)
        self._note(ask, plan, row, None)

    def _note(self, ask: Ask, plan: _Plan[Any], row: Usage, answer: object) -> None:
        """Capture a request, where operator and account have turned that on and nobody wants its data kept nowhere."""
        if self._capture is None or not ask.principal.account.settings.capture or _is_zdr(ask):
            return
        if isinstance(plan.request, ChatCall):
            self._capture.add(Captured(row, plan.request, answer))
            return
        replies = answer if isinstance(answer, tuple) else (None,) * len(plan.request)
        for question, reply in zip(plan.request, replies, strict=True):
            self._capture.add(Captured(row, question, reply))

    def _row(self, ask: Ask, plan: _Plan[Any], **known: Any) -> Usage:
        """What is written down of a request, with what is known of its answer."""
        principal = ask.principal
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
            milliseconds=(time.perf_counter() - ask.started) * 1000,
            attempts=ask.trail.shown(),
            **known,
        )

    def _write_later(
        self, operation: Callable[[Connection], T], lock: str = "", *, then: Callable[[T], None] = lambda _: None
    ) -> None:
        """Write what nobody waits for, and do something with what comes of it."""

        async def write() -> None:
            try:
                then(await self.database.write(operation, lock=lock))
            except QuernelError:
                self.counts.lost += 1
                logger.exception("A request could not be written down.")

        task = asyncio.get_running_loop().create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)


class BilledStream:
    """An answer on its way to the client, with its bill at the end.

    Args:
        gateway: What bills.
        served: The request.

    Attributes:
        served: The request.
        receipt: What it came to, once that is known.
    """

    def __init__(self, gateway: Gateway, served: Served[ChatStream]) -> None:
        self.served = served
        self.receipt: Receipt | None = None
        self._gateway = gateway
        self._is_settled = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of the stream; once. The last comes when the charge is on disk.

        Raises:
            QuernelError: The answer broke off, and is not charged; or it cannot be.
        """
        try:
            async with aclosing(self.served.answer.value.events()) as events:
                async for event in events:
                    yield event
            tokens = chat_tokens(self.served)
            self._is_settled = True
            self.receipt = await self._gateway.settle(self.served, *tokens)
        except QuernelError as error:
            self._is_settled = True
            self._gateway.fail(self.served, error)
            raise
        yield DONE

    async def close(self, why: QuernelError | None = None) -> None:
        """Let the provider go. Safe to call twice.

        A client that hung up, or whose time is over, pays for what was written until then.

        Args:
            why: What ended the answer before its end; `None` where the client hung up.
        """
        if not self._is_settled:
            self._is_settled = True
            self._gateway.give_up(self.served, *chat_tokens(self.served), why=why)
        await self.served.answer.value.close()


def chat_tokens(served: Served[ChatReply] | Served[ChatStream]) -> tuple[int, int]:
    """Tokens that a chat model read and wrote, as far as they are charged.

    The provider's count, but never more than was held. Where there is none (it does not count, or the client hung up
    before the end) that is what was held for reading, and a token for each byte of what was written: bounds, since the
    tokens are known to nobody.
    """
    plan, answer = served.plan, served.answer.value
    if answer.usage is None:
        return plan.tokens, min(answer.num_bytes, plan.output_tokens)
    return min(answer.usage.prompt_tokens, plan.tokens), min(answer.usage.completion_tokens, plan.output_tokens)


def _charge(hold: Hold, row: Usage) -> Callable[[Connection], Picos]:
    """What charges a request and writes it down."""

    def operation(connection: Connection) -> Picos:
        now = now_ms()
        charged = ledger.settle(connection, hold, cost=row.cost, tokens=row.tokens, now=now)
        usage.record(connection, replace(row, time=now, cost=charged))
        return charged

    return operation


def _cost(candidate: Candidate, plan: _Plan[Any], keys: Mapping[str, Secret]) -> Picos:
    """What a request is charged at a provider: nothing where the customer pays the provider."""
    if candidate.provider.slug in keys:
        return 0
    return candidate.price.cost(tokens=plan.tokens, documents=plan.documents, output_tokens=plan.output_tokens)


def _is_zdr(ask: Ask) -> bool:
    """Whether the request, its key or its account demands that nobody keeps its data."""
    settings = (ask.principal.account.settings, ask.principal.settings)
    return ask.options.zero_data_retention or any(setting.zdr for setting in settings)


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
