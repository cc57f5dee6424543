"""Settings of the HTTP server."""

from dataclasses import dataclass

from quernel.errors import SettingsError
from quernel.settings import setting

MAX_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens and what it takes from a client."""

    host: str = setting(
        "127.0.0.1", "Address to listen on. 0.0.0.0 is every interface: there are no keys, so put a proxy before it."
    )
    port: int = setting(1234, "Port to listen on; 0 takes a free one.")
    max_body_bytes: int = setting(
        64 * 1024 * 1024,
        "Largest request body, refused with 413 beyond it. Bounds the memory that one client can take.",
    )
    shutdown_grace_seconds: int = setting(
        30, "How long requests under way may still take after a signal to stop. Match it to the orchestrator's."
    )
    access_log: bool = setting(True, "Log a line for each request (never its text). Off, only errors are logged.")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise SettingsError(f"port is {self.port}.", param="port", hint=f"Set 0 to {MAX_PORT}.")
        for name, least in (("max_body_bytes", 1), ("shutdown_grace_seconds", 0)):
            value = getattr(self, name)
            if value < least:
                raise SettingsError(f"{name} is {value}.", param=name, hint=f"Set {least} or more.")
