"""Options that several commands share: where texts come from, and what goes into a request."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from quernel.cli.options import F, option
from quernel.cli.readers import FORMATS, Chunk
from quernel.errors import QuernelError

MODEL, INPUT, REQUEST, OUTPUT = "Model", "Input", "Request", "Output"

DEFAULT_CHUNK_SIZE = 1024

READABLE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)

TRUNCATIONS = ("error", "end", "start")
"""The values of `quernel.types.Truncate`, spelled here so that `--help` need not import it (and with it numpy)."""


def truncate_option(command: F) -> F:
    """Give a command `--truncate`."""
    return option(
        "--truncate",
        section=REQUEST,
        type=click.Choice(TRUNCATIONS),
        default="error",
        show_default=True,
        help="What happens to a text that is longer than the model reads: refuse it, or drop its end or start.",
    )(command)


def model_option(default: str) -> Callable[[F], F]:
    """Give a command `--model`, for one model."""
    return option(
        "-m",
        "--model",
        section=MODEL,
        help=f"Hub id (owner/name, owner/name@revision), folder or built-in name.  [default: {default}]",
    )


def reading_options(*names: str, texts: str) -> Callable[[F], F]:
    """The file of texts (a flag of these names), its format, and how many rows are in memory at once."""

    def decorate(command: F) -> F:
        for decorator in (
            option(
                "--batch-size",
                section=INPUT,
                type=click.IntRange(min=1),
                default=DEFAULT_CHUNK_SIZE,
                show_default=True,
                help="Texts in memory at once. The engine makes its own batches of them, by tokens.",
            ),
            option("--column", section=INPUT, default="text", show_default=True, help="Column or field of the text."),
            option(
                "--format",
                section=INPUT,
                type=click.Choice(["auto", *FORMATS]),
                default="auto",
                help="Format of the file; by default as its name says. text is one text a line.",
            ),
            option(*names, section=INPUT, type=READABLE, help=f"Read {texts} from this file; - is standard input."),
        ):
            command = decorator(command)
        return command

    return decorate


def blame(error: QuernelError, name: str, chunk: Chunk) -> NoReturn:
    """Raise the error again, saying among which texts of the input it happened.

    Raises:
        QuernelError: Of the same class.
    """
    place = f"{name}, texts {chunk.start + 1} to {chunk.start + len(chunk.texts)}"
    raise type(error)(f"{place}: {error.message}", param=error.param, hint=error.hint) from error
