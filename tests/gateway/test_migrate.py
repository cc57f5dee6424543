"""Migrations: what they make is what the code expects, rows survive them, and of several at once one does it."""

import multiprocessing

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.support.books import new_account

from quernel.errors import SettingsError, UnavailableError
from quernel.gateway.database import Database, open_engine
from quernel.gateway.migrate import SCRIPTS, check, current, migrate, newest
from quernel.gateway.schema import metadata


@pytest.fixture
def engine(empty_url):
    opened = open_engine(empty_url)
    yield opened
    opened.dispose()


def differences(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, metadata)


def tables(engine):
    return set(sa.inspect(engine).get_table_names())


def test_migrations_make_what_the_code_expects(engine):
    assert differences(engine), "an empty database differs"
    migrate(engine)
    assert differences(engine) == []
    assert tables(engine) == {*metadata.tables, "alembic_version"}


def test_names_of_constraints_are_those_that_the_code_gives_them(engine):
    migrate(engine)
    inspector = sa.inspect(engine)
    for name, table in metadata.tables.items():
        found = {inspector.get_pk_constraint(name)["name"]}
        found |= {one["name"] for one in inspector.get_unique_constraints(name)}
        found |= {one["name"] for one in inspector.get_foreign_keys(name)}
        assert found == {str(constraint.name) for constraint in table.constraints}


def test_an_empty_database_is_brought_to_the_newest_revision_once(engine, empty_url):
    assert current(engine) is None
    assert migrate(empty_url) == (None, newest())
    assert migrate(engine) == (newest(), newest())
    assert current(engine) == newest()
    check(engine)


def test_a_database_that_is_older_is_refused_with_the_way_out(engine):
    with pytest.raises(SettingsError, match=r"is empty.*Run quernel gateway migrate"):
        check(engine)
    assert tables(engine) == set(), "looking changes nothing"
    migrate(engine, to="0001")
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
    with pytest.raises(SettingsError, match="Run quernel gateway migrate"):
        check(engine)


def test_a_database_that_is_newer_is_refused_and_left_alone(engine):
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for refused in (check, migrate):
        with pytest.raises(SettingsError, match=r"9999.*Install the version"):
            refused(engine)
    assert current(engine) == "9999"


def test_a_database_of_somebody_else_is_left_alone(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE accounts (name TEXT)"))
    with pytest.raises(SettingsError, match="not the gateway's"):
        migrate(engine)
    assert tables(engine) == {"accounts"}
    assert current(engine) is None


def test_a_migration_that_fails_leaves_nothing(engine, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", fail)
        with pytest.raises(ZeroDivisionError):
            migrate(engine)
    assert tables(engine) == set()
    assert migrate(engine) == (None, newest())


def test_a_database_that_cannot_be_reached_is_said_so(tmp_path):
    for url in (f"sqlite:///{tmp_path}/none/books.db", f"postgresql://nobody@/none?host={tmp_path}"):
        with pytest.raises(UnavailableError):
            migrate(url)


def value_of(column):
    """Some value for a column, as its type has it."""
    if column.foreign_keys:
        return "a"
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return True
    if isinstance(kind, sa.LargeBinary) or str(kind) == "BYTEA":
        return b"\x01"
    if isinstance(kind, sa.JSON):
        return {"a": [1]}
    return "a" if isinstance(kind, sa.String) else 1


def rows_of(engine):
    reflected = sa.MetaData()
    reflected.reflect(engine)
    with engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for name, table in reflected.tables.items()
            if name != "alembic_version"
        }


def test_rows_of_the_first_revision_survive_all_later_ones(engine):
    migrate(engine, to="0001")
    reflected = sa.MetaData()
    reflected.reflect(engine)
    with engine.begin() as connection:
        for table in reflected.sorted_tables:
            if table.name != "alembic_version":
                connection.execute(sa.insert(table), {column.name: value_of(column) for column in table.columns})
    before = rows_of(engine)
    assert all(len(rows) == 1 for rows in before.values())
    assert migrate(engine) == ("0001", newest())
    after = rows_of(engine)
    for name, rows in before.items():
        (row,), (kept,) = rows, after[name]
        assert row.items() <= kept.items()
    assert differences(engine) == []


def migrate_elsewhere(url, barrier, outcomes):
    barrier.wait()
    try:
        outcomes.put(migrate(url))
    except BaseException as error:
        outcomes.put(repr(error))
        raise


def test_of_two_that_migrate_at_once_one_does(engine, empty_url):
    context = multiprocessing.get_context("spawn")
    barrier, outcomes = context.Barrier(2), context.Queue()
    processes = [context.Process(target=migrate_elsewhere, args=(empty_url, barrier, outcomes)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [outcomes.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found, key=str) == sorted([(None, newest()), (newest(), newest())], key=str)
    assert differences(engine) == []


def test_a_migrated_database_keeps_books(empty_url):
    migrate(empty_url)
    database = Database(empty_url)
    new_account(database, 5)
    database.close()


def test_each_revision_has_a_number_and_follows_the_one_before():
    names = sorted(file.name for file in (SCRIPTS / "versions").glob("[0-9]*.py"))
    assert [name.split("_")[0] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
    assert newest() == names[-1].split("_")[0]
