"""What a larger model says of the training texts: vectors to start the token table from, and to pull towards.

The teacher is any mean-pooling encoder that transformers loads; the shipped pair used all-MiniLM-L6-v2 (Apache-2.0).
Its vectors are reduced to the student's width by their principal directions, which keeps cosines as well as any linear
map of that width can, and orders the coordinates by importance, as Matryoshka training wants them.

Shapes:
    N   texts                                 U   width of the teacher
    C   width of the student
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quernel.errors import SettingsError

Floats = npt.NDArray[np.float32]

TOKENS_AT_ONCE = 8_192


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


def encode_with_teacher(folder: Path, texts: Sequence[str], *, max_tokens: int) -> Floats:
    """Unit vectors of texts, float32 `[N, U]`.

    Args:
        folder: A checkpoint that `transformers.AutoModel` reads.
        texts: N texts.
        max_tokens: Of the teacher's, to which each is cut.

    Raises:
        SettingsError: transformers is not installed.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise SettingsError(
            "A teacher needs transformers.", param="teacher", hint="pip install transformers."
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= TOKENS_AT_ONCE:
            stop += 1
        part = order[start:stop]
        length = len(ids[part[-1]])
        rows = torch.zeros(len(part), length, dtype=torch.int64)
        mask = torch.zeros(len(part), length, dtype=torch.int64)
        for row, number in enumerate(part):
            rows[row, : len(ids[number])] = torch.tensor(ids[number])
            mask[row, : len(ids[number])] = 1
        with torch.inference_mode():
            hidden = model(input_ids=rows, attention_mask=mask).last_hidden_state.float()
        pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        vectors[part] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        start = stop
    return vectors


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
