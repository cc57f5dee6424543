"""A teacher that has spoken already: vectors of texts in a file, found by the texts' hashes.

For teachers that are slow, or need a library that training does not: what they say of a text is computed once.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from quernel.errors import SettingsError
from quernel.types import InputType, Vectors

SUFFIX = ".npz"
AT_ONCE = 100_000

Hashes: TypeAlias = npt.NDArray[np.uint64]


def write_vectors(path: Path, texts: Sequence[str], vectors: Vectors) -> None:
    """Write a file for `KnownVectors`.

    Args:
        path: Where; ends in `.npz`.
        texts: N texts.
        vectors: Their unit vectors `[N, C]`; stored in float16.
    """
    KnownVectors.sort(hashes_of(texts), vectors).save(path)


class KnownVectors:
    """The vectors in a file, as a teacher; NaN of texts that it does not hold.

    Args:
        path: What `write_vectors` wrote.

    Raises:
        SettingsError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path) as held:
                self._hashes: Hashes = held["hashes"]
                self._vectors: npt.NDArray[np.float16] = held["vectors"]
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(f"{path} holds no vectors: {error}.", param="teacher") from error

    @classmethod
    def sort(cls, hashes: Hashes, vectors: npt.NDArray[np.floating]) -> "KnownVectors":
        """The vectors `[N, C]` of the texts that have these hashes `[N]`."""
        made, order = cls.__new__(cls), np.argsort(hashes)
        made._hashes, made._vectors = hashes[order], np.asarray(vectors, dtype=np.float16)[order]
        return made

    @classmethod
    def join(cls, parts: Sequence["KnownVectors"]) -> "KnownVectors":
        """All vectors of several."""
        return cls.sort(
            np.concatenate([part._hashes for part in parts]), np.concatenate([part._vectors for part in parts])
        )

    def save(self, path: Path) -> None:
        """Write them to a file, whole or not at all."""
        partial = path.with_name(f"{path.stem}.partial{SUFFIX}")
        np.savez(partial, hashes=self._hashes, vectors=self._vectors)
        partial.replace(path)

    def __len__(self) -> int:
        return len(self._hashes)

    def __call__(self, texts: Sequence[str], input_type: InputType, instruction: str | None) -> Vectors:
        """Vectors of texts, float32 `[N, C]`; the same for queries and documents."""
        del input_type, instruction
        hashes = hashes_of(texts)
        found = self.of(hashes)
        found[~self.holds(hashes)] = np.nan
        return found

    def holds(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of the texts with these hashes have a vector, `[N]`."""
        known: npt.NDArray[np.bool_] = self._hashes[self._places(hashes)] == hashes
        return known

    def of(self, hashes: Hashes) -> Vectors:
        """Vectors of the texts with these hashes, float32 `[N, C]`; any where there is none."""
        found: Vectors = self._vectors[self._places(hashes)].astype(np.float32)
        return found

    def mapped(self, change: Callable[[Vectors], Vectors]) -> "KnownVectors":
        """The same texts with other vectors: what `change` makes of all of them, a part at a time."""
        parts = [
            np.asarray(change(self._vectors[start : start + AT_ONCE].astype(np.float32)), dtype=np.float16)
            for start in range(0, len(self), AT_ONCE)
        ]
        return self.sort(self._hashes, np.concatenate(parts))

    def centred(self) -> "KnownVectors":
        """The same vectors without their mean, which tells texts apart by nothing; no longer of unit length."""
        mean = self._vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return self.mapped(lambda rows: rows - mean)

    def _places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        places: npt.NDArray[np.int64] = np.searchsorted(self._hashes, hashes).clip(max=len(self) - 1)
        return places


def hashes_of(texts: Sequence[str]) -> Hashes:
    """What texts are found by, uint64 `[N]`."""
    return np.array([_hash(text) for text in texts], dtype=np.uint64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
