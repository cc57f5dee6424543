"""What is said to a person: progress and closing lines on stderr, tables on stdout."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import click

from quernel.cli.readers import Chunk


class Advance(Protocol):
    """Tells the progress bar that a chunk is done."""

    def __call__(self, chunk: Chunk) -> None:
        """Count the chunk's texts."""


@contextmanager
def progress(*, quiet: bool) -> Iterator[Advance]:
    """A bar on stderr while the block runs: only on a terminal, and only after a moment."""
    from tqdm import tqdm

    with tqdm(unit=" texts", file=sys.stderr, disable=quiet or not sys.stderr.isatty(), leave=False, delay=0.5) as bar:

        def advance(chunk: Chunk) -> None:
            done = chunk.start + len(chunk.texts)
            if chunk.share:
                # How many texts there are is known at the end; until then it is judged by the bytes read.
                bar.total = round(done / chunk.share)
            bar.update(done - bar.n)

        yield advance


def say(message: str, *, quiet: bool = False) -> None:
    """Print a line on stderr."""
    if not quiet:
        click.echo(message, err=True)


def announce_terminal_input() -> None:
    """Say that the command waits for typed lines, where standard input is a terminal."""
    if sys.stdin.isatty():
        say("Reading texts from the terminal, one a line; end with Ctrl-D.")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns under a header; those in `right` are numbers and aligned to the right.

    The last column is not padded, so that it may hold text of any width.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    widths[-1] = len(header[-1]) if len(header) - 1 in right else 0

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in right else text.ljust(widths[column])

    return "\n".join("  ".join(cell(text, column) for column, text in enumerate(line)).rstrip() for line in lines)


def sheet(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, one a line; what has no value is left out."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows if value)


def print_json(*shown: object) -> None:
    """Print each on a line of stdout, as replies over HTTP have it."""
    from quernel.protocols.body import encode_body

    for one in shown:
        click.echo(encode_body(one))


def one_line(text: str, width: int) -> str:
    """A text on one line of at most `width` characters. What a terminal could take for a command is left out."""
    flat = "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))
    return flat if len(flat) <= width else flat[: max(0, width - 1)] + "…"
