"""Group commit: what resolves is on disk, and what one operation does wrong is its own."""

import asyncio
import gc
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from tests.support.books import NOW, balance_of, entries_of, grant, hold_of, new_account, reconcile, rows_of

from quernel.errors import ConflictError, SettingsError, UnavailableError
from quernel.gateway import database as module
from quernel.gateway import ledger, schema
from quernel.gateway.database import Database, open_engine
from quernel.gateway.ledger import EntryKind
from quernel.gateway.marks import bump, read_mark, set_mark


def mark(name, value=1):
    """An operation that can be told again, and done again."""

    def operation(connection):
        set_mark(connection, name, value)
        return name

    return operation


def marks(database):
    return {row.name: row.value for row in rows_of(database, schema.marks)}


def refuse(connection):
    raise ConflictError("no")


def break_a_rule(connection):
    connection.execute(sa.insert(schema.members), {"account": "acc_none", "subject": "s", "role": "r", "created": 0})


def be_wrong(connection):
    connection.execute(sa.text("SELECT nothing FROM nowhere"))


def have_a_bug(connection):
    set_mark(connection, "half", 1)
    raise ZeroDivisionError


class Gate:
    """Holds the writer up, so that what is asked meanwhile comes into one group."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, connection):
        self.reached.set()
        assert self.opened.wait(20)


async def in_one_group(database, *operations, locks=None):
    """What these come to, written as one group: results, or what they raise."""
    gate = Gate()
    first = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.reached.wait, 20)
    locks = locks or [""] * len(operations)
    tasks = [
        asyncio.create_task(database.write(operation, lock=lock))
        for operation, lock in zip(operations, locks, strict=True)
    ]
    await asyncio.sleep(0)
    gate.opened.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def commits(database):
    """How many transactions were committed."""
    counted = []
    sa.event.listen(database.engine, "commit", counted.append)
    return counted


def test_what_comes_at_once_shares_a_commit(database, commits):
    outcomes = asyncio.run(in_one_group(database, *(mark(f"m{number}") for number in range(50))))
    assert outcomes == [f"m{number}" for number in range(50)]
    assert len(marks(database)) == 50
    assert len(commits) == 2, "that of the gate, and one for all"


def test_a_refusal_goes_to_its_caller_alone(database, commits):
    first, second, third = asyncio.run(in_one_group(database, mark("a"), refuse, mark("b")))
    assert (first, third) == ("a", "b")
    assert isinstance(second, ConflictError)
    assert marks(database) == {"a": 1, "b": 1}
    assert len(commits) == 2


def refuse_late(connection):
    set_mark(connection, "half", 1)
    raise ConflictError("no")


def test_what_an_operation_wrote_before_it_refused_is_taken_back_and_nothing_else(database, commits):
    outcomes = asyncio.run(in_one_group(database, mark("a"), refuse_late, mark("b"), refuse, mark("c")))
    assert [type(outcome) for outcome in outcomes] == [str, ConflictError, str, ConflictError, str]
    assert marks(database) == {"a": 1, "b": 1, "c": 1}
    assert len(commits) == 2
    with pytest.raises(ConflictError):
        database.write_now(refuse_late)
    assert "half" not in marks(database)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(break_a_rule, UnavailableError), (be_wrong, UnavailableError), (have_a_bug, ZeroDivisionError)],
)
def test_a_faulty_operation_hurts_only_itself(database, fault, kind):
    outcomes = asyncio.run(in_one_group(database, mark("a"), fault, mark("b")))
    assert [type(outcome) for outcome in outcomes] == [str, kind, str]
    assert marks(database) == {"a": 1, "b": 1}
    assert asyncio.run(database.write(mark("later"))) == "later"


def test_a_group_is_written_in_the_order_of_its_accounts_and_each_account_in_that_of_its_callers(database):
    order = []
    operations = [lambda connection, number=number: order.append(number) for number in range(6)]
    asyncio.run(in_one_group(database, *operations, locks=["b", "a", "c", "a", "", "b"]))
    assert order == [4, 1, 3, 0, 5, 2]


def test_a_caller_that_goes_away_takes_nothing_back_and_stops_nobody(database, caplog):
    async def work():
        gate = Gate()
        first = asyncio.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait, 20)
        left = [asyncio.create_task(database.write(operation)) for operation in (mark("left"), refuse)]
        stays = asyncio.create_task(database.write(mark("stays")))
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        gate.opened.set()
        async with asyncio.timeout(20):
            await first
            return await stays

    assert asyncio.run(work()) == "stays"
    assert marks(database) == {"left": 1, "stays": 1}
    gc.collect()
    assert caplog.records == [], "a refusal that nobody waits for is no news"


def test_a_loop_that_is_gone_does_not_stop_the_writer(database):
    gate = Gate()

    async def leave():
        writing = asyncio.ensure_future(database.write(gate))
        await asyncio.to_thread(gate.reached.wait, 20)
        writing.cancel()

    asyncio.run(leave())
    gate.opened.set()

    async def come_later():
        async with asyncio.timeout(20):
            return await database.write(mark("later"))

    assert asyncio.run(come_later()) == "later"


def test_two_gateways_that_read_and_write_at_once_wait_for_each_other(database, database_url, caplog):
    account = new_account(database, 10**6)
    other = Database(database_url)

    def buy(name):
        wanted = hold_of(account, 3, name=name)
        return lambda connection: ledger.hold(connection, wanted, now=NOW)

    async def work():
        names = [f"gen_{number}" for number in range(150)]
        mine = [database.write(buy(f"{name}_a"), lock=account) for name in names]
        await asyncio.gather(*mine, *(other.write(buy(f"{name}_b"), lock=account) for name in names))

    asyncio.run(work())
    other.close()
    assert caplog.records == [], "nothing had to be tried again"
    assert balance_of(database, account).held == 900


def test_closing_writes_what_waits_and_refuses_what_comes_after(database):
    async def work():
        gate = Gate()
        first = asyncio.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait, 20)
        waiting = [asyncio.create_task(database.write(mark(f"m{number}"))) for number in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(database.close))
        gate.opened.set()
        await closing
        assert await asyncio.gather(first, *waiting) == [None, "m0", "m1", "m2"]
        for refused in (database.write, database.read):
            with pytest.raises(UnavailableError, match="stopping"):
                await refused(read_mark)

    asyncio.run(work())
    database.close()
    again = Database(database.engine.url.render_as_string(hide_password=False))
    assert marks(again) == {"m0": 1, "m1": 1, "m2": 1}
    again.close()


def test_readers_see_what_is_committed_and_do_not_wait_for_writers(database):
    def write_and_wait(connection):
        set_mark(connection, "m", 2)
        return gate(connection)

    gate = Gate()

    async def work():
        await database.write(mark("m"))
        writing = asyncio.create_task(database.write(write_and_wait))
        await asyncio.to_thread(gate.reached.wait, 20)
        before = await database.read(lambda connection: read_mark(connection, "m"))
        gate.opened.set()
        await writing
        return before, await database.read(lambda connection: read_mark(connection, "m"))

    assert asyncio.run(work()) == (1, 2)


def test_all_that_a_reader_sees_is_of_one_moment(database):
    account = new_account(database, 5)

    def compare(connection):
        before = ledger.balance_of(connection, account)
        grant(database, account, 7)
        return before == ledger.balance_of(connection, account)

    assert database.read_now(compare)
    assert balance_of(database, account).balance == 12


def test_books_that_are_read_while_they_are_written_agree(database):
    account = new_account(database, 10**6)

    def buy(number):
        wanted = hold_of(account, 3, name=f"gen_{number}")

        def operation(connection):
            ledger.hold(connection, wanted, now=NOW)
            if number % 3:
                ledger.settle(connection, wanted, cost=2, tokens=0, now=NOW)

        return operation

    async def work():
        writing = [asyncio.create_task(database.write(buy(number), lock=account)) for number in range(300)]
        found = []
        while not all(task.done() for task in writing):
            found.append(await database.read(ledger.reconcile))
        await asyncio.gather(*writing)
        return found

    found = asyncio.run(work())
    assert found
    assert not any(found)
    assert balance_of(database, account).balance == 10**6 - 400


def kill_connections(database):
    """What a restart of the server, or an administrator, does."""
    others = "datname = current_database() AND pid != pg_backend_pid()"
    kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
    engine = open_engine(database.engine.url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        connection.execute(sa.text(kill))
    engine.dispose()


@pytest.fixture(params=["before", "after"])
def broken_commits(database, monkeypatch, request):
    """Lets the second commit from now break the connection: before it is done, or after."""
    commit = database.engine.dialect.do_commit
    left = [0]

    def break_second(raw):
        left[0] -= 1
        if left[0] or request.param == "after":
            commit(raw)
        if not left[0]:
            raw.rollback()
            raise database.engine.dialect.loaded_dbapi.OperationalError("the connection is closed")

    def arm():
        left[0] = 2
        monkeypatch.setattr(database.engine.dialect, "do_commit", break_second)

    return arm, left


def test_a_connection_that_breaks_at_the_commit_leaves_everything_done_once(database, broken_commits):
    account = new_account(database, 100)
    wanted = [hold_of(account, 10, name=f"gen_{number}") for number in range(3)]

    def steps(one):
        yield lambda connection: ledger.hold(connection, one, now=NOW).available
        yield lambda connection: ledger.settle(connection, one, cost=7, tokens=0, now=NOW)
        yield lambda connection: ledger.void(connection, one.id, account)

    def give(connection):
        ledger.enter(connection, account, EntryKind.GRANT, 5, reference="once", actor="test", now=NOW)

    arm, left = broken_commits
    said = []
    for step in zip(*(steps(one) for one in wanted), strict=True):
        arm()
        said.append(asyncio.run(in_one_group(database, *step, give, locks=[account] * 4)))
        assert left[0] < 0, "it broke, and was done again"
    assert said[1:] == [[7, 7, 7, None], [False, False, False, None]]
    assert entries_of(database, account) == [("grant", 100), ("grant", 5), *[("charge", -7)] * 3]
    assert reconcile(database) == []
    assert balance_of(database, account).available == 84


def test_connections_that_the_server_closed_are_made_anew(postgresql):
    asyncio.run(in_one_group(postgresql, *(mark(f"m{number}") for number in range(5))))
    for _ in range(3):
        kill_connections(postgresql)
        assert asyncio.run(postgresql.read(read_mark)) == 0
        kill_connections(postgresql)
        outcomes = asyncio.run(in_one_group(postgresql, mark("a"), refuse, mark("b")))
        assert [type(outcome) for outcome in outcomes] == [str, ConflictError, str]


def test_a_connection_that_breaks_inside_a_group_hurts_nobody(postgresql):
    broken = []

    def break_once(connection):
        if not broken:
            broken.append(True)
            kill_connections(postgresql)
        return mark("c")(connection)

    outcomes = asyncio.run(in_one_group(postgresql, mark("a"), mark("b"), break_once, mark("d")))
    assert outcomes == ["a", "b", "c", "d"]
    assert marks(postgresql) == dict.fromkeys("abcd", 1)


def test_a_database_that_is_gone_fails_all_at_once_and_serves_again_when_it_is_back(database, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    error = DBAPIError.instance("BEGIN", {}, database.engine.dialect.loaded_dbapi.OperationalError("gone"), Exception)

    def fail(*_):
        raise error

    with monkeypatch.context() as context:
        context.setattr(database.engine, "connect", fail)
        context.setattr(database.engine, "begin", fail)
        outcomes = asyncio.run(in_failed_group(database))
        with pytest.raises(UnavailableError, match="does not answer"):
            asyncio.run(database.read(read_mark))
    assert {type(outcome) for outcome in outcomes} == {UnavailableError}
    assert len(outcomes) == 20
    assert len({id(outcome) for outcome in outcomes}) == 20
    assert len(waits) <= 2 * (module.ATTEMPTS - 1), "one series of attempts for a group"
    assert asyncio.run(database.write(mark("later"))) == "later"


async def in_failed_group(database):
    tasks = [asyncio.create_task(database.write(mark(f"m{number}"))) for number in range(20)]
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_cannot_succeed_is_not_tried_again(postgresql, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(UnavailableError):
        postgresql.write_now(mark("name" * 20))
    with pytest.raises(UnavailableError):
        postgresql.write_now(mark("\0"))
    assert waits == []


def test_two_that_lock_in_a_circle_both_succeed(postgresql, postgresql_url):
    other = Database(postgresql_url)
    accounts = sorted(new_account(postgresql, 10) for _ in range(2))
    barrier = threading.Barrier(2, timeout=20)
    met = []

    def take(first, second):
        def operation(connection):
            ledger.lock(connection, first)
            if len(met) < 2:
                met.append(first)
                barrier.wait()
            ledger.lock(connection, second)
            return first

        return operation

    async def work():
        return await asyncio.gather(
            postgresql.write(take(*accounts)),
            other.write(take(*reversed(accounts))),
        )

    assert asyncio.run(work()) == accounts
    other.close()


def test_rows_that_name_an_account_are_written_while_it_is_locked(postgresql, postgresql_url):
    account = new_account(postgresql)
    other = Database(postgresql_url)
    row = {"account": account, "subject": "s", "role": "owner", "created": 0}

    def add(connection):
        connection.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
        connection.execute(sa.insert(schema.members), row)

    def operation(connection):
        ledger.lock(connection, account)
        other.write_now(add)

    postgresql.write_now(operation)
    assert len(rows_of(postgresql, schema.members)) == 1
    other.close()


def test_sessions_do_not_wait_for_good(postgresql):
    def settings(connection):
        return [connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in module.POSTGRESQL_SESSION]

    with postgresql.engine.connect() as connection:
        connection.rollback()
        assert settings(connection) == ["10s", "30s"]


@pytest.mark.parametrize(("durability", "level"), [(None, 1), ("process", 1), ("power", 2)])
def test_sqlite_flushes_at_each_commit_only_where_that_was_asked_for(tmp_path, durability, level):
    engine = open_engine(f"sqlite:///{tmp_path}/books.db", durability)
    with engine.connect() as connection:
        found = {
            name: connection.execute(sa.text(f"PRAGMA {name}")).scalar_one()
            for name in ("synchronous", "journal_mode", "foreign_keys")
        }
    assert found == {"synchronous": level, "journal_mode": "wal", "foreign_keys": 1}
    engine.dispose()


@pytest.mark.parametrize(
    ("durability", "source"), [(None, "command line"), ("process", "session"), ("power", "command line")]
)
def test_postgresql_flushes_as_it_is_set_up_unless_less_was_asked_for(postgresql_url, durability, source):
    engine = open_engine(postgresql_url, durability)
    with engine.connect() as connection:
        connection.rollback()
        found = connection.execute(sa.text("SELECT source FROM pg_settings WHERE name = 'synchronous_commit'"))
        assert found.scalar_one() == source
    engine.dispose()


@pytest.mark.parametrize(
    "url",
    ["mysql://host/name", "nonsense", "", "sqlite://", "sqlite:///:memory:", "oracle+made_up://x", "postgres://x"],
)
def test_what_is_no_database_of_ours_is_refused_at_once(url):
    with pytest.raises(SettingsError) as caught:
        open_engine(url)
    assert caught.value.param == "database"
    assert "sqlite:///quernel.db" in caught.value.hint


def test_whatever_driver_a_url_names_the_one_that_is_used_here_is_taken():
    for url in ("postgresql://host/name", "postgresql+asyncpg://host/name", "postgresql+psycopg2://host/name"):
        engine = open_engine(url)
        assert engine.dialect.driver == "psycopg"
        engine.dispose()


def test_what_a_url_says_of_the_connection_stands():
    engine = open_engine("postgresql://host/name?connect_timeout=1&application_name=mine")
    assert engine.url.query["connect_timeout"] == "1"
    assert engine.url.query["application_name"] == "mine"
    assert engine.url.query["keepalives_idle"] == "30"
    engine.dispose()


def test_every_change_raises_the_revision_even_of_two_at_once(database):
    assert database.read_now(read_mark) == 0
    threads = [threading.Thread(target=database.write_now, args=(bump,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.read_now(read_mark) == 6
