"""Options that several commands share: where texts come from, and what goes into a request."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from quernel.cli.options import F, option
from quernel.cli.readers import (
    FORMATS,
    STDIN,
    SUFFIXES,
    Chunk,
    Selection,
    read_chunks,
    require_texts,
    resolve_format,
    split_texts,
)
from quernel.cli.talk import announce_terminal_input
from quernel.errors import InputTooLongError, NonFiniteError

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


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a command.

    Attributes:
        name: Where they come from, for messages.
        chunks: The texts; at least one, and the first chunk is read.
    """

    name: str
    chunks: Iterator[Chunk]


def open_texts(arguments: Sequence[str], path: Path | None, *, format: str, selection: Selection, size: int) -> Texts:
    """The texts of the command line, else of a file, else of standard input.

    Raises:
        InvalidRequestError: There are none, or the first ones cannot be read.
        SettingsError: The file's name does not say its format.
    """
    if arguments:
        name, chunks = "arguments", split_texts(arguments, selection, size)
    else:
        path = STDIN if path is None else path
        name = "standard input" if path == STDIN else str(path)
        if path == STDIN:
            announce_terminal_input()
        chunks = read_chunks(path, resolve_format(format, path, SUFFIXES, flag="--format"), selection, size)
    return Texts(name, require_texts(chunks, name))


@contextmanager
def blaming(name: str, chunk: Chunk) -> Iterator[None]:
    """Let an error about a text say which texts of the input were being computed.

    Raises:
        InputTooLongError: Raised again, with the place.
        NonFiniteError: Raised again, with the place.
    """
    try:
        yield
    except (InputTooLongError, NonFiniteError) as error:
        place = f"{name}, texts {chunk.start + 1} to {chunk.start + len(chunk.texts)}"
        raise type(error)(f"{place}: {error.message}", param=error.param, hint=error.hint) from error
