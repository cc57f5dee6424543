"""Names for what is stored: sorted by time, and not to be guessed.

Source: https://github.com/ulid/spec (48 bits of milliseconds, 80 random bits, in Crockford's base32).
"""

import os
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32 in lower case: no i, l, o, u."""

LETTER_BITS = 5
TIME_BITS, RANDOM_BITS = 48, 80
ULID_LETTERS = 26


PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
"""Two letters at once: every request gets a name."""


def base32(number: int, letters: int) -> str:
    """A number in so many letters, the highest first."""
    odd = letters % 2
    first = ALPHABET[number >> LETTER_BITS * (letters - 1) & 31] if odd else ""
    shifts = range(LETTER_BITS * (letters - odd - 2), -1, -2 * LETTER_BITS)
    return first + "".join([PAIRS[number >> shift & 1023] for shift in shifts])


def new_id(prefix: str) -> str:
    """A new name, such as `gen_01jd...`; later ones sort after it, from one millisecond to the next."""
    milliseconds = time.time_ns() // 1_000_000 & (1 << TIME_BITS) - 1
    random = int.from_bytes(os.urandom(RANDOM_BITS // 8))
    return f"{prefix}_{base32(milliseconds << RANDOM_BITS | random, ULID_LETTERS)}"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
