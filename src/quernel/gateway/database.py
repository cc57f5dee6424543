"""The database: one thread that writes, in groups, and threads that read.

Requests that come at the same time are written in one transaction, so that the cost of a commit is shared, and the
event loop never waits for a disk. An operation is a function of a connection. It must be repeatable (what it writes is
named by an id of the caller's), as it is done again where nobody can say whether it was done. What it refuses with goes
to its caller alone: what it has written is taken back, and the rest of the group is committed. Only when an operation
resolves is it on disk.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, OperationalError

from quernel.errors import QuernelError, SettingsError, UnavailableError
from quernel.gateway.statement import WRITES

logger = logging.getLogger("quernel.gateway")

T = TypeVar("T")

Operation: TypeAlias = Callable[[Connection], T]
"""What is done in a transaction."""

Durability: TypeAlias = Literal["process", "power"]
"""What a written operation survives: the death of the process, or that of the machine too."""

MOST_IN_GROUP = 256
READERS = 4
ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.02

SQLITE_BUSY_MILLISECONDS = 5000

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}

POSTGRESQL_CONNECTION = {
    "application_name": "quernel",
    "connect_timeout": "5",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""A server that went away without a word is noticed within a minute; each may be said otherwise in the URL."""

POSTGRESQL_SESSION = {"lock_timeout": "10s", "idle_in_transaction_session_timeout": "30s"}
"""A gateway that hangs lets go of the accounts that it has locked."""


class Database:
    """A database and its threads.

    Args:
        url: As SQLAlchemy has it: `sqlite:///quernel.db`, `postgresql+psycopg://user@host/name`.
        durability: What a written operation survives; `None` for `process` with SQLite, whose flushes of the disk would
            be ours, and `power` with PostgreSQL.

    Attributes:
        on_group: Told, in the thread that writes, how many operations a group had and how many seconds it took.
        num_failed: Operations that were not written, though tried again where that may help; refused ones are none.

    Raises:
        SettingsError: No such kind of database, or its driver is missing.
    """

    def __init__(self, url: str, *, durability: Durability | None = None) -> None:
        self.engine = open_engine(url, durability)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # All that a reader sees is of one moment: sums that are compared are not added up while they change.
        self._reading: Mapping[str, Any] = (
            {"quernel_reads": True}
            if self.is_sqlite
            else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        self.on_group: list[Callable[[int, float], None]] = []
        self.num_failed = 0
        self._num_asked = self._num_done = 0
        self._gathered: list[_Pending] = []
        self._waiting: queue.SimpleQueue[list[_Pending] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="quernel-read")
        self._kept: Connection | None = None
        self._writer = threading.Thread(target=self._write_all, name="quernel-write", daemon=True)
        self._gate = threading.Lock()
        self._closed = False
        self._writer.start()

    @property
    def num_waiting(self) -> int:
        """Operations that are still to be written."""
        return self._num_asked - self._num_done

    async def write(self, operation: Operation[T], *, lock: str = "") -> T:
        """The result of an operation, once it is committed.

        Args:
            operation: What to do.
            lock: The account whose row it locks. A group is written in the order of its accounts, so that two gateways
                cannot wait for each other in a circle.

        Raises:
            QuernelError: What the operation refuses with.
            UnavailableError: The database cannot be reached.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        with self._gate:  # nothing is put after the end, where nobody would take it
            self._require_open()
            self._gathered.append(_Pending(operation, lock, loop, done))
            self._num_asked += 1
            if len(self._gathered) == 1:
                loop.call_soon(self._hand_over)
        return await done  # a caller that goes away takes nothing back

    def _hand_over(self) -> None:
        """Give the writer what was asked for in one turn of the event loop: one at a time, each would be a group."""
        with self._gate:
            if self._gathered:
                self._waiting.put(self._gathered)
                self._gathered = []

    async def read(self, operation: Operation[T]) -> T:
        """The result of an operation that writes nothing.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        with self._gate:
            self._require_open()
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, operation)
        return await reading

    def write_now(self, operation: Operation[T]) -> T:
        """`write` for code that is not asynchronous; in this thread."""
        outcome = self._attempt([operation])[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def read_now(self, operation: Operation[T]) -> T:
        """`read` for code that is not asynchronous; in this thread."""
        with translated():
            try:
                return self._read(operation)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return self._read(operation)  # on a new connection: the pool has let the broken ones go

    def _read(self, operation: Operation[T]) -> T:
        with self.engine.connect().execution_options(**self._reading) as connection:
            return operation(connection)

    def close(self) -> None:
        """Write what waits, and let go. Safe to call twice."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(self._gathered)
            self._waiting.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("The gateway is stopping.")

    def _write_all(self) -> None:
        ends = False
        while not ends:
            group, ends = self._next_group()
            if not group:
                continue
            group.sort(key=lambda pending: pending.lock)
            started = time.perf_counter()
            outcomes = self._attempt([pending.operation for pending in group])
            self._num_done += len(group)
            for tell in self.on_group:
                tell(len(group), time.perf_counter() - started)
            settled = list(zip(group, outcomes, strict=True))
            for loop in {pending.loop for pending in group}:
                mine = [(pending, outcome) for pending, outcome in settled if pending.loop is loop]
                with suppress(RuntimeError):  # the loop is closed, and nobody waits
                    loop.call_soon_threadsafe(_resolve, mine)
        if self._kept is not None:
            self._kept.close()

    def _next_group(self) -> "tuple[list[_Pending], bool]":
        """What waits, at least one; and whether that is the end."""
        group: list[_Pending] = []
        gathered = self._waiting.get()
        while gathered is not None:
            group += gathered
            if len(group) >= MOST_IN_GROUP or self._waiting.empty():
                return group, False
            gathered = self._waiting.get()
        return group, True

    def _attempt(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """What each comes to, a refusal as its exception; tried again where that may help."""
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._transact(operations)
            except DBAPIError as error:
                if len(operations) > 1 and not error.connection_invalidated and self._is_reachable():
                    return self._attempt_each(operations)
                last = error
                if not _may_pass(error):
                    break
                logger.warning("A transaction failed (%s), attempt %d.", type(error.orig).__name__, attempt)
                if attempt < ATTEMPTS and not isinstance(error, IntegrityError):
                    time.sleep(wait)
                    wait *= 2
            except Exception as error:  # noqa: BLE001 (a fault of an operation is its caller's, and the thread goes on)
                if len(operations) > 1:
                    return self._attempt_each(operations)
                self.num_failed += 1
                return [error]
        self.num_failed += len(operations)
        return [_unavailable(last) for _ in operations]

    def _attempt_each(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """One of them may be at fault: each for itself, so that it takes no other with it."""
        return [self._attempt([operation])[0] for operation in operations]

    def _is_reachable(self) -> bool:
        try:
            with self.engine.begin():
                return True
        except DBAPIError:
            return False

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """The writer's own connection, which it keeps as long as it works; others get one for the while."""
        if threading.current_thread() is not self._writer:
            with self.engine.connect() as connection:
                yield connection
            return
        if self._kept is None:
            self._kept = self.engine.connect()
        try:
            yield self._kept
        except DBAPIError:
            kept, self._kept = self._kept, None
            kept.close()
            raise

    def _transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        try:
            return self._run(operations)
        except _RefusedLate:
            return self._run(operations, apart=True)

    def _run(self, operations: Sequence[Operation[Any]], *, apart: bool = False) -> list[Any]:
        """Do these in one transaction; `apart` so that what each wrote can be taken back by itself, which costs more.

        Raises:
            _RefusedLate: One refused after it had written, and they are not apart.
        """
        outcomes: list[Any] = []
        with self._connected() as connection, connection.begin():
            for operation in operations:
                written = connection.info.get(WRITES, 0)
                try:
                    with connection.begin_nested() if apart else nullcontext():
                        outcomes.append(operation(connection))
                except QuernelError as refusal:
                    if not apart and connection.info.get(WRITES, 0) != written:
                        raise _RefusedLate from refusal
                    outcomes.append(refusal)
        return outcomes


class _RefusedLate(Exception):
    """An operation refused after it had written."""


class _Pending:
    __slots__ = ("done", "lock", "loop", "operation")

    def __init__(
        self, operation: Operation[Any], lock: str, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Any]"
    ) -> None:
        self.operation, self.lock, self.loop, self.done = operation, lock, loop, done


def _resolve(settled: "Sequence[tuple[_Pending, Any]]") -> None:
    for pending, outcome in settled:
        if pending.done.cancelled():
            continue
        if isinstance(outcome, BaseException):
            pending.done.set_exception(outcome)
        else:
            pending.done.set_result(outcome)


def open_engine(url: str, durability: Durability | None = None) -> Engine:
    """What connects to a database.

    Raises:
        SettingsError: No such kind of database, or its driver is missing.
    """
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind not in DRIVERS:
            raise SettingsError(f"database is of kind {kind!r}.", param="database", hint=URL_HINT)
        if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise SettingsError("database names no file.", param="database", hint=URL_HINT)
        parsed = parsed.set(drivername=DRIVERS[kind])
        if kind == "postgresql":
            parsed = parsed.set(query={**POSTGRESQL_CONNECTION, **parsed.query})
        engine = sa.create_engine(parsed, pool_size=READERS + 2, max_overflow=2)
    except (ArgumentError, NoSuchModuleError) as error:
        raise SettingsError("database is no URL of a database.", param="database", hint=URL_HINT) from error
    except ImportError as error:
        raise SettingsError(
            f"database needs a driver: {error}.", param="database", hint="pip install 'quernel[postgres]'."
        ) from error
    event.listen(engine, "before_cursor_execute", _count_writes)
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine, durability or "process")
    else:
        _set_up_postgresql(engine, durability or "power")
    return engine


def _count_writes(connection: Connection, *said: Any) -> None:
    context = said[3]
    if context.isinsert or context.isupdate or context.isdelete:
        connection.info[WRITES] = connection.info.get(WRITES, 0) + 1


URL_HINT = "Write it like sqlite:///quernel.db or postgresql://user:password@host/name."


def _set_up_postgresql(engine: Engine, durability: Durability) -> None:
    session = {**POSTGRESQL_SESSION, **({"synchronous_commit": "off"} if durability == "process" else {})}
    said = "; ".join(f"SET {name} = '{value}'" for name, value in session.items())

    def on_connect(raw: Any, _: object) -> None:
        raw.autocommit = True  # a transaction that is rolled back would take its settings with it
        raw.execute(said)
        raw.autocommit = False

    event.listen(engine, "connect", on_connect)


def _set_up_sqlite(engine: Engine, durability: Durability) -> None:
    def on_connect(raw: Any, _: object) -> None:
        raw.isolation_level = None  # transactions begin where we say
        for pragma in (
            f"busy_timeout = {SQLITE_BUSY_MILLISECONDS}",
            f"synchronous = {'NORMAL' if durability == 'process' else 'FULL'}",
            "foreign_keys = ON",
        ):
            raw.execute(f"PRAGMA {pragma}")
        _keep_journal(raw)

    event.listen(engine, "connect", on_connect)
    # The lock is taken at the beginning: two that read first and write then would wait for each other.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(_begin_of(connection)))


def _keep_journal(raw: Any) -> None:
    """Let readers not wait for writers. SQLite itself does not wait where another turns that on in a new file."""
    until = time.monotonic() + SQLITE_BUSY_MILLISECONDS / 1000
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(FIRST_WAIT_SECONDS)
        else:
            return


def _begin_of(connection: Connection) -> str:
    return "BEGIN" if connection.get_execution_options().get("quernel_reads") else "BEGIN IMMEDIATE"


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the database as ours.

    Raises:
        UnavailableError: It cannot be reached, or refuses.
    """
    try:
        yield
    except DBAPIError as error:
        raise _unavailable(error) from error


def _may_pass(error: DBAPIError) -> bool:
    """Whether to try again may help: the connection broke, something was locked, or another was first."""
    return error.connection_invalidated or isinstance(error, (OperationalError, IntegrityError))


def _unavailable(error: DBAPIError) -> UnavailableError:
    logger.error("The database failed (%s).", type(error.orig).__name__)
    return UnavailableError("The gateway's database does not answer.", hint="Ask again shortly.")
