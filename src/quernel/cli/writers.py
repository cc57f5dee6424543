"""Vectors to JSONL, npy and Parquet, a chunk at a time, and files that appear only when they are whole."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from quernel.cli.readers import STDIN, Chunk, require_pyarrow
from quernel.errors import InvalidRequestError, SettingsError

if TYPE_CHECKING:
    from quernel.types import Vectors

STDOUT = STDIN
"""Standard output is spelled as standard input is: `-`."""

SUFFIXES: Mapping[str, str] = {"": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".parquet": "parquet"}
"""Ending of a file's name to its format, for `--output-format auto`."""

INDEX, EMBEDDING = "index", "embedding"
"""The columns that we write."""


class Writer(Protocol):
    """Where vectors go."""

    def write(self, chunk: Chunk, vectors: "Vectors") -> None:
        """Write the vectors of a chunk, float32 `[N, D]`; D is the same every time."""
        ...

    def finish(self) -> None:
        """Write what can only be known at the end, and let go of the file; called after a failure too."""
        ...


class JsonlWriter:
    """One object a line: `index`, the kept columns, `embedding`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, chunk: Chunk, vectors: "Vectors") -> None:
        """See `Writer`."""
        import orjson

        check_names(chunk.columns, (INDEX, EMBEDDING))
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        for index, (kept, vector) in enumerate(zip(chunk.kept_rows(), vectors, strict=True), start=chunk.start):
            line = {INDEX: index, **kept, EMBEDDING: vector}
            self._stream.write(orjson.dumps(line, default=str, option=options))

    def finish(self) -> None:
        """Nothing is left to write."""
        self._stream.flush()


class NpyWriter:
    """A NumPy file of float32 `[N, D]`. N stands in its header, which is written again when N is known."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._shape = (0, 0)

    def write(self, chunk: Chunk, vectors: "Vectors") -> None:
        """See `Writer`."""
        import numpy as np

        if self._shape == (0, 0):
            self._write_header((0, vectors.shape[1]))
        self._stream.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self._shape = (self._shape[0] + len(vectors), vectors.shape[1])

    def finish(self) -> None:
        """Write the header again, with the number of rows. NumPy pads headers, so that both are equally long."""
        self._stream.seek(0)
        self._write_header(self._shape)

    def _write_header(self, shape: tuple[int, int]) -> None:
        from numpy.lib.format import write_array_header_1_0

        write_array_header_1_0(self._stream, {"descr": "<f4", "fortran_order": False, "shape": shape})


class ParquetWriter:
    """A Parquet file: the kept columns (or else `index`), and `embedding` as lists of one length."""

    def __init__(self, stream: BinaryIO) -> None:
        require_pyarrow()
        self._stream = stream
        self._file: Any = None

    def write(self, chunk: Chunk, vectors: "Vectors") -> None:
        """See `Writer`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        check_names(chunk.columns, (EMBEDDING,))
        columns = dict(chunk.columns) or {INDEX: range(chunk.start, chunk.start + len(vectors))}
        types = {} if self._file is None else {field.name: field.type for field in self._file.schema}
        arrays = {name: _array(name, values, types.get(name), chunk) for name, values in columns.items()}
        arrays[EMBEDDING] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        table = pa.table(arrays)
        if self._file is None:
            self._file = pq.ParquetWriter(self._stream, table.schema)
        self._file.write_table(table)

    def finish(self) -> None:
        """Write the footer."""
        if self._file is not None:
            self._file.close()


def _array(name: str, values: Any, kind: Any, chunk: Chunk) -> Any:
    import pyarrow as pa

    try:
        return values if isinstance(values, pa.Array) else pa.array(values, type=kind)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidRequestError(
            f"Column {name!r} holds values of more than one type among texts {chunk.start + 1} to "
            f"{chunk.start + len(chunk.texts)}: {error}",
            param=name,
            hint="Parquet columns have one type; write JSONL instead.",
        ) from error


def check_names(columns: Iterable[str], taken: Iterable[str]) -> None:
    """Refuse kept columns that are named as ours.

    Raises:
        SettingsError: With the name.
    """
    for name in set(columns) & set(taken):
        raise SettingsError(
            f"The input has a column {name!r}, which the output needs for itself.",
            param=name,
            hint="Choose other columns with --keep, or rename it.",
        )


WRITERS: Mapping[str, Callable[[BinaryIO], Writer]] = {"jsonl": JsonlWriter, "npy": NpyWriter, "parquet": ParquetWriter}


def is_terminal(path: Path) -> bool:
    """Whether the output is read by a person, line by line: a progress bar would stand in its middle."""
    return path == STDOUT and sys.stdout.isatty()


@contextmanager
def open_writer(path: Path, format: str) -> Iterator[Writer]:
    """A writer to a file, or to standard output where the path is `-`.

    Raises:
        SettingsError: The format or the place does not allow it.
    """
    if path != STDOUT:
        with whole_file(path) as stream, _finishing(WRITERS[format](stream)) as writer:
            yield writer
        return
    if format != "jsonl":
        raise SettingsError(f"{format} is written to a file only.", param="output", hint="Add --output FILE.")
    with _finishing(JsonlWriter(sys.stdout.buffer)) as writer:
        yield writer


@contextmanager
def _finishing(writer: Writer) -> Iterator[Writer]:
    try:
        yield writer
    finally:
        writer.finish()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that stands under its name only once all of it is written: until then under a hidden one beside it.

    Raises:
        SettingsError: Its folder does not exist.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise SettingsError(f"There is no folder {path.parent}.", param="output", hint="Create it first.")
    if path.exists() and not path.is_file():  # A pipe or device: nothing could be renamed onto it.
        with path.open("wb") as stream:
            yield stream
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
