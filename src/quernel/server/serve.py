"""Running an application: the socket first, then uvicorn on it, then a stop that lets requests finish."""

import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from quernel.errors import InternalError, SettingsError
from quernel.server.config import ServerConfig

BACKLOG = 2048

KEEP_ALIVE_SECONDS = 65
"""Longer than clients and proxies keep an idle connection (httpx 5 s, nginx 60 s), so that it is they who close it. A
server that closes first loses the request that was just being sent."""

START_SECONDS = 10.0

MOST_FILES = 65_536
"""Files that the process may hold open, where the system lets it: each connection is one."""


class JsonFormatter(logging.Formatter):
    """A log line as a JSON object, with the numbers of a request as fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        entry |= {"message": record.getMessage()} if fields is None else {"message": "request", **fields}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


FORMATTERS: Mapping[str, Mapping[str, Any]] = {
    "text": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
    "json": {"()": JsonFormatter},
}


def log_config(config: ServerConfig) -> dict[str, Any]:
    """Logs go to stderr; uvicorn's own access log is off, since it cannot name a request's id or tokens."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": FORMATTERS[config.log_format]},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "loggers": {
            "quernel": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }


BIND_ERRORS: Mapping[int, tuple[str, str, str]] = {
    errno.EADDRINUSE: ("port", "is in use", "Stop what listens there, or choose another port; 0 takes a free one."),
    errno.EACCES: ("port", "is not permitted", "Ports below 1024 need privileges; choose a higher one."),
    errno.EADDRNOTAVAIL: ("host", "is no address of this machine", "127.0.0.1 is this machine, 0.0.0.0 all of it."),
}
"""What the operating system says, as the setting to change, what is wrong with it, and the way out."""


def bind(config: ServerConfig) -> socket.socket:
    """A socket that listens where the settings say.

    It listens at once, before models are loaded: a busy port fails now and not after minutes, no second server can
    take the port meanwhile, and a client that comes early waits instead of being refused.

    Raises:
        SettingsError: The port or Unix socket is in use or not permitted, or the host is no address of this machine.
    """
    if config.uds is not None:
        return _bind_unix(config.uds)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise SettingsError(f"host {config.host!r} is not known: {error.strerror}.", param="host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # Elsewhere it would let two servers share the port; here it only lets a restart have it at once.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        fallback = ("host", f"cannot be listened on: {error.strerror}", "Choose another host or port.")
        param, problem, hint = BIND_ERRORS.get(error.errno or 0, fallback)
        raise SettingsError(f"{config.host}:{config.port} {problem}.", param=param, hint=hint) from error
    return listener


def _bind_unix(path: Path) -> socket.socket:
    """A Unix socket that listens. One that a server left behind when it was killed is replaced.

    Raises:
        SettingsError: A server listens there, it is no socket, or it is not permitted.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise SettingsError(f"{path} is in use.", param="uds", hint="Stop what listens there.")
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"{path} cannot be listened on: {error.strerror or error}.", param="uds") from error
    except SettingsError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The URL under which a listening socket is reached; for a Unix socket its path."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(
    app: ASGIApp, config: ServerConfig, *, listener: socket.socket | None = None, stop: "Stop | None" = None
) -> None:
    """Serve until a signal to stop (SIGINT, SIGTERM), then let requests finish, and return.

    A second SIGINT does not wait for them.

    Args:
        app: The application.
        config: Where to listen and how long to wait at the end.
        listener: The socket of `bind`, if it was called before.
        stop: What the application calls to stop the server, if it has to.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    listener = bind(config) if listener is None else listener
    server = _server(app, config, log_config=log_config(config))
    if stop is not None:
        stop.server = server
    raise_file_limit()
    try:
        with _signals_only_stop(), listener:
            server.run(sockets=[listener])
    finally:
        if config.uds is not None:
            config.uds.unlink(missing_ok=True)


class Stop:
    """A way to stop a server from inside its application.

    Attributes:
        server: The server, once it runs.
    """

    def __init__(self) -> None:
        self.server: uvicorn.Server | None = None

    def __call__(self) -> None:
        """Let requests finish, and return from `run`."""
        if self.server is not None:
            self.server.should_exit = True


def raise_file_limit() -> None:
    """Let the process hold as many connections as it is allowed to; the usual limit is 1,024."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def running(app: ASGIApp, config: ServerConfig | None = None) -> Iterator[str]:
    """Serve in a thread for as long as the context lasts: for tests, notebooks and examples.

        with running(create_app([Embedder()])) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

    Args:
        app: The application.
        config: Where to listen; by default a free port of this machine.

    Yields:
        The server's URL.

    Raises:
        SettingsError: The address cannot be listened on.
        InternalError: The server did not start.
    """
    config = config or ServerConfig(port=0, shutdown_grace_seconds=1)
    with bind(config) as listener:
        server = _server(app, config, log_config=None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="quernel-server")
        url = url_of(listener, tls=config.tls_cert is not None)
        thread.start()
        try:
            deadline = time.monotonic() + START_SECONDS
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise InternalError("The server did not start.")
                time.sleep(0.005)
            yield url
        finally:
            server.should_exit = True
            thread.join()


def _server(app: ASGIApp, config: ServerConfig, *, log_config: dict[str, Any] | None) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            backlog=BACKLOG,
            log_config=log_config,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            proxy_headers=bool(config.trusted_proxies),
            forwarded_allow_ips=list(config.trusted_proxies),
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=config.shutdown_grace_seconds,
        )
    )


@contextmanager
def _signals_only_stop() -> Iterator[None]:
    """Let SIGINT and SIGTERM do no more than stop the server.

    uvicorn raises the signal again once it has stopped. By default that would end the process before its caller could
    close the models.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
