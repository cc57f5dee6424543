"""The gateway's books, for the commands that read and change them on the machine where they are.

These commands need no key: whoever may read the database and its secret may do anything anyway.
"""

import getpass
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from quernel.cli.options import F
from quernel.cli.settings import Settings, settings_options
from quernel.errors import SettingsError
from quernel.gateway.config import GatewayConfig

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from quernel.gateway.database import Database
    from quernel.gateway.editor import Editor
    from quernel.gateway.keys import KeyMint

T = TypeVar("T")

PACKAGES = ("aiohappyeyeballs", "alembic", "cryptography", "joserfc", "sqlalchemy")
"""What the extra `gateway` installs."""

OPERATOR = "operator"
"""`quernel.gateway.opening.OPERATOR`, spelled here so that `--help` need not import it."""


def database_url(settings: GatewayConfig) -> str:
    """The URL of the database: that of the settings, or of a SQLite file in the user's data folder."""
    if settings.database is not None:
        return settings.database
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return f"sqlite:///{data / 'quernel' / 'gateway.db'}"


def require_gateway() -> None:
    """Refuse where the packages of the gateway are not installed.

    Raises:
        SettingsError: Such.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"The gateway needs {', '.join(missing)}, which is not installed.", hint="pip install 'quernel[gateway]'"
        )


def books_options(command: F) -> F:
    """Give a command `--database`, `--secret-file` and `--config`, from which `opened_books` knows where they are."""
    return settings_options("gateway", only=("database", "secret_file"))(command)


class Books:
    """The database of a gateway, and its secret.

    Args:
        database: The database.
        settings: Where the secret is.
    """

    def __init__(self, database: "Database", settings: GatewayConfig) -> None:
        self._database = database
        self.settings = settings

    def read(self, operation: "Callable[[Connection], T]") -> T:
        """What the books say.

        Raises:
            UnavailableError: The database does not answer.
        """
        return self._database.read_now(operation)

    def change(self, operation: "Callable[[Editor], T]") -> T:
        """What a change comes to, once it is on disk. Gateways act upon it within a second.

        Raises:
            QuernelError: It is refused, and nothing is changed.
        """
        from quernel.gateway.editor import Editor
        from quernel.gateway.ids import now_ms

        def whole(connection: "Connection") -> T:
            return operation(Editor(connection=connection, actor=actor(), now=now_ms()))

        return self._database.write_now(whole)

    def every(self, page: "Callable[[T | None, Connection], Sequence[T]]") -> Iterator[T]:
        """What a list holds, page by page.

        Args:
            page: What follows in it after what it is given; nothing at its end.

        Raises:
            UnavailableError: The database does not answer.
        """
        last: T | None = None
        while True:
            found = self.read(partial(page, last))
            if not found:
                return
            yield from found
            last = found[-1]

    def slugs(self) -> dict[str, str]:
        """Names of accounts by their ids."""
        import sqlalchemy as sa

        from quernel.gateway.schema import accounts

        found = sa.select(accounts.c.id, accounts.c.slug)
        return self.read(lambda connection: {row.id: row.slug for row in connection.execute(found)})

    def mint(self) -> "KeyMint":
        """What makes keys.

        Raises:
            SettingsError: The secret cannot be read.
        """
        from quernel.gateway.keys import KeyMint
        from quernel.gateway.opening import KEY_PURPOSE, SECRET_SUFFIX
        from quernel.gateway.vault import derive, read_secret_file

        path = self.settings.secret_file
        if path is None:
            if not self._database.is_sqlite:
                raise SettingsError(
                    "secret_file is missing.", param="secret_file", hint="Name that of the gateways of this database."
                )
            path = Path(f"{self._database.engine.url.database}{SECRET_SUFFIX}")
        # Never made here: with another secret than the gateway's no key would open anything.
        return KeyMint(derive(read_secret_file(path, create=False), KEY_PURPOSE))


@contextmanager
def opened_books(given: Mapping[str, Any]) -> Iterator[Books]:
    """The books of the gateway that the options name, for as long as the context lasts.

    Raises:
        SettingsError: They are not there, or not of this version; or they are asked for what is no text.
    """
    require_gateway()
    import sqlalchemy as sa

    from quernel.gateway import schema
    from quernel.gateway.database import Database
    from quernel.gateway.migrate import check

    settings = Settings(given).build("gateway", GatewayConfig)
    url = database_url(settings)
    database = Database(url, durability=settings.durability)
    try:
        if database.is_sqlite and not Path(database.engine.url.database or "").is_file():
            raise SettingsError(
                f"There is no gateway at {url}.",
                param="database",
                hint="Start quernel gateway once, or name its database with --database.",
            )
        check(database.engine)
        if database.read_now(lambda connection: connection.execute(sa.select(schema.accounts.c.id)).first()) is None:
            raise SettingsError(
                "The gateway of this database has never run.",
                param="database",
                hint="Start quernel gateway once: it makes the operator's account.",
            )
        yield Books(database, settings)
    except UnicodeEncodeError as error:  # bytes of an argument that the system could not read as text
        unread = error.object[error.start : error.end]
        raise SettingsError(f"{unread!r} is no text.", hint="Write it in UTF-8.") from error
    finally:
        database.close()


def actor() -> str:
    """Who changes the books, as the audit names them."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a container need not know its user's name
        return "cli"
