"""Settings of the engine."""

from dataclasses import dataclass

from quernel.errors import SettingsError
from quernel.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much the engine computes at once and how much it lets wait."""

    max_batch_tokens: int = setting(
        8_192,
        "Tokens computed in one batch; a longer text runs alone. More helps a large accelerator, less saves memory.",
    )
    max_queue_tokens: int = setting(
        2_000_000,
        "Tokens that may wait; beyond it requests are refused with 429, so that the server stays responsive.",
    )

    prefix_cache_mib: int = setting(
        256,
        "Memory for keys and values of prefixes that come again: instructions, and a reranker's head and queries. "
        "0 turns it off; more helps where many instructions take turns.",
    )

    def __post_init__(self) -> None:
        for name in ("max_batch_tokens", "max_queue_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise SettingsError(f"{name} is {value}.", param=name, hint="Set 1 or more.")
        if self.prefix_cache_mib < 0:
            raise SettingsError(
                f"prefix_cache_mib is {self.prefix_cache_mib}.", param="prefix_cache_mib", hint="Set 0 or more."
            )
