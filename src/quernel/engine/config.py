"""Settings of the engine."""

from dataclasses import dataclass

from quernel.errors import SettingsError
from quernel.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much the engine computes at once and how much it lets wait."""

    max_batch_tokens: int | None = setting(
        None,
        "Tokens computed in one batch; a longer text runs alone. By default as many as take two seconds, by the speed "
        "measured at start, and fit into memory. All of a batch is answered when all of it is done.",
    )
    max_queue_tokens: int = setting(
        2_000_000,
        "Tokens that may wait; beyond it requests are refused with 429, so that the server stays responsive.",
    )

    max_interactive_tokens: int = setting(
        2_048,
        "Requests of at most so many tokens are served first, in the middle of larger ones. 0 serves all in turn.",
    )
    max_wait_seconds: float = setting(
        2.0,
        "How long a large request may wait for its turn behind small ones. Less favours bulk, more favours queries.",
    )
    prefix_cache_mib: int = setting(
        256,
        "Memory for keys and values of prefixes that come again: instructions, and a reranker's head and queries. "
        "0 turns it off; more helps where many instructions take turns.",
    )

    def __post_init__(self) -> None:
        for name in ("max_batch_tokens", "max_queue_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}.", param=name, hint="Set 1 or more.")
        for name in ("max_interactive_tokens", "max_wait_seconds", "prefix_cache_mib"):
            value = getattr(self, name)
            if not value >= 0:
                raise SettingsError(f"{name} is {value}.", param=name, hint="Set 0 or more.")
