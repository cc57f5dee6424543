"""Whether the gateway's books stay exact when gateways are killed at random moments.

    python benchmarks/ledger_kills.py --operations 1000000 --kills 500 [--database URL] [--minutes 60] [--json FILE]

Processes hold, settle and void requests, give credit, send the same again and go away in the middle, on a few accounts
with and without limits, and write down beside the database what they are about to do and what they were told. Again and
again one is killed (SIGKILL) and another takes its place, lets go what the dead one held, and sends again what nobody
knows the end of. Every so many kills all are killed, and the books are compared with what was written down:

- every settlement that was acknowledged is one entry with its amount; one that was not is one or none; and nothing else
  was charged; the same for credit;
- nobody but one was told that they paid for a request;
- balance, spent and held are the sums of entries and holds, and nothing is held;
- what limits have counted in tokens and money is exactly what was charged, in requests what was acknowledged up to what
  was not, and no window has more than its limit.

It ends with 1 where anything is lost, invented or wrong. Without `--database` it takes a SQLite file that goes with it.
Linux and macOS.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from quernel.errors import QuernelError, UnavailableError
from quernel.gateway import ledger, schema
from quernel.gateway.accounts import create_account
from quernel.gateway.database import Database
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.ledger import EntryKind, Hold
from quernel.gateway.limits import Limit, Meter, Period
from quernel.gateway.migrate import migrate

WORKERS = 2
CLIENTS = 24
"""Requests of one process that are under way at the same time."""

BYTES_PER_OPERATION = 105
"""Of a journal, nearly; it paces the kills."""

TAKEN_FOR_DEAD = 0.2
"""How often, at a kill, a process that lives is taken for dead."""

LARGEST = 1_000_000

LIMITS = {
    "free": (),
    "counted": (
        Limit(period=Period.MINUTE, requests=10**7, tokens=10**12),
        Limit(period=Period.DAY, spend=10**15),
        Limit(period=Period.MONTH, spend=10**16),
    ),
    "narrow": (Limit(period=Period.MINUTE, requests=900, tokens=400_000), Limit(period=Period.DAY, spend=10**12)),
    "poor": (Limit(period=Period.MONTH, spend=10**15),),
}
"""Kinds of accounts; the poor one has hardly ever enough credit."""

CREDIT = {"free": 10**15, "counted": 10**15, "narrow": 10**15, "poor": 10**7}


@dataclass(frozen=True)
class Order:
    """What a process is started with."""

    url: str
    instance: str
    journal: str
    accounts: dict[str, str]
    again: list["Asked"]
    seed: int


@dataclass(frozen=True)
class Asked:
    """A request of a client, whatever becomes of it."""

    id: str
    kind: str
    amount: int
    cost: int
    tokens: int

    @property
    def key(self) -> str:
        return f"key:{self.kind}"


class Worker:
    """A gateway's books under load, until it is killed."""

    def __init__(self, order: Order) -> None:
        self.order = order
        url = make_url(order.url)
        if url.get_backend_name() == "postgresql":
            url = url.update_query_dict({"application_name": order.instance})
        self.database = Database(url.render_as_string(hide_password=False))
        self.journal = os.open(order.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.random = random.Random(order.seed)
        self.numbers = iter(range(sys.maxsize))

    async def run(self) -> None:
        await asyncio.gather(self.send_again(), *(self.client() for _ in range(CLIENTS)))

    async def send_again(self) -> None:
        """What those before did not learn the end of, as a client does with an idempotency key."""
        for asked in self.order.again:
            await self.ask(asked, fresh=False)

    async def client(self) -> None:
        stories = [self.succeed, self.fail, self.repeat, self.fail_and_succeed, self.leave, self.abandon, self.give]
        while True:
            (story,) = self.random.choices(stories, weights=[60, 12, 8, 6, 6, 2, 6])
            await story()

    async def succeed(self) -> None:
        await self.ask(self.new())

    async def fail(self) -> None:
        asked = self.new()
        if await self.hold(asked, asked.id):
            await self.void(asked)

    async def repeat(self) -> None:
        """Everything twice, and all of it again as another request with the same idempotency key."""
        asked = self.new()
        if await self.hold(asked, asked.id):
            await self.hold(asked, asked.id, fresh=False)
            await self.settle(asked, asked.id)
            await self.settle(asked, asked.id)
            await self.ask(asked, fresh=False)
            await self.void(asked)

    async def fail_and_succeed(self) -> None:
        asked = self.new()
        if await self.hold(asked, asked.id):
            await self.void(asked)
            await self.ask(asked, fresh=False)

    async def leave(self) -> None:
        """A client goes away while it waits for its hold, which is let go behind it."""
        asked = self.new()
        waiting = asyncio.ensure_future(self.hold(asked, asked.id))
        await asyncio.sleep(self.random.choice((0, 0, 0.002)))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await self.void(asked)

    async def abandon(self) -> None:
        await self.hold(self.new(), None)

    async def give(self) -> None:
        kind = self.random.choice(list(LIMITS))
        asked = Asked(new_id("grant"), kind, 0, self.random.randint(1, 5 * LARGEST), 0)

        def operation(connection: Any) -> bool:
            account = self.order.accounts[kind]
            return ledger.enter(
                connection, account, EntryKind.GRANT, asked.cost, reference=asked.id, actor="test", now=now_ms()
            )

        for _ in range(self.random.choice((1, 1, 2))):
            await self.do("G", asked, operation)

    def new(self) -> Asked:
        kind = self.random.choice(list(LIMITS))
        amount = self.random.randint(1, LARGEST)
        cost = self.random.choice((amount, amount, self.random.randint(1, amount)))
        return Asked(new_id("gen"), kind, amount, cost, self.random.randint(1, 1000))

    async def ask(self, asked: Asked, *, fresh: bool = True) -> None:
        asker = asked.id if fresh else new_id("gen")
        if await self.hold(asked, asker, fresh=fresh):
            await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.01)))
            await self.settle(asked, asker)

    def as_hold(self, asked: Asked, asker: str | None) -> Hold:
        account = self.order.accounts[asked.kind]
        return Hold(
            id=asked.id,
            asker=asker or asked.id,
            account=account,
            key=asked.key,
            amount=asked.amount,
            tokens=asked.tokens,
            meters=[Meter(f"{account}/{asked.key}", limit, "This key") for limit in LIMITS[asked.kind]],
            instance=self.order.instance,
        )

    async def hold(self, asked: Asked, asker: str | None, *, fresh: bool = True) -> bool:
        wanted = self.as_hold(asked, asker)
        return await self.do(
            "H" if fresh else "h", asked, lambda connection: ledger.hold(connection, wanted, now=now_ms()) is not None
        )

    async def settle(self, asked: Asked, asker: str) -> None:
        wanted = self.as_hold(asked, asker)
        await self.do(
            "S",
            asked,
            lambda connection: ledger.settle(connection, wanted, cost=asked.cost, tokens=asked.tokens, now=now_ms()),
            asker,
        )

    async def void(self, asked: Asked) -> None:
        account = self.order.accounts[asked.kind]
        await self.do("V", asked, lambda connection: ledger.void(connection, asked.id, account))

    async def do(self, what: str, asked: Asked, operation: Any, asker: str = "-") -> bool:
        """Say that it begins, do it, and say that it is done; what was refused is said too."""
        number = next(self.numbers)
        said = (asked.id, asked.kind, asked.amount, asked.cost, asked.tokens, asker)
        self.say("?", number, what, *said)
        try:
            outcome = await self.database.write(operation, lock=self.order.accounts[asked.kind])
        except QuernelError as refusal:
            if type(refusal) is not UnavailableError:  # which says nothing of whether it was done
                self.say("-", number)
            return False
        self.say("+", number, int(outcome))
        return True

    def say(self, *words: Any) -> None:
        """One write to a file outlives the process, whole."""
        os.write(self.journal, (" ".join(map(str, words)) + "\n").encode())


def work(order: Order) -> None:
    asyncio.run(Worker(order).run())


@dataclass
class Operation:
    """One line of a journal that says what begins, and what came of it."""

    what: str
    asked: Asked
    asker: str
    outcome: int | None = None
    is_refused: bool = False

    @property
    def is_unknown(self) -> bool:
        return self.outcome is None and not self.is_refused


def read_journal(path: Path) -> list[Operation]:
    operations: dict[str, Operation] = {}
    if path.exists():
        for line in path.read_text(encoding="ascii").splitlines():
            sign, number, *words = line.split()
            if sign == "?":
                what, name, kind, amount, cost, tokens, asker = words
                operations[number] = Operation(what, Asked(name, kind, int(amount), int(cost), int(tokens)), asker)
            elif sign == "+":
                operations[number].outcome = int(words[0])
            else:
                operations[number].is_refused = True
        path.unlink()
    return list(operations.values())


@dataclass
class Expected:
    """What the journals say since the books were compared last."""

    must: dict[str, Asked] = field(default_factory=dict)
    may: dict[str, Asked] = field(default_factory=dict)
    grants: dict[str, Asked] = field(default_factory=dict)
    grants_may: dict[str, Asked] = field(default_factory=dict)
    payers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


@dataclass
class Tally:
    """What was found, over the whole run."""

    operations: int = 0
    kills: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    lost: int = 0
    invented: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.invented or self.wrong)


class Driver:
    """Starts processes, kills them, and compares."""

    def __init__(self, url: str, *, seed: int) -> None:
        self.url = url
        self.random = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-kills-"))
        self.database = Database(url)
        self.accounts = {kind: self._new_account(kind) for kind in LIMITS}
        self.kinds = {account: kind for kind, account in self.accounts.items()}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["__main__", "psycopg"])
        self.running: dict[int, tuple[Any, Order]] = {}
        self.swept_alive: set[str] = set()
        self.instances: list[str] = []
        self.again: list[Asked] = []
        self.expected = Expected()
        self.tally = Tally()
        self.paid: dict[str, int] = {}
        self.given = {kind: CREDIT[kind] for kind in LIMITS}
        self.spent = dict.fromkeys(LIMITS, 0)
        self.tokens = dict.fromkeys(LIMITS, 0)
        self.least_requests, self.most_requests = Counter[str](), Counter[str]()
        self.last_entry = self.database.read_now(lambda connection: connection.execute(LAST_ENTRY).scalar_one()) or 0

    def _new_account(self, kind: str) -> str:
        slug = new_id("kills").replace("_", "-")
        return self.database.write_now(
            lambda connection: create_account(connection, slug, name=kind, now=now_ms(), welcome=CREDIT[kind])
        ).id

    def run(self, *, operations: int, kills: int, compare_every: int, minutes: float) -> Tally:
        started = time.monotonic()
        for place in range(WORKERS):
            self.start(place)
        per_kill = max(operations / kills, 1)
        while self.tally.kills < kills or self.tally.operations < operations:
            if time.monotonic() - started > 60 * minutes:
                print(f"Stopped after {minutes:g} minutes.", file=sys.stderr)
                break
            left = max(operations - self.done(), per_kill / 10)
            until = self.random.uniform(0, 2 * left / max(kills - self.tally.kills, 1))
            self.wait(until, deadline=started + 60 * minutes)
            place = self.random.randrange(WORKERS)
            if self.random.random() < TAKEN_FOR_DEAD:
                self.sweep_alive(self.random.randrange(WORKERS))
            self.kill(place)
            if self.tally.kills % compare_every < 1:
                self.compare()
                print(
                    f"{time.monotonic() - started:7.0f} s  {self.tally.operations:9,} operations  "
                    f"{self.tally.kills:5} kills  {self.tally.unknown:6} unknown  {self.tally.lost} lost  "
                    f"{self.tally.invented} invented  {len(self.tally.wrong)} wrong",
                    file=sys.stderr,
                    flush=True,
                )
            else:
                self.start(place)
                self.take_over(place)
            for other in range(WORKERS):
                if other not in self.running:
                    self.start(other)
        self.compare()
        self.compare_all()
        return self.tally

    def start(self, place: int) -> None:
        instance = new_id("gw")
        self.instances.append(instance)
        again, self.again = self.again, []
        order = Order(
            self.url, instance, str(self.folder / instance), self.accounts, again, self.random.getrandbits(64)
        )
        process = self.context.Process(target=work, args=(order,))
        process.start()
        self.running[place] = process, order

    def wait(self, operations: float, *, deadline: float) -> None:
        """Until the processes have done about so many more."""
        until = self.done() + operations
        while self.done() < until and time.monotonic() < deadline:
            time.sleep(0.002)
            dead = [order.instance for process, order in self.running.values() if process.exitcode is not None]
            if dead:
                self.tally.wrong.append(f"{dead} ended by themselves")
                return

    def done(self) -> float:
        """About how many operations have begun."""
        written = sum(path.stat().st_size for path in self.folder.iterdir())
        return self.tally.operations + written / BYTES_PER_OPERATION

    def kill(self, place: int) -> None:
        process, order = self.running.pop(place)
        process.kill()
        process.join()
        process.close()
        self.tally.kills += 1
        self.dead = order

    def take_over(self, place: int) -> None:
        """Let go what the dead one held, and take in what it wrote down."""
        self.sweep(self.dead.instance)
        self.take_in(self.dead)

    def sweep_alive(self, place: int) -> None:
        """Take a process for dead that is not: what it settles then has no hold."""
        _, order = self.running[place]
        self.swept_alive.add(order.instance)
        self.sweep(order.instance)

    def sweep(self, instance: str) -> None:
        self.database.write_now(lambda connection: ledger.sweep(connection, instance))

    def take_in(self, order: Order) -> None:
        for operation in read_journal(Path(order.journal)):
            self.tally.operations += 1
            self.tally.acknowledged += operation.outcome is not None
            self.tally.refused += operation.is_refused
            self.tally.unknown += operation.is_unknown
            if not operation.is_refused:
                self.expect(operation, was_swept=order.instance in self.swept_alive)

    def expect(self, operation: Operation, *, was_swept: bool) -> None:
        asked, expected = operation.asked, self.expected
        if operation.what in "Hh":
            self.most_requests[asked.kind] += 1
            self.least_requests[asked.kind] += operation.what == "H" and not operation.is_unknown
            if operation.is_unknown and self.random.random() < 0.5:
                self.again.append(asked)
        elif operation.what == "S":
            self.most_requests[asked.kind] += was_swept
            if operation.is_unknown:
                expected.may[asked.id] = asked
                self.again.append(asked)
                return
            expected.must[asked.id] = asked
            if operation.outcome:
                expected.payers[asked.id].add(operation.asker)
                if operation.outcome != asked.cost:
                    self.tally.wrong.append(f"{asked.id} was told {operation.outcome}, not {asked.cost}")
        elif operation.what == "G":
            (expected.grants_may if operation.is_unknown else expected.grants)[asked.id] = asked

    def compare(self) -> None:
        """Kill all, and compare what has come since the last time."""
        for place in list(self.running):
            self.kill(place)
            self.take_in(self.dead)
        self.wait_for_server()
        for path in list(self.folder.iterdir()):
            self.take_in(Order(self.url, path.name, str(path), self.accounts, [], 0))
        for instance in self.instances:
            self.sweep(instance)
        self.instances.clear()
        expected, self.expected = self.expected, Expected()
        for row in self.entries(since=self.last_entry):
            self.last_entry = row.id
            if row.account in self.kinds:
                self.find(row, expected)
        for asked in expected.must.values():
            self.tally.lost += self.paid.get(asked.id) != asked.cost
        self.tally.lost += len(expected.grants)
        for name, payers in expected.payers.items():
            if len(payers) > 1:
                self.tally.wrong.append(f"{name} was paid for by {len(payers)}")
        self.compare_sums()

    def find(self, row: Any, expected: Expected) -> None:
        """Whether an entry may be there."""
        kind = self.kinds[row.account]
        if row.kind == EntryKind.GRANT:
            asked = expected.grants.pop(row.reference, None) or expected.grants_may.pop(row.reference, None)
            if row.reference == "welcome":
                return
            if asked is None or asked.kind != kind or asked.cost != row.amount:
                self.tally.invented += 1
            self.given[kind] += row.amount
            return
        asked = expected.must.get(row.reference) or expected.may.get(row.reference)
        if asked is None or asked.kind != kind or asked.cost != -row.amount or row.reference in self.paid:
            self.tally.invented += 1
            return
        self.paid[row.reference] = asked.cost
        self.spent[kind] += asked.cost
        self.tokens[kind] += asked.tokens

    def compare_sums(self) -> None:
        wrong = self.tally.wrong
        wrong += [str(one) for one in self.database.read_now(ledger.reconcile)]
        for kind, account in self.accounts.items():
            money = self.database.read_now(partial(ledger.balance_of, account=account))
            found = (money.balance, money.held, money.spent)
            if found != (self.given[kind] - self.spent[kind], 0, self.spent[kind]) or money.available < 0:
                wrong.append(f"{kind} has {found}, and was given {self.given[kind]} and spent {self.spent[kind]}")
            for limit in LIMITS[kind]:
                self.compare_counters(kind, account, limit)

    def compare_counters(self, kind: str, account: str, limit: Limit) -> None:
        table = schema.counters
        found = sa.select(table).filter_by(subject=f"{account}/key:{kind}", period=limit.period.value)
        rows = self.select(found)
        for row in rows:
            for what in ("requests", "tokens", "spend"):
                most = getattr(limit, what)
                if getattr(row, what) < 0 or (most is not None and getattr(row, what) > most):
                    self.tally.wrong.append(
                        f"{kind}: {getattr(row, what)} {what} in a {limit.period} that takes {most}"
                    )
        sums = {what: sum(getattr(row, what) for row in rows) for what in ("requests", "tokens", "spend")}
        if (sums["tokens"], sums["spend"]) != (self.tokens[kind], self.spent[kind]):
            self.tally.wrong.append(f"{kind}: {sums}, but {self.tokens[kind]} tokens and {self.spent[kind]} were paid")
        if not self.least_requests[kind] <= sums["requests"] <= self.most_requests[kind]:
            span = f"{self.least_requests[kind]} to {self.most_requests[kind]}"
            self.tally.wrong.append(f"{kind}: {sums['requests']} requests are counted, {span} were let in")

    def compare_all(self) -> None:
        """Read every charge once more: none has changed or gone since it was compared."""
        seen = 0
        for row in self.entries(since=0):
            if row.account in self.kinds and row.kind == EntryKind.CHARGE:
                seen += 1
                self.tally.invented += self.paid.get(row.reference) != -row.amount
        self.tally.lost += len(self.paid) - seen

    def entries(self, *, since: int) -> Iterator[Any]:
        table = schema.entries
        while True:
            page = sa.select(table).where(table.c.id > since).order_by(table.c.id).limit(10_000)
            rows = self.select(page)
            if not rows:
                return
            yield from rows
            since = rows[-1].id

    def select(self, rows: sa.Select[Any]) -> Sequence[Any]:
        return self.database.read_now(lambda connection: connection.execute(rows).all())

    def wait_for_server(self) -> None:
        """A commit that a dead process has sent may still be under way."""
        if self.database.is_sqlite:
            return
        others = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'gw_%'")
        while self.database.read_now(lambda connection: connection.execute(others).scalar_one()):
            time.sleep(0.01)

    def close(self) -> None:
        for process, _ in self.running.values():
            process.kill()
            process.join()
        self.database.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


LAST_ENTRY = sa.select(sa.func.max(schema.entries.c.id))


def table_of(tally: Tally, database: str) -> str:
    heads = ("database", "operations", "kills", "acknowledged", "refused", "unknown", "lost", "invented", "wrong sums")
    counts = (tally.operations, tally.kills, tally.acknowledged, tally.refused, tally.unknown, tally.lost)
    cells = (database, *(f"{count:,}" for count in (*counts, tally.invented, len(tally.wrong))))
    rules = ("---", *["---:"] * (len(heads) - 1))
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rules, cells))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", help="its URL; by default a SQLite file")
    parser.add_argument("--minutes", type=float, default=60, help="end after so long, whatever was done")
    parser.add_argument("--compare-every", type=int, default=10, help="kills between comparisons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ledger-kills-") as folder:
        url = arguments.database or f"sqlite:///{folder}/books.db"
        migrate(url)
        driver = Driver(url, seed=arguments.seed)
        started = time.monotonic()
        try:
            tally = driver.run(
                operations=arguments.operations,
                kills=arguments.kills,
                compare_every=arguments.compare_every,
                minutes=arguments.minutes,
            )
        finally:
            driver.close()
    kind = "SQLite" if driver.database.is_sqlite else "PostgreSQL"
    print(table_of(tally, kind))
    print(
        f"\n{time.monotonic() - started:.0f} s, {WORKERS} processes of {CLIENTS} clients, {len(driver.paid):,} charges."
    )
    for wrong in tally.wrong[:20]:
        print(f"Wrong: {wrong}", file=sys.stderr)
    if arguments.json:
        numbers = {name: getattr(tally, name) for name in Tally.__dataclass_fields__}
        arguments.json.write_text(json.dumps({"database": kind, "charges": len(driver.paid), **numbers}) + "\n")
    return 0 if tally.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
