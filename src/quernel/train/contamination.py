"""Training rows that share text with an evaluation set, found before they are trained on.

Two texts share text if they are equal, or have a window of 60 characters in common, after normalisation (NFKC, lower
case, runs of anything but letters and digits as one space). Windows are found by a rolling hash and then compared, so
that a collision costs time and nothing else: a shared window of 60 characters covers a whole block of 30 that stands at
a multiple of 30 in the evaluation text, and only those blocks are indexed.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quernel.train.sources import Row

WINDOW = 60
_BLOCK = WINDOW // 2
_BASE = np.uint64(1_000_003)
_FILTER_BITS = 24
_TEXT_FIELDS = ("text", "sentence1", "sentence2", "articles")
_IDS = ("_id", "key")
_PAGES = (".md", ".txt")

Hashes = npt.NDArray[np.uint64]


def normalise(text: str) -> str:
    """The form in which texts are compared."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"[\W_]+", " ", folded).strip()


def read_evaluation_texts(folder: Path) -> Iterator[str]:
    """Every text of the evaluation sets in a folder: documents, queries, sentences, articles, pages; no ids, no labels.

    Titles count where they are as long as a window: many short ones are ordinary words.

    Args:
        folder: JSON-lines files of any depth (BEIR layout, sentence pairs, lists of articles), and pages of Markdown or
            plain text other than READMEs.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    yield from _texts_of(json.loads(line))
        elif path.suffix in _PAGES and path.stem != "README" and path.is_file():
            yield path.read_text(encoding="utf-8")


def _texts_of(row: Mapping[str, object]) -> Iterator[str]:
    for key, value in row.items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text:
                continue
            # Tatoeba names a field by its language, three letters; so is no other field but the document's id.
            if key in _TEXT_FIELDS or (len(key) == 3 and key not in _IDS) or len(text) >= WINDOW:
                yield text


class ContaminationFilter:
    """Tells which rows share text with the evaluation texts.

    Args:
        evaluation: The texts, as they are.
    """

    def __init__(self, evaluation: Iterable[str]) -> None:
        self._texts = list(dict.fromkeys(normalise(text) for text in evaluation))
        self._whole = set(self._texts)
        places: dict[int, list[tuple[int, int]]] = {}
        for number, text in enumerate(self._texts):
            if len(text) < WINDOW:
                continue
            for place, value in zip(range(0, len(text), _BLOCK), _block_hashes(text)[::_BLOCK].tolist(), strict=False):
                places.setdefault(value, []).append((number, place))
        self._places = places
        # One bit a hash answers "surely not" for nearly every position of nearly every text.
        self._maybe = np.zeros(1 << _FILTER_BITS, dtype=bool)
        if places:
            self._maybe[_filter_index(np.fromiter(places, dtype=np.uint64, count=len(places)))] = True

    def __call__(self, row: Row) -> bool:
        """Whether the row may be trained on: no text of it shares text with the evaluation sets."""
        return not any(self.shares(text) for text in row.texts)

    def shares(self, text: str) -> bool:
        """Whether a text equals an evaluation text or has 60 characters in a row in common with one."""
        text = normalise(text)
        if text in self._whole:
            return True
        if len(text) < WINDOW:
            return False
        hashes = _block_hashes(text)
        candidates = np.flatnonzero(self._maybe[_filter_index(hashes)])
        return any(
            _common_length(text, place, self._texts[number], other) >= WINDOW
            for place in candidates.tolist()
            for number, other in self._places.get(int(hashes[place]), ())
        )


def _block_hashes(text: str) -> Hashes:
    """Polynomial hash modulo 2**64 of the block that begins at each position of the text."""
    with np.errstate(over="ignore"):
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        hashes = np.zeros(len(codes) - _BLOCK + 1, dtype=np.uint64)
        for offset in range(_BLOCK):
            hashes = hashes * _BASE + codes[offset : offset + len(hashes)]
    return hashes


def _filter_index(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)


def _common_length(left: str, left_place: int, right: str, right_place: int) -> int:
    """Length of the longest common run of two texts through the given places, 0 if they differ there."""
    first = 0
    while min(left_place, right_place) > first and left[left_place - first - 1] == right[right_place - first - 1]:
        first += 1
    last = 0
    room = min(len(left) - left_place, len(right) - right_place)
    while last < room and left[left_place + last] == right[right_place + last]:
        last += 1
    return first + last if last else 0
