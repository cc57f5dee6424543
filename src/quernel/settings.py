"""How a part declares its settings: one frozen dataclass, whose fields are flag, variable, file key and documentation.

`max_batch_tokens: int = setting(16_384, "Tokens ...")` becomes the flag `--max-batch-tokens`, the environment variable
`QUERNEL_MAX_BATCH_TOKENS`, the TOML key `max_batch_tokens` and a line of the reference. Reading flags, variables and
files is the command line's business (`quernel.cli`); nothing here touches the environment.
"""

from collections.abc import Iterable
from dataclasses import Field, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from quernel.errors import SettingsError

T = TypeVar("T")

ENVIRONMENT_PREFIX = "QUERNEL_"


def setting(default: T, help: str) -> T:
    """A dataclass field with its documentation line.

    Args:
        default: The value where nothing is said.
        help: What it does, who would change it and why; one or two sentences.
    """
    declared: T = field(default=default, metadata={"help": help})
    return declared


def declared_settings(part: type) -> tuple[Field[Any], ...]:
    """The fields of a settings dataclass that were declared with `setting`, in order."""
    return tuple(declared for declared in fields(part) if "help" in declared.metadata)


def check_keys(found: Iterable[str], known: Iterable[str], *, place: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
        SettingsError: With the key, its place, and the known key that is nearest to it.
    """
    known = list(known)
    for key in found:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}."
            raise SettingsError(f"{place}: unknown key {key!r}.", param=key, hint=hint)
