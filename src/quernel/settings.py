"""How a part declares its settings: one frozen dataclass, whose fields are flag, variable, file key and documentation.

`max_batch_tokens: int = setting(16_384, "Tokens ...")` becomes the flag `--max-batch-tokens`, the environment variable
`QUERNEL_MAX_BATCH_TOKENS`, the TOML key `max_batch_tokens` and a line of the reference. Reading flags, variables and
files is the command line's business (`quernel.cli`); nothing here touches the environment.
"""

from dataclasses import Field, field, fields
from typing import Any, TypeVar

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
