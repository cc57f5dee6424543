"""When a request is sent again, and how long to wait before. No I/O."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

RETRIED = frozenset((408, 429, 500, 502, 503, 504))
"""Statuses after which the same request may succeed. All of ours are safe to repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Waits that double, drawn at random below that ("full jitter"), or as long as the server asks for.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; RFC 9110, section 10.2.3 (Retry-After).

    Attributes:
        max_attempts: Requests sent in all; 1 never repeats.
        first_seconds: The most that the first wait takes.
        max_seconds: The most that any wait takes; a server that asks for more is not waited for.
    """

    max_attempts: int = 5
    first_seconds: float = 0.5
    max_seconds: float = 60.0

    def wait(self, attempt: int, status: int | None, headers: Mapping[str, str], now: float) -> float | None:
        """Seconds to wait before the next attempt; None where there should be none.

        Args:
            attempt: Which one failed, from 1.
            status: What the server answered; None where the connection failed.
            headers: Of the answer.
            now: Seconds since 1970.
        """
        if attempt >= self.max_attempts or (status is not None and status not in RETRIED):
            return None
        asked = retry_after(headers, now)
        if asked is not None and asked > self.max_seconds:
            return None
        drawn = random.uniform(0, min(self.first_seconds * 2 ** (attempt - 1), self.max_seconds))
        # Everybody is asked for the same wait: those who come together should not come back together.
        return drawn if asked is None else asked + drawn


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or as a date; None where it says nothing that can be read."""
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - now)
    except ValueError:
        return None
