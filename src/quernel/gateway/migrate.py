"""Bringing a database to the form that this code expects.

A SQLite file is migrated by the gateway that opens it. PostgreSQL, which several gateways of different versions may
share, is migrated by its own command and by nothing else. A migration is one transaction: it is done, or it never
began, and of several at once one does it.

Source: https://alembic.sqlalchemy.org/en/latest/cookbook.html#sharing-a-connection-across-one-or-more-programmatic-migration-commands
(a connection handed to Alembic), https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from quernel.errors import SettingsError
from quernel.gateway.database import open_engine, translated
from quernel.gateway.schema import metadata

SCRIPTS = Path(__file__).with_name("migrations")

NEWEST = "head"

ADVISORY_LOCK = 0x7175_6572_6E65_6C
"""Of PostgreSQL, taken by whoever migrates; the letters of our name."""


def migrate(database: str | Engine, *, to: str = NEWEST) -> tuple[str | None, str]:
    """Bring a database up to a revision, where it is older.

    Args:
        database: Its URL, or an engine of `quernel.gateway.database.open_engine`.
        to: The revision; by default that of this code.

    Returns:
        The revision before, `None` where it was empty; and that after.

    Raises:
        SettingsError: It is newer than this code, or holds tables of somebody else.
        UnavailableError: It cannot be reached.
    """
    if isinstance(database, Engine):
        return _migrate(database, to)
    engine = open_engine(database)
    try:
        return _migrate(engine, to)
    finally:
        engine.dispose()


def current(engine: Engine) -> str | None:
    """The revision of a database; `None` where it is empty.

    Raises:
        UnavailableError: It cannot be reached.
    """
    with translated(), engine.connect().execution_options(quernel_reads=True) as connection:
        return _revision(connection)


def newest() -> str:
    """The revision of this code."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "there is a first one"
    return revision


def check(engine: Engine) -> None:
    """Refuse a database that is not of this code's revision.

    Raises:
        SettingsError: It is older, or newer.
        UnavailableError: It cannot be reached.
    """
    found = current(engine)
    if found is not None and not _is_known(found):
        raise _newer(found)
    if found != newest():
        raise SettingsError(
            f"The database is empty, and revision {newest()} is needed."
            if found is None
            else f"The database has revision {found}, and {newest()} is needed.",
            param="database",
            hint="Run quernel gateway migrate.",
        )


def _migrate(engine: Engine, to: str) -> tuple[str | None, str]:
    with translated(), engine.begin() as connection:  # SQLite: its begin takes the lock for writing
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        before = _revision(connection)
        if before is not None and not _is_known(before):
            raise _newer(before)
        if before is None and metadata.tables.keys() & set(sa.inspect(connection).get_table_names()):
            raise SettingsError(
                "The database holds tables that are not the gateway's.",
                param="database",
                hint="Give the gateway a database of its own.",
            )
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        after = _revision(connection)
        assert after is not None, "it was migrated"
        return before, after


def _config() -> Config:
    config = Config()
    # A path is read like a file of settings, where a percent sign is one of theirs.
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_known(revision: str) -> bool:
    scripts = ScriptDirectory.from_config(_config())
    return revision in {script.revision for script in scripts.walk_revisions()}


def _newer(revision: str) -> SettingsError:
    return SettingsError(
        f"The database has revision {revision}, which this version of Quernel does not know.",
        param="database",
        hint="Install the version of Quernel that migrated it, or a later one.",
    )
