"""What a larger model says of the training texts: vectors to start the token table from, and to pull towards.

The teacher is any mean-pooling encoder that transformers loads; the shipped pair used all-MiniLM-L6-v2 (Apache-2.0).
Its vectors are reduced to the student's width by their principal directions, which keeps cosines as well as any linear
map of that width can, and orders the coordinates by importance, as Matryoshka training wants them.

Shapes:
    N   texts                                 U   width of the teacher
    C   width of the student
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Targets:
    """Teacher vectors of some texts of a corpus.

    Attributes:
        texts: Numbers of the texts, int32 `[N]`.
        vectors: Unit length, float32 `[N, C]`.
    """

    texts: npt.NDArray[np.int32]
    vectors: Floats

    def rows(self, num_texts: int) -> npt.NDArray[np.int64]:
        """For each text of the corpus the row of its vector, or `N` (one past the last) where it has none."""
        rows = np.full(num_texts, len(self.texts), dtype=np.int64)
        rows[self.texts] = np.arange(len(self.texts))
        return rows


def encode_with_teacher(
    folder: Path,
    texts: Sequence[str],
    *,
    max_tokens: int = 128,
    batch_size: int = 64,
    max_seconds: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Floats:
    """Unit vectors of as many of the first texts as the time allows, float32 `[N, U]`.

    Args:
        folder: A checkpoint that `transformers.AutoModel` reads.
        texts: In the order of their importance.
        max_tokens: Texts are cut to so many of the teacher's tokens.
        batch_size: Texts of similar length that are read at once.
        max_seconds: Stop after so long; `None` reads all.
        report: Called with a line of progress now and then.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    started, chunks = time.monotonic(), []
    size = 64 * batch_size
    for first in range(0, len(texts), size):
        chunk = list(texts[first : first + size])
        order = sorted(range(len(chunk)), key=lambda index: len(chunk[index]))
        vectors = np.empty((len(chunk), model.config.hidden_size), dtype=np.float32)
        for begin in range(0, len(chunk), batch_size):
            part = order[begin : begin + batch_size]
            inputs = tokenizer(
                [chunk[index] for index in part],
                padding=True,
                truncation=True,
                max_length=max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[part] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        chunks.append(vectors)
        seconds = time.monotonic() - started
        report(f"teacher: {first + len(chunk)} of {len(texts)} texts in {seconds:.0f} s")
        if max_seconds is not None and seconds > max_seconds:
            break
    return np.concatenate(chunks)


def fit_projection(vectors: Floats, width: int, *, flatten: float = 0.0) -> Floats:
    """The map `[U, width]` onto the directions that carry most of the vectors' second moments, most first.

    The mean is kept: cosines are measured from the origin.

    Args:
        vectors: float32 `[N, U]`.
        width: Directions to keep.
        flatten: 0 keeps the proportions of the coordinates; 1 makes all equally large (whitening), which tells words
            apart better than it tells how near they are.
    """
    moments = vectors.T.astype(np.float64) @ vectors
    sizes, directions = np.linalg.eigh(moments)
    kept, sizes = directions[:, ::-1][:, :width], np.sqrt(np.maximum(sizes[::-1][:width], 0))
    scale = (sizes[0] / np.maximum(sizes, 1e-6 * sizes[0])) ** flatten
    projection: Floats = (kept * scale).astype(np.float32)
    return projection


def project(vectors: Floats, projection: Floats) -> Floats:
    """Vectors in the student's space, unit length, `[N, C]`."""
    reduced = vectors @ projection
    lengths: Floats = np.linalg.norm(reduced, axis=1, keepdims=True)
    unit: Floats = (reduced / np.maximum(lengths, 1e-9)).astype(np.float32)
    return unit


def token_weights(counts: npt.NDArray[np.int64], *, smoothing: float) -> Tensor:
    """Weight of each token in a bag, `a / (a + p)` for a token of probability p: frequent tokens say little.

    Source: "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (Arora et al., ICLR 2017), section 3.
    """
    probability = counts / max(int(counts.sum()), 1)
    return torch.from_numpy(smoothing / (smoothing + probability)).float()
