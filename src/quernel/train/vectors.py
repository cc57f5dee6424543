"""A teacher that has spoken already: vectors of texts in a file, found by the texts' hashes.

For teachers that are slow, or need a library that training does not: what they say of a text is computed once.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quernel.errors import SettingsError
from quernel.types import InputType, Vectors

SUFFIX = ".npz"


def write_vectors(path: Path, texts: Sequence[str], vectors: Vectors) -> None:
    """Write a file for `KnownVectors`.

    Args:
        path: Where; ends in `.npz`.
        texts: N texts.
        vectors: Their unit vectors `[N, C]`; stored in float16.
    """
    hashes = np.array([_hash(text) for text in texts], dtype=np.uint64)
    order = np.argsort(hashes)
    partial = path.with_name(f"{path.stem}.partial{SUFFIX}")
    np.savez(partial, hashes=hashes[order], vectors=np.asarray(vectors, dtype=np.float16)[order])
    partial.replace(path)


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
                self._hashes: npt.NDArray[np.uint64] = held["hashes"]
                self._vectors: npt.NDArray[np.float16] = held["vectors"]
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(f"{path} holds no vectors: {error}.", param="teacher") from error

    def __len__(self) -> int:
        return len(self._hashes)

    def __call__(self, texts: Sequence[str], input_type: InputType, instruction: str | None) -> Vectors:
        """Vectors of texts, float32 `[N, C]`; the same for queries and documents."""
        del input_type, instruction
        hashes = np.array([_hash(text) for text in texts], dtype=np.uint64)
        places = np.searchsorted(self._hashes, hashes).clip(max=len(self._hashes) - 1)
        found: Vectors = self._vectors[places].astype(np.float32)
        found[self._hashes[places] != hashes] = np.nan
        return found


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
