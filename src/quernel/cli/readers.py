"""Texts from arguments, standard input and files, a chunk at a time: memory does not grow with the input."""

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from quernel.errors import EmptyInputError, InvalidRequestError, SettingsError

STDIN = Path("-")
"""How standard input is spelled where a path is expected."""

SUFFIXES: Mapping[str, str] = {
    "": "text",
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
"""Ending of a file's name to its format, for `--format auto`."""

MAX_FIELD_BYTES = 1 << 27
"""Longest CSV field. The csv module's own limit, 128 KiB, is less than a long document; without any, one forgotten
quote would read the rest of a file into memory."""

Record = tuple[str, Mapping[str, Any]]
"""A text, and the columns it came with."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some texts in a row.

    Attributes:
        start: Position of the first in the whole input.
        texts: One or more.
        columns: The kept columns, each as long as `texts`. Those of a Parquet file are Arrow arrays.
        share: How much of the input is read once these are, from 0 to 1; `None` where nobody can know.
    """

    start: int
    texts: list[str]
    columns: Mapping[str, Sequence[Any]]
    share: float | None = None

    def kept_rows(self) -> list[dict[str, Any]]:
        """The kept columns, row by row, as plain values."""
        columns = {
            name: values if isinstance(values, list) else values.to_pylist()  # type: ignore[attr-defined]
            for name, values in self.columns.items()
        }
        return [{name: values[row] for name, values in columns.items()} for row in range(len(self.texts))]


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take of each row.

    Attributes:
        column: The one that holds the text.
        keep: Those to carry along; `None` for all (Parquet only).
    """

    column: str = "text"
    keep: tuple[str, ...] | None = ()

    def of(self, row: Mapping[str, Any], place: str) -> Record:
        """The text and kept columns of one row.

        Raises:
            InvalidRequestError: A column is missing, or the text is not a text.
        """
        for name in (self.column, *(self.keep or ())):
            if name not in row:
                raise missing_column(name, row, place)
        return check_text(row[self.column], self.column, place), {name: row[name] for name in self.keep or ()}


def check_text(value: Any, column: str, place: str) -> str:
    """The value, which is a text.

    Raises:
        InvalidRequestError: It is not.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(f"{place}: column {column!r} is {_shown(value)}, which is not a text.", param=column)
    return value


def missing_column(name: str, columns: Iterable[str], place: str) -> InvalidRequestError:
    """The error for a column that is not there, naming those that are."""
    names = ", ".join(columns)
    return InvalidRequestError(
        f"{place}: there is no column {name!r}.", param=name, hint=f"Columns here: {names}." if names else None
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Source:
    """A stream of UTF-8 lines that knows how far it has been read.

    Args:
        stream: The bytes.
        name: The file, for messages.
        size: Its length in bytes, where it is known.
    """

    def __init__(self, stream: BinaryIO, name: str, size: int | None = None) -> None:
        self.name = name
        self.line_number = 0
        self._stream = stream
        self._size = size
        self._position = 0

    @property
    def place(self) -> str:
        """The current line, for messages."""
        return f"{self.name}, line {self.line_number}"

    @property
    def share(self) -> float | None:
        """How much has been read, from 0 to 1."""
        return self._position / self._size if self._size else None

    def lines(self) -> Iterator[str]:
        """The lines with their ends. Only a line feed ends one: the other separators of Unicode may stand in a text.

        Raises:
            InvalidRequestError: A line is not UTF-8.
        """
        for number, line in enumerate(self._stream, start=1):
            self.line_number = number
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                offset = self._position + error.start
                raise InvalidRequestError(
                    f"{self.place}: byte 0x{line[error.start]:02x} at offset {offset} is not UTF-8.",
                    hint="Convert the file to UTF-8 first, for example with iconv.",
                ) from error
            self._position += len(line)
            # Some programs begin UTF-8 files with a byte order mark, which is not part of the text.
            yield text.removeprefix("\ufeff") if number == 1 else text


def read_text(source: Source, selection: Selection) -> Iterator[Record]:
    """Each line is a text, an empty one too."""
    for line in source.lines():
        yield selection.of({selection.column: line.removesuffix("\n").removesuffix("\r")}, source.place)


def read_json_objects(source: Source) -> Iterator[Any]:
    """The value of each line that is not blank.

    Raises:
        InvalidRequestError: A line is not JSON.
    """
    import orjson

    for line in source.lines():
        if not line.isspace():
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InvalidRequestError(
                    f"{source.place}: not JSON: {error}.", hint="Each line must be one JSON value."
                ) from error


def read_jsonl(source: Source, selection: Selection) -> Iterator[Record]:
    """Each line is an object that holds the text in a field, or is the text itself as a JSON string."""
    for value in read_json_objects(source):
        row = {selection.column: value} if isinstance(value, str) else value
        if not isinstance(row, dict):
            raise InvalidRequestError(f"{source.place}: {_shown(value)} is neither an object nor a text.")
        yield selection.of(row, source.place)


def read_csv(source: Source, selection: Selection) -> Iterator[Record]:
    """Rows under a header line; a quoted field may hold line ends."""
    csv.field_size_limit(MAX_FIELD_BYTES)
    rows = csv.reader(source.lines(), strict=True)
    try:
        header = next(rows, [])
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise InvalidRequestError(
                    f"{source.place}: the row has {len(row)} fields, the header {len(header)}.",
                    hint="Quote fields that hold commas.",
                )
            yield selection.of(dict(zip(header, row, strict=True)), source.place)
    except csv.Error as error:
        raise InvalidRequestError(f"{source.place}: not CSV: {error}.") from error


RECORDS: Mapping[str, Callable[[Source, Selection], Iterator[Record]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "csv": read_csv,
}
"""Format to the reader of its rows, for formats that are read line by line. Parquet is read by column."""

FORMATS = (*RECORDS, "parquet")


def standard_input() -> BinaryIO:
    """The bytes of standard input."""
    return sys.stdin.buffer


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """A file, or standard input where the path is `-`."""
    if path == STDIN:
        yield Source(standard_input(), "standard input")
        return
    with path.open("rb") as stream:
        yield Source(stream, str(path), path.stat().st_size if path.is_file() else None)


def resolve_format(format: str, path: Path, suffixes: Mapping[str, str], *, flag: str) -> str:
    """The format itself, or for `auto` the one that the file's name says.

    Raises:
        SettingsError: The name says nothing.
    """
    if format != "auto":
        return format
    suffix = "" if path == STDIN else path.suffix.lower()
    if suffix not in suffixes:
        raise SettingsError(
            f"The name {path.name} does not say its format.",
            param=flag,
            hint=f"Add {flag} {'|'.join(sorted(set(suffixes.values())))}.",
        )
    return suffixes[suffix]


def read_chunks(path: Path, format: str, selection: Selection, size: int) -> Iterator[Chunk]:
    """The texts of a file or of standard input, `size` at a time.

    Raises:
        InvalidRequestError: A row cannot be read; the message names the file, the line or row, and the column.
        SettingsError: Parquet is asked for where it cannot be had.
    """
    if format == "parquet":
        yield from _read_parquet(path, selection, size)
        return
    with open_source(path) as source:
        yield from _chunks(RECORDS[format](source, selection), selection, size, lambda read: source.share)


def split_texts(texts: Sequence[str], selection: Selection, size: int) -> Iterator[Chunk]:
    """Texts that are in memory already, `size` at a time."""
    records = (selection.of({selection.column: text}, "arguments") for text in texts)
    yield from _chunks(records, selection, size, lambda read: read / len(texts))


def _chunks(
    records: Iterator[Record], selection: Selection, size: int, share: Callable[[int], float | None]
) -> Iterator[Chunk]:
    start = 0
    while batch := list(islice(records, size)):
        columns = {name: [kept[name] for _, kept in batch] for name in selection.keep or ()}
        yield Chunk(start, [text for text, _ in batch], columns, share(start + len(batch)))
        start += len(batch)


def require_texts(chunks: Iterator[Chunk], name: str) -> Iterator[Chunk]:
    """The same chunks, the first of them read now: what is wrong with an input shows before a model is loaded for it.

    Raises:
        EmptyInputError: There is none.
    """
    first = next(chunks, None)
    if first is None:
        raise EmptyInputError(f"{name} holds no texts.", param="input", hint="An empty line is a text; nothing is not.")
    return chain([first], chunks)


def require_pyarrow() -> ModuleType:
    """The pyarrow module.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise SettingsError(
            "Parquet needs the package pyarrow, which is not installed.", hint="pip install 'quernel[parquet]'"
        ) from error
    module: ModuleType = pyarrow
    return module


def _read_parquet(path: Path, selection: Selection, size: int) -> Iterator[Chunk]:
    pa = require_pyarrow()
    import pyarrow.parquet as pq

    if path == STDIN:
        raise SettingsError("Parquet cannot be read from standard input.", hint="Name the file: --input FILE.")
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InvalidRequestError(f"{path} is not a Parquet file: {error}") from error
    with file:
        schema = file.schema_arrow
        for name in (selection.column, *(selection.keep or ())):
            if name not in schema.names:
                raise missing_column(name, schema.names, str(path))
        kept = schema.names if selection.keep is None else selection.keep
        start = 0
        for batch in file.iter_batches(size, columns=[*dict.fromkeys((selection.column, *kept))]):
            values = batch.column(selection.column).to_pylist()
            texts = [
                check_text(value, selection.column, f"{path}, row {row}")
                for row, value in enumerate(values, start=start + 1)
            ]
            columns = {name: batch.column(name) for name in kept}
            yield Chunk(start, texts, columns, (start + len(texts)) / file.metadata.num_rows)
            start += len(texts)
