"""Settings of the gateway."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quernel.errors import SettingsError
from quernel.gateway.money import Picos, parse_dollars
from quernel.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Where the gateway keeps its books, and how it treats requests."""

    database: str | None = setting(
        None,
        "URL of the database, such as postgresql://user@host/name. By default a SQLite file in the user's data folder; "
        "several gateways need PostgreSQL.",
    )
    durability: Literal["process", "power"] | None = setting(
        None,
        "What a written charge survives: the end of the process, or a power cut too, which takes a flush of the disk. "
        "By default process with SQLite and power with PostgreSQL.",
    )
    secret_file: Path | None = setting(
        None,
        "File of at least 32 random bytes, under which keys are hashed and customers' credentials encrypted. By "
        "default one beside the SQLite file, which is made at the first start. All gateways of a database need the "
        "same.",
    )
    welcome_usd: str = setting("25", "Credit that a new account is given, in dollars; 0 for none.")
    demo_usd_a_day: str = setting(
        "0", "What visitors without a key may spend in a day, all together, in dollars; 0 lets none in."
    )
    demo_requests_a_day: int = setting(100, "Requests that one address may make in a day without a key.")
    attempt_budget_seconds: float = setting(60.0, "Time that all attempts for one request have together.")
    hedge: bool = setting(
        False,
        "Ask a second provider when the first takes longer than 19 of 20 of its answers. Shortens the tail, and costs "
        "you both where both answer.",
    )
    canary_seconds: float = setting(
        300.0, "How often providers are asked for the vectors of fixed texts, to see that they are still the model's."
    )
    canary_cosine: float = setting(
        0.99, "A provider whose vectors of the fixed texts are less like the first provider's leaves the pool."
    )
    usage_days: int = setting(30, "How long a row for each request is kept. Reports are made of sums.")
    hourly_days: int = setting(
        100, "How long sums of usage by the hour are kept; then those of a day become one, and reports go by the day."
    )
    report_days: int = setting(
        1100, "How far back reports of usage reach: older sums are deleted. What accounts have spent is in the ledger."
    )
    ledger_days: int = setting(400, "How long each charge is kept; then those of a day become one.")
    audit_days: int = setting(400, "How long is kept who changed what.")
    cards: Path | None = setting(
        None,
        "Folder of *.toml files, each with the name of a model of [[catalogue]], more facts of it and a [page] for "
        "visitors. The models of the family have theirs.",
    )
    capture_file: Path | None = setting(
        None,
        "Where requests and replies of accounts that have turned capture on are written. By default nothing is "
        "captured, whatever accounts say.",
    )

    def __post_init__(self) -> None:
        for name in ("welcome_usd", "demo_usd_a_day"):
            if parse_dollars(getattr(self, name), place=name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}.", param=name, hint="Set 0 or more.")
        days = ("usage_days", "hourly_days", "report_days", "ledger_days", "audit_days")
        for name in ("attempt_budget_seconds", "canary_seconds", *days):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}.", param=name, hint="Set more than 0.")
        if self.demo_requests_a_day < 0:
            raise SettingsError(f"demo_requests_a_day is {self.demo_requests_a_day}.", param="demo_requests_a_day")
        if not 0 < self.canary_cosine <= 1:
            raise SettingsError(f"canary_cosine is {self.canary_cosine}.", param="canary_cosine", hint="Set 0 to 1.")

    @property
    def welcome(self) -> Picos:
        """Credit that a new account is given."""
        return parse_dollars(self.welcome_usd, place="welcome_usd")

    @property
    def demo_budget(self) -> Picos:
        """What visitors without a key may spend in a day."""
        return parse_dollars(self.demo_usd_a_day, place="demo_usd_a_day")
