"""Settings of the HTTP server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quernel.errors import SettingsError
from quernel.settings import setting

MAX_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens, whom it answers and what it takes."""

    host: str = setting(
        "127.0.0.1", "Address to listen on. 0.0.0.0 is every interface: set keys, or put a proxy before it."
    )
    port: int = setting(1234, "Port to listen on; 0 takes a free one.")
    uds: Path | None = setting(None, "Unix socket to listen on instead of host and port.")
    tls_cert: Path | None = setting(None, "Certificate chain in PEM; with tls_key the server speaks HTTPS.")
    tls_key: Path | None = setting(None, "Private key of the certificate, in PEM and without a password.")
    trusted_proxies: tuple[str, ...] = setting(
        ("127.0.0.1",),
        "Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; * for all.",
    )
    root_path: str = setting("", "Path under which a proxy serves this server, such as /quernel.")
    cors_origins: tuple[str, ...] = setting(
        (), "Origins of web pages whose scripts may ask, such as https://example.com; * for all."
    )
    api_key: tuple[str, ...] = setting(
        (), "Key that requests must have; any of several. A variable or file keeps it out of the list of processes."
    )
    api_key_file: Path | None = setting(None, "File of keys that requests must have, one a line; # begins a comment.")
    admin_key: str | None = setting(
        None, "Key with which models can be loaded and unloaded over HTTP; without it nobody can."
    )
    token_ids: Literal["check", "accept", "refuse", "cl100k"] = setting(
        "check",
        "Token ids as input: believed if they can be shown to be the model's own (check) or always (accept), refused, "
        "or read as OpenAI's cl100k_base, which LangChain sends, and so turned back into text (cl100k).",
    )
    max_body_bytes: int = setting(
        64 * 1024 * 1024,
        "Largest request body, refused with 413 beyond it. Bounds the memory that one client can take.",
    )
    max_texts: int = setting(2_048, "Most texts in one embedding request; at most 2048.")
    max_documents: int = setting(10_000, "Most documents in one rerank request.")
    request_timeout_seconds: float | None = setting(
        None,
        "Longest that a request may take, refused with 504 beyond it. A client may ask for less in the header "
        "x-quernel-timeout. By default as long as the client stays.",
    )
    shutdown_grace_seconds: int = setting(
        30, "How long requests under way may still take after a signal to stop. Match it to the orchestrator's."
    )
    engine_process: bool = setting(
        True,
        "Let `quernel serve` compute in a process of its own: faster for short requests to small models, and started "
        "again if it dies. Off, it takes some 200 MB less.",
    )
    access_log: bool = setting(True, "Log a line for each request (never its text). Off, only errors are logged.")
    log_format: Literal["text", "json"] = setting("text", "Log lines as text, or as JSON objects.")
    otlp_endpoint: str | None = setting(
        None, "Where traces are sent by OpenTelemetry (OTLP over HTTP), such as http://127.0.0.1:4318. Needs [otel]."
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise SettingsError(f"port is {self.port}.", param="port", hint=f"Set 0 to {MAX_PORT}.")
        for name, least in (
            ("max_body_bytes", 1),
            ("max_texts", 1),
            ("max_documents", 1),
            ("shutdown_grace_seconds", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise SettingsError(f"{name} is {value}.", param=name, hint=f"Set {least} or more.")
        if self.request_timeout_seconds is not None and not self.request_timeout_seconds > 0:
            raise SettingsError(
                f"request_timeout_seconds is {self.request_timeout_seconds}.",
                param="request_timeout_seconds",
                hint="Set more than 0, or leave it out.",
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_cert" if self.tls_cert is None else "tls_key"
            raise SettingsError(f"{missing} is missing.", param=missing, hint="HTTPS needs tls_cert and tls_key.")
        if self.root_path and not (self.root_path.startswith("/") and not self.root_path.endswith("/")):
            raise SettingsError(
                f"root_path is {self.root_path!r}.", param="root_path", hint="Write it like '/quernel'."
            )
