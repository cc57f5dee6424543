"""Databases for tests: an empty one of each kind for each test, with the tables that the migrations make."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.postgres import Postgres, find_binaries, postgres_server

from quernel.gateway.database import Database
from quernel.gateway.migrate import migrate
from quernel.gateway.schema import metadata

KINDS = ("sqlite", "postgresql")

BOOKS, EMPTY = "books", "empty"
"""Databases of PostgreSQL: one whose rows go with each test, and one that is made anew for each that migrates."""

CLEAN = "; ".join(f'DELETE FROM "{table.name}"' for table in reversed(metadata.sorted_tables))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the session."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed here")
    with postgres_server(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to be copied."""
    file = tmp_path_factory.mktemp("template") / "books.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> Postgres:
    """A server with a database that has all tables."""
    postgres.execute(f"CREATE DATABASE {BOOKS}")
    migrate(postgres.url(BOOKS))
    return postgres


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
    else:
        server = request.getfixturevalue("postgres")
        server.execute(f"DROP DATABASE IF EXISTS {EMPTY} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {EMPTY}")
        yield server.url(EMPTY)


@pytest.fixture
def postgresql_url(migrated_postgres: Postgres) -> str:
    """The URL of a PostgreSQL database with all tables and no rows."""
    others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{BOOKS}'"
    migrated_postgres.execute(others)
    migrated_postgres.execute(CLEAN, database=BOOKS)
    return migrated_postgres.url(BOOKS)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with all tables and no rows."""
    if request.param == "sqlite":
        file = tmp_path / "books.db"
        shutil.copy(request.getfixturevalue("migrated_file"), file)
        yield f"sqlite:///{file}"
    else:
        yield request.getfixturevalue("postgresql_url")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with all tables and no rows, opened."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    """A PostgreSQL database with all tables and no rows, opened."""
    opened = Database(postgresql_url)
    yield opened
    opened.close()
