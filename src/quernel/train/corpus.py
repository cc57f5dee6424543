"""The training data as arrays: every distinct text once as token ids, and rows that name texts by number.

Reading and tokenizing are slow beside a training step of a small model, so both happen once. Token ids fit 16 bits.

Shapes:
    X   distinct texts                        T   tokens of all texts together
    R   rows, in the order of their sources   S   judged similarity pairs
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from quernel.errors import SettingsError
from quernel.train.sources import Row
from quernel.train.vectors import Hashes, hashes_of

Int32s = npt.NDArray[np.int32]

_CHUNK = 20_000


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokenized rows. Text numbers index `starts`; a text's tokens are `tokens[starts[i]:starts[i + 1]]`.

    Attributes:
        tokens: uint16 `[T]`.
        starts: int64 `[X + 1]`.
        hashes: What the texts are found by, as `vectors.hashes_of` has it, uint64 `[X]`.
        queries: Text of the asking side, `[R]`.
        positives: Text that answers, `[R]`.
        groups: Rows of one group are never negatives of each other, `[R]`: one answer text, or one label.
        tasks: Number of the instruction in `task_names`, `[R]`.
        similar: Texts of the judged pairs, `[S, 2]`.
        scores: Their similarity from 0 to 1, float32 `[S]`.
        task_names: Instructions.
        spans: For each source, its rows: first and the one after the last.
        bitexts: Sources whose rows are translations.
    """

    tokens: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    hashes: Hashes
    queries: Int32s
    positives: Int32s
    groups: Int32s
    tasks: Int32s
    similar: Int32s
    scores: npt.NDArray[np.float32]
    task_names: tuple[str, ...]
    spans: Mapping[str, tuple[int, int]]
    bitexts: tuple[str, ...]

    @property
    def num_texts(self) -> int:
        """Distinct texts."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text, `[X]`."""
        return np.diff(self.starts)

    def gather(self, texts: Int32s, max_tokens: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens of some texts, packed, each cut at its end, and where each begins (one more at the end)."""
        starts = self.starts[texts]
        return gather_spans(self.tokens, starts, np.minimum(self.starts[texts + 1] - starts, max_tokens))

    def save(self, folder: Path) -> None:
        """Writes one `.npy` file an array, and `corpus.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        plain: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                np.save(folder / f"{field.name}.npy", value)
            else:
                plain[field.name] = value
        (folder / "corpus.json").write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Corpus":
        """What `save` wrote, the tokens mapped from the file."""
        plain = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        arrays = {
            field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r" if field.name == "tokens" else None)
            for field in fields(cls)
            if field.name not in plain
        }
        return cls(
            task_names=tuple(plain["task_names"]),
            spans={name: (first, stop) for name, (first, stop) in plain["spans"].items()},
            bitexts=tuple(plain["bitexts"]),
            **arrays,
        )


def gather_spans(
    tokens: npt.NDArray[np.uint16], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The spans of `tokens` one after the other, and where each begins in the result (one more at the end)."""
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    index = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)
    return tokens[index].astype(np.int64), bounds


def build_corpus(
    sources: Iterable[tuple[str, Iterable[Row]]],
    tokenizer: Tokenizer,
    *,
    max_characters: int,
    report: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """Tokenizes all sources.

    Args:
        sources: The name of each, and its rows.
        tokenizer: Its ids must fit 16 bits; no end token is stored.
        max_characters: Texts are cut to so many characters; training cuts them anyway.
        report: Called with a line of progress after each source.

    Raises:
        SettingsError: The vocabulary does not fit 16 bits.
    """
    if tokenizer.get_vocab_size() > 2**16:
        raise SettingsError(f"{tokenizer.get_vocab_size()} token ids do not fit 16 bits.", param="vocab_size")
    numbers: dict[str, int] = {}
    pending: list[str] = []
    pieces: list[npt.NDArray[np.uint16]] = []
    lengths: list[int] = []
    table: list[tuple[int, int, int, int]] = []
    similar: list[tuple[int, int]] = []
    scores: list[float] = []
    tasks: dict[str, int] = {}
    labels: dict[str, int] = {}
    spans: dict[str, tuple[int, int]] = {}
    bitexts: list[str] = []

    def number(text: str) -> int:
        text = text[:max_characters]
        if text not in numbers:
            numbers[text] = len(numbers)
            pending.append(text)
        return numbers[text]

    def flush() -> None:
        for chunk in _chunks(pending):
            for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
                pieces.append(np.asarray(encoding.ids, dtype=np.uint16))
                lengths.append(len(pieces[-1]))
        pending.clear()

    for name, rows in sources:
        first, is_bitext = len(table), False
        for row in rows:
            texts = [number(text) for text in row.texts]
            if row.score is not None:
                similar.append((texts[0], texts[1]))
                scores.append(row.score)
            elif row.positive is not None:
                # Labels count down from the largest number, so that they never meet the number of a text.
                group = texts[1]
                if row.label is not None:
                    group = np.iinfo(np.int32).max - labels.setdefault(row.label, len(labels))
                table.append((texts[0], texts[1], group, tasks.setdefault(row.task, len(tasks))))
                is_bitext = row.is_bitext
        if len(table) > first:
            spans[name] = (first, len(table))
            if is_bitext:
                bitexts.append(name)
        flush()
        report(f"{name}: {len(table) - first} rows, {len(numbers)} texts so far")

    columns = np.asarray(table, dtype=np.int32).reshape(-1, 4).T
    return Corpus(
        tokens=np.concatenate(pieces) if pieces else np.empty(0, np.uint16),
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        hashes=hashes_of(list(numbers)),
        queries=columns[0].copy(),
        positives=columns[1].copy(),
        groups=columns[2].copy(),
        tasks=columns[3].copy(),
        similar=np.asarray(similar, dtype=np.int32).reshape(-1, 2),
        scores=np.asarray(scores, dtype=np.float32),
        task_names=tuple(tasks),
        spans=spans,
        bitexts=tuple(bitexts),
    )


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for first in range(0, len(texts), _CHUNK):
        yield list(texts[first : first + _CHUNK])
