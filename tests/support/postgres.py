"""A PostgreSQL server of one's own, from the programs of the machine."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

SUPERUSER = "quernel"
START_SECONDS = 30

FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB", "max_connections=64")
"""Nothing of it outlives the tests."""

QUIET = ("listen_addresses=", "autovacuum=off", "log_min_messages=fatal", "deadlock_timeout=200ms")


def find_binaries() -> Path | None:
    """Where `initdb` and `postgres` are; `None` where they are not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)
    config = shutil.which("pg_config")
    if config is not None:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.insert(0, Path(said.stdout.strip()))
    initdb = shutil.which("initdb")
    if initdb is not None:
        folders.append(Path(initdb).resolve().parent)
    return next(
        (folder for folder in folders if all((folder / name).is_file() for name in ("initdb", "postgres"))), None
    )


class Postgres:
    """A server that runs.

    Attributes:
        folder: Where its socket is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, database: str) -> str:
        """The URL of a database, for SQLAlchemy."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self.folder}"

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        """Do something outside any transaction."""
        dsn = f"host={self.folder} user={SUPERUSER} dbname={database}"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres_server(binaries: Path) -> Iterator[Postgres]:
    """A new server for as long as the context lasts. Its programs refuse to run as root, who starts them as another."""
    folder = Path(tempfile.mkdtemp(prefix="quernel-pg-"))  # short: the name of a socket has room for 107 characters
    user = _unprivileged() if os.geteuid() == 0 else None
    options: dict = {"cwd": folder, "stdout": subprocess.DEVNULL}
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, log = folder / "data", folder / "log"
    initdb = [binaries / "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    settings = [f"unix_socket_directories={folder}", *FAST, *QUIET]
    arguments = [part for setting in settings for part in ("-c", setting)]
    try:
        with log.open("wb") as stderr:
            made = subprocess.run(initdb, check=False, stderr=stderr, **options)
            assert made.returncode == 0, log.read_text(errors="replace")
            process = subprocess.Popen([binaries / "postgres", "-D", data, *arguments], stderr=stderr, **options)
        try:
            server = Postgres(folder)
            _wait_for(server, process, log)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait(START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("there is no user but root")


def _wait_for(server: Postgres, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            server.execute("SELECT 1")
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.02)
        else:
            return
