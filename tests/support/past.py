"""A month that a gateway has behind it: customers, people, keys, money and requests, written as they would have been.

All goes through the functions that the gateway writes with, at times of the past and in the order of time, so that the
books agree. What happens is drawn from a seed: it is the same every time, but for the days that it is moved to.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from quernel.errors import FailureKind, LimitExceededError, ProviderError
from quernel.gateway import ledger, usage
from quernel.gateway.accounts import AccountSettings, Role, find_account
from quernel.gateway.attempts import Attempt
from quernel.gateway.editor import Editor
from quernel.gateway.ids import RANDOM_BITS, ULID_LETTERS, base32, now_ms
from quernel.gateway.keys import ID_BITS, ID_LETTERS, KeySettings, Scope, find_key, key_id_of, note_use
from quernel.gateway.ledger import EntryKind, Hold
from quernel.gateway.limits import DAY_MS, Limit, Period
from quernel.gateway.money import parse_dollars
from quernel.gateway.opening import Parts
from quernel.gateway.principals import meters_of
from quernel.gateway.usage import HOUR_MS, Usage

SEED = 20
DAYS = 29
"""Whole days of requests before today; rows of older ones are deleted."""

INSTANCE = "gw_of_the_past"
MINUTE_MS = 60_000

QUIET, BUSY = 0.35, (0.2, 0.2, 0.2, 0.2, 0.3, 0.5, 1, 2, 4, 5, 5, 5, 4, 4, 5, 5, 4, 3, 3, 3, 2, 2, 1, 0.5)
"""How much of a working day a day of a weekend is; how much is asked in each hour, where people ask."""

NIGHT = tuple(float(hour in (1, 2)) for hour in range(24))

FAILED_FIRST, FAILED = 0.04, 0.006
"""Of how many requests the first provider fails, and all of them."""

SPEED = {"local": (1.4, 60.0), "larkfen": (24.0, 400.0), "ostbridge": (31.0, 250.0), "vellmoor": (120.0, 150.0)}
"""Milliseconds that each provider takes at least, and tokens in a millisecond beyond that."""

FAILURE_MS, OWN_MS = 21.4, 2.2
"""How long a failure takes, and the gateway itself."""


def dollars(text):
    """Pico-dollars."""
    return parse_dollars(text, place="amount")


@dataclass(frozen=True, kw_only=True)
class Customer:
    """An account, with whoever may act for it and what was paid in.

    `days` are those since it was made; so are the first numbers of the others.
    """

    slug: str
    name: str
    days: int
    welcome: str = "25"
    rules: AccountSettings = field(default_factory=AccountSettings)
    members: tuple = ()
    credits: tuple = ()


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A key of an account: when it was made, until when it was good, when it was revoked."""

    account: str
    name: str
    days: int
    rules: KeySettings = field(default_factory=KeySettings)
    expired: int | None = None
    revoked: int | None = None
    used_minutes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Requests of one kind, day after day.

    `providers` are asked in turn, by weight; `items` and `tokens` (of an item) lie in these ranges; `days` are those
    ago on which they began and ended.
    """

    key: str
    operation: str
    model: str
    providers: dict
    per_day: int
    items: tuple = (1, 1)
    tokens: tuple = (8, 40)
    tags: tuple = ()
    users: tuple = ("",)
    hours: tuple = BUSY
    days: tuple = (DAYS, 0)
    every_day: bool = False
    byok: bool = False


CUSTOMERS = (
    Customer(
        slug="acme-books",
        name="Acme Books",
        days=41,
        rules=AccountSettings(limits=(Limit(period=Period.MONTH, spend=dollars("40")),)),
        members=(
            (41, "https://id.example.com|1001", Role.OWNER, "anna@acme-books.example"),
            (38, "https://id.example.com|1002", Role.ADMIN, "ben@acme-books.example"),
            (12, "https://id.example.com|1017", Role.VIEWER, "chitra@acme-books.example"),
        ),
        credits=(
            (30, EntryKind.PURCHASE, "50", "invoice 2041", None),
            (9, EntryKind.ADJUSTMENT, "1.50", "ticket 377", "Requests that were slow on the 3rd"),
        ),
    ),
    Customer(
        slug="umber-desk",
        name="Umber Desk",
        days=33,
        members=(
            (33, "https://id.example.com|2001", Role.OWNER, "dario@umber-desk.example"),
            (20, "https://id.example.com|2004", Role.MEMBER, "elif@umber-desk.example"),
        ),
        credits=((21, EntryKind.GRANT, "10", "pilot 2", "Second part of the pilot"),),
    ),
)

FULL_KEY, READER_KEY, SEARCH_KEY, SPENT_KEY = "Anna's console", "Dashboard", "Search service", "Workshop"

KEYS = (
    Issued(
        account="acme-books",
        name=FULL_KEY,
        days=41,
        rules=KeySettings(
            scopes=frozenset({Scope.INFER, Scope.MANAGE}),
            limits=(
                Limit(period=Period.DAY, requests=500, tokens=5_000_000),
                Limit(period=Period.MONTH, spend=dollars("2")),
            ),
        ),
        used_minutes=6,
    ),
    Issued(
        account="acme-books",
        name=SEARCH_KEY,
        days=40,
        rules=KeySettings(limits=(Limit(period=Period.MINUTE, requests=600),), tags=("search",)),
        used_minutes=1,
    ),
    Issued(
        account="acme-books",
        name="Nightly index",
        days=40,
        rules=KeySettings(
            limits=(Limit(period=Period.MONTH, spend=dollars("30")),), zdr=True, no_training=True, tags=("index",)
        ),
        used_minutes=340,
    ),
    Issued(
        account="acme-books",
        name=READER_KEY,
        days=26,
        rules=KeySettings(scopes=frozenset({Scope.READ})),
        used_minutes=15,
    ),
    Issued(account="acme-books", name="Old laptop", days=39, revoked=18, used_minutes=18 * 1440),
    Issued(account="acme-books", name="Summer project", days=24, expired=5, used_minutes=5 * 1440 + 50),
    Issued(
        account="acme-books",
        name=SPENT_KEY,
        days=6,
        rules=KeySettings(models=("quernel/tiny-embedding",), limits=(Limit(period=Period.DAY, requests=5),)),
        used_minutes=3,
    ),
    Issued(
        account="umber-desk",
        name="Administration",
        days=33,
        rules=KeySettings(scopes=frozenset({Scope.INFER, Scope.MANAGE})),
        used_minutes=2_000,
    ),
    Issued(
        account="umber-desk",
        name="Ticket router",
        days=32,
        rules=KeySettings(no_training=True, tags=("tickets",)),
        used_minutes=4,
    ),
)

SEARCHERS = ("shop", "shop", "shop", "app", "app", "staff")

STREAMS = (
    Stream(
        key=SEARCH_KEY,
        operation="embed",
        model="Qwen/Qwen3-Embedding-4B",
        providers={"ostbridge": 5, "larkfen": 2},
        per_day=30,
        tags=("query",),
        users=SEARCHERS,
    ),
    Stream(
        key=SEARCH_KEY,
        operation="rerank",
        model="Qwen/Qwen3-Reranker-4B",
        providers={"larkfen": 4, "vellmoor": 1},
        per_day=24,
        items=(200, 500),
        tokens=(300, 450),
        tags=("query",),
        users=SEARCHERS,
    ),
    Stream(
        key="Nightly index",
        operation="embed",
        model="Qwen/Qwen3-Embedding-4B",
        providers={"larkfen": 1},
        per_day=20,
        items=(1200, 2048),
        tokens=(400, 800),
        tags=("catalogue",),
        hours=NIGHT,
        every_day=True,
    ),
    Stream(
        key="Nightly index",
        operation="embed",
        model="Qwen/Qwen3-Embedding-8B",
        providers={"larkfen": 1},
        per_day=8,
        items=(1000, 1800),
        tokens=(500, 800),
        tags=("reviews",),
        hours=NIGHT,
        days=(11, 0),
        every_day=True,
    ),
    Stream(
        key=FULL_KEY,
        operation="embed",
        model="quernel/tiny-embedding",
        providers={"local": 1},
        per_day=9,
        items=(4, 60),
        tokens=(10, 120),
        tags=("trial",),
        users=("anna",),
    ),
    Stream(
        key=FULL_KEY,
        operation="embed",
        model="Qwen/Qwen3-Embedding-8B",
        providers={"ostbridge": 3, "larkfen": 1},
        per_day=5,
        items=(400, 900),
        tokens=(200, 400),
        tags=("evaluation",),
        users=("anna", "ben"),
        days=(20, 0),
    ),
    Stream(
        key="Summer project",
        operation="embed",
        model="Qwen/Qwen3-Embedding-0.6B",
        providers={"ostbridge": 1},
        per_day=6,
        items=(16, 128),
        tokens=(40, 120),
        tags=("clusters",),
        days=(23, 6),
    ),
    Stream(
        key="Old laptop",
        operation="rerank",
        model="quernel/tiny-reranker",
        providers={"local": 1},
        per_day=3,
        items=(5, 20),
        tokens=(60, 120),
        days=(DAYS, 19),
    ),
    Stream(
        key=SPENT_KEY,
        operation="embed",
        model="quernel/tiny-embedding",
        providers={"local": 1},
        per_day=7,
        items=(2, 9),
        tokens=(12, 30),
        users=("team a", "team b", "team c"),
        days=(5, 0),
        every_day=True,
    ),
    Stream(
        key="Ticket router",
        operation="embed",
        model="Qwen/Qwen3-Embedding-0.6B",
        providers={"larkfen": 1},
        per_day=14,
        items=(1, 12),
        tokens=(60, 300),
        users=("inbox", "chat"),
        byok=True,
    ),
    Stream(
        key="Ticket router",
        operation="rerank",
        model="Qwen/Qwen3-Reranker-0.6B",
        providers={"vellmoor": 1},
        per_day=10,
        items=(10, 40),
        tokens=(80, 200),
        users=("inbox", "chat"),
    ),
    Stream(
        key="Ticket router",
        operation="embed",
        model="Qwen/Qwen3-Embedding-4B",
        providers={"vellmoor": 1},
        per_day=6,
        items=(600, 1200),
        tokens=(300, 500),
        tags=("archive",),
        days=(20, 0),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Past:
    """What was written.

    Attributes:
        keys: The texts of keys by their names.
        key_ids: Their ids.
        accounts: The ids of accounts by their slugs.
    """

    keys: dict
    key_ids: dict
    accounts: dict


def write_past(parts: Parts) -> Past:
    """Write a month into the books of a gateway that serves nobody yet."""
    return parts.database.write_now(lambda connection: _Writer(parts, connection).write())


@dataclass(frozen=True, kw_only=True)
class _Payer:
    """Whose request it is."""

    account: str
    key: str
    tags: tuple
    meters: tuple


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request, with what luck it has and at what pace it is answered."""

    stream: Stream
    provider: str
    items: int
    tokens: int
    user: str
    luck: float
    pace: float

    @property
    def documents(self):
        return self.items if self.stream.operation == "rerank" else 0

    @property
    def milliseconds(self):
        """That its provider takes."""
        first, tokens_a_millisecond = SPEED[self.provider]
        return self.pace * first + self.tokens / tokens_a_millisecond

    @property
    def fails(self):
        return self.luck < FAILED and self.provider != "local"

    @property
    def attempts(self):
        """Who was asked until it was answered."""
        others = [slug for slug in self.stream.providers if slug != self.provider]
        failed = [self.attempt(others[0], failed=True)] if others and self.luck < FAILED_FIRST else []
        return [*failed, self.attempt(self.provider)]

    def attempt(self, provider, *, failed=False):
        outcome, status = (FailureKind.FAILED.value, 503) if failed else ("ok", None)
        milliseconds = FAILURE_MS if failed else self.milliseconds
        made = Attempt(
            provider=provider, model=self.stream.model, outcome=outcome, status=status, milliseconds=milliseconds
        )
        return made.shown()


class _Writer:
    """Writes it, in one transaction."""

    def __init__(self, parts, connection):
        self._parts, self._connection = parts, connection
        self._random = random.Random(SEED)
        self._now = now_ms()
        self._today = self._now - self._now % DAY_MS
        self._operator = f"api-key:{key_id_of(parts.first_key)}"
        self._accounts = {customer.slug: f"acc_{self._name(customer.days)}" for customer in CUSTOMERS}
        self._minted = {
            issued.name: self._parts.mint.new(base32(self._random.getrandbits(ID_BITS), ID_LETTERS)) for issued in KEYS
        }
        self._payers = {}
        self._offers = {(provider.slug, offer.model): offer for provider, offer, _ in parts.gateway.registry.offered()}

    def write(self) -> Past:
        events = [*self._changes(), *self._requests()]
        for moment, do in sorted(events, key=lambda event: event[0]):
            do(moment)
        note_use(
            self._connection,
            [
                (self._minted[issued.name].id, self._now - issued.used_minutes * MINUTE_MS)
                for issued in KEYS
                if issued.used_minutes is not None
            ],
        )
        usage.roll_up(self._connection, self._now)
        return Past(
            keys={name: minted.text for name, minted in self._minted.items()},
            key_ids={name: minted.id for name, minted in self._minted.items()},
            accounts=self._accounts,
        )

    def _name(self, days):
        """The last part of an id that was made so many days ago."""
        return self._name_at(self._now - days * DAY_MS)

    def _name_at(self, moment):
        return base32(moment << RANDOM_BITS | self._random.getrandbits(RANDOM_BITS), ULID_LETTERS)

    # What people did

    def _changes(self):
        for customer in CUSTOMERS:
            yield from self._of_customer(customer)
        for place, issued in enumerate(KEYS):
            yield from self._of_key(place, issued)
        vault, account = self._parts.vault, self._accounts["umber-desk"]
        yield self._at(31, 40), self._later(Editor.store_credential, vault, account, "larkfen", "a key of their own")

    def _of_customer(self, customer):
        account = self._accounts[customer.slug]

        create = self._later(
            Editor.create_account,
            customer.slug,
            account_id=account,
            name=customer.name,
            settings=customer.rules,
            welcome=dollars(customer.welcome),
        )
        yield self._at(customer.days, 0), create
        for place, (days, subject, role, email) in enumerate(customer.members, start=1):
            add = self._later(Editor.set_member, account, subject, role, email=email)
            yield self._at(days, 10 * place), add
        for days, kind, amount, reference, note in customer.credits:
            enter = self._later(Editor.credit, account, kind, dollars(amount), reference=reference, note=note)
            yield self._at(days, 55), enter

    def _of_key(self, place, issued):
        account, minted = self._accounts[issued.account], self._minted[issued.name]
        expires = None if issued.expired is None else self._at(issued.expired, 0)
        create = self._later(Editor.create_key, minted, account, issued.name, issued.rules, expires=expires)
        yield self._at(issued.days, 35 + place), create
        if issued.revoked is not None:
            yield self._at(issued.revoked, 5), self._later(Editor.revoke_key, minted.id, account)

    def _later(self, change, *what, **how) -> Callable:
        """What changes something in the operator's name."""
        editor = partial(Editor, connection=self._connection, actor=self._operator)
        return lambda moment: change(editor(now=moment), *what, **how)

    def _at(self, days, minutes):
        """A morning so many days ago."""
        return self._today - days * DAY_MS + 8 * HOUR_MS + minutes * MINUTE_MS

    # What programs asked

    def _requests(self):
        for stream in STREAMS:
            first, last = stream.days
            for days in range(first, last - 1, -1):
                for moment in self._moments(stream, days):
                    if moment < self._now - MINUTE_MS:
                        yield moment, self._request(stream)

    def _moments(self, stream, days):
        day = self._today - days * DAY_MS
        is_weekend = datetime.fromtimestamp(day / 1000, UTC).weekday() >= 5
        share = QUIET if is_weekend and not stream.every_day else 1.0
        grown = 0.55 + 0.45 * (DAYS - days) / DAYS
        count = max(round(stream.per_day * share * grown * self._random.uniform(0.75, 1.25)), 1)
        hours = self._random.choices(range(24), stream.hours, k=count)
        return [day + hour * HOUR_MS + self._random.randrange(HOUR_MS) for hour in hours]

    def _request(self, stream):
        """What asks for one; all that is random about it is drawn now."""
        dice = self._random
        (provider,) = dice.choices(list(stream.providers), list(stream.providers.values()))
        items = dice.randint(*stream.items)
        asked = _Asked(
            stream=stream,
            provider=provider,
            items=items,
            tokens=max(round(items * dice.uniform(*stream.tokens)), 1),
            user=dice.choice(stream.users),
            luck=dice.random(),
            pace=dice.uniform(0.8, 1.7),
        )
        return partial(self._ask, asked)

    def _ask(self, asked, moment):
        """Hold, answer and charge a request, or refuse it."""
        stream, payer = asked.stream, self._payer(asked.stream.key)
        price = self._offers[asked.provider, stream.model].price(moment)
        market = price.cost(tokens=asked.tokens, documents=asked.documents)
        row = Usage(
            id=f"gen_{self._name_at(moment)}",
            time=moment,
            account=payer.account,
            key=payer.key,
            user=asked.user,
            tags=usage.join_tags((*payer.tags, *stream.tags)),
            operation=stream.operation,
            model=stream.model,
            items=asked.items,
        )
        hold = Hold(
            id=row.id,
            asker=row.id,
            account=payer.account,
            key=payer.key,
            amount=0 if stream.byok else market,
            tokens=asked.tokens,
            meters=payer.meters,
            instance=INSTANCE,
        )
        try:
            ledger.hold(self._connection, hold, now=moment)
        except LimitExceededError as error:
            self._refuse(row, error, milliseconds=asked.pace)
            return
        if asked.fails:
            ledger.void(self._connection, hold.id, payer.account)
            attempts = [asked.attempt(asked.provider, failed=True)] * 3
            self._refuse(row, ProviderError("It failed."), attempts=attempts, milliseconds=3 * FAILURE_MS)
            return
        charged = ledger.settle(self._connection, hold, cost=hold.amount, tokens=asked.tokens, now=moment)
        served = replace(
            row,
            provider=asked.provider,
            tokens=asked.tokens,
            documents=asked.documents,
            cost=charged,
            upstream_cost=market,
            price=price.id,
            milliseconds=sum(attempt["ms"] for attempt in asked.attempts) + OWN_MS * asked.pace,
            upstream_milliseconds=asked.milliseconds,
            attempts=asked.attempts,
            byok=stream.byok,
            credential="byok" if stream.byok else "system",
        )
        usage.record(self._connection, served)

    def _refuse(self, row, error, **known):
        usage.record(self._connection, replace(row, status=error.status, code=error.code, **known))

    def _payer(self, name):
        """Who pays for requests with a key; it was made by now."""
        if name not in self._payers:
            key = find_key(self._connection, self._minted[name].id)
            account = find_account(self._connection, key.account)
            self._payers[name] = _Payer(
                account=account.id,
                key=key.id,
                tags=key.settings.tags,
                meters=meters_of(account, key.id, key.settings),
            )
        return self._payers[name]
