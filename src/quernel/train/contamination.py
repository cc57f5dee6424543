"""Training rows that share text with an evaluation set, found before they are trained on.

Two texts share text if they are equal, or have a window of 60 characters in common, after normalisation (NFKC, lower
case, runs of anything but letters and digits as one space). Windows are found by a rolling hash and then compared, so
that a collision costs time and nothing else: a shared window of 60 characters covers a whole block of 30 that stands at
a multiple of 30 in the evaluation text, and only those blocks are indexed.

Shapes:
    P   characters of some texts, one after the other
    B   blocks of the evaluation texts
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

WINDOW = 60
_BLOCK = WINDOW // 2
_BASE = 1_000_003
_FILTER_BITS = 24
_CHARACTERS_AT_ONCE = 1 << 17
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
    """Tells which texts share text with the evaluation texts.

    Args:
        evaluation: The texts, as they are.
    """

    def __init__(self, evaluation: Iterable[str]) -> None:
        self._texts = list(dict.fromkeys(normalise(text) for text in evaluation))
        self._whole = set(self._texts)
        hashes, starts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
        done = 0
        for part in _parts(self._texts):
            lengths = np.array([len(text) for text in part])
            firsts = np.cumsum(lengths) - lengths
            counts = np.where(lengths >= WINDOW, lengths // _BLOCK, 0)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            places = np.repeat(firsts, counts) + _BLOCK * within
            hashes.append(_block_hashes("".join(part))[places])
            starts.append(done + places)
            done += int(lengths.sum())
        joined = np.concatenate(hashes)
        order = np.argsort(joined, kind="stable")
        # Of each block, by its hash: the hash, and where it stands in all texts one after the other.
        self._hashes, self._places = joined[order], np.concatenate(starts)[order]
        self._ends = np.cumsum([len(text) for text in self._texts])
        # One bit a hash answers "surely not" for nearly every position of nearly every text.
        self._maybe = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._maybe[_filter_index(self._hashes)] = True

    def shares(self, text: str) -> bool:
        """Whether a text equals an evaluation text or has 60 characters in a row in common with one."""
        return self.which_share([text])[0]

    def which_share(self, texts: Sequence[str]) -> list[bool]:
        """`shares` of each of many texts, in a fraction of the time."""
        found: list[bool] = []
        for part in _parts([normalise(text) for text in texts]):
            shared = [text in self._whole for text in part]
            ends = np.cumsum([len(text) for text in part])
            for place, block in self._candidates("".join(part)):
                number = int(np.searchsorted(ends, place, side="right"))
                other = int(np.searchsorted(self._ends, block, side="right"))
                own, held = part[number], self._texts[other]
                at, there = place - int(ends[number]) + len(own), block - int(self._ends[other]) + len(held)
                shared[number] = shared[number] or _common_length(own, at, held, there) >= WINDOW
            found += shared
        return found

    def which_rows_share(self, rows: Sequence[Sequence[str]]) -> list[bool]:
        """Of rows of texts, which hold one that shares text."""
        shared = iter(self.which_share([text for row in rows for text in row]))
        return [any(list(islice(shared, len(row)))) for row in rows]

    def _candidates(self, text: str) -> Iterator[tuple[int, int]]:
        """Places in a text, and in all evaluation texts, where blocks of one hash stand."""
        hashes = _block_hashes(text)
        maybe = np.flatnonzero(self._maybe[_filter_index(hashes)])
        first = np.searchsorted(self._hashes, hashes[maybe], side="left")
        last = np.searchsorted(self._hashes, hashes[maybe], side="right")
        for index in np.flatnonzero(last > first).tolist():
            for block in self._places[first[index] : last[index]].tolist():
                yield int(maybe[index]), block


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in order, as many at a time as are dealt with at once, at least one."""
    first = held = 0
    for number, text in enumerate(texts):
        if number > first and held + len(text) > _CHARACTERS_AT_ONCE:
            yield texts[first:number]
            first, held = number, 0
        held += len(text)
    if texts:
        yield texts[first:]


def _block_hashes(text: str) -> Hashes:
    """Polynomial hash modulo 2**64 of the block that begins at each position of the text, `[P - 29]`, or none.

    Of codes c and an odd base b it is the sum of c[i+k] b^k, which is that of c[j] b^j from i to i+29, times b^-i.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    count = max(0, len(codes) - _BLOCK + 1)
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * _powers(_BASE, len(codes)), out=sums[1:])
    hashes: Hashes = (sums[_BLOCK:] - sums[:count]) * _powers(pow(_BASE, -1, 2**64), count)
    return hashes


def _powers(base: int, count: int) -> Hashes:
    """The first powers of a number modulo 2**64, from its zeroth, `[count]`."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    powers: Hashes = np.cumprod(factors)
    return powers


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
