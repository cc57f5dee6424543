"""From hidden states to answers: vectors, and the relevance of a document.

A reranker's head is one row, `yes` minus `no`: the other rows of the vocabulary are neither read nor computed.

Shapes:
    N   texts                                 C   hidden size
    D   dimensions that are returned          V   vocabulary size
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from quernel.errors import CheckpointError
from quernel.model.config import Qwen3Config
from quernel.model.gguf import LABELS_KEY, load_raw_config
from quernel.model.weights import STORED_DTYPES, Checkpoint
from quernel.types import Vectors

SMALLEST_NORM = 1e-12
"""Shorter vectors are divided by this instead, so that zero stays zero. As `torch.nn.functional.normalize`."""


def load_score_row(source: Path, config: Qwen3Config, yes_id: int, no_id: int) -> Tensor:
    """The row whose product with a hidden state is logit("yes") - logit("no"): float32 `[C]`, on the CPU.

    The difference is taken in float32; in bfloat16 it would lose steps of 1/16. It comes from the `score.weight` of a
    `Qwen3ForSequenceClassification` conversion, else from `lm_head.weight`, else from the embedding table if the
    configuration ties it to the head. In a GGUF file these are `cls.output.weight` and `output.weight`.

    Args:
        source: A folder that holds `config.json` and the weight files, or a GGUF file.
        config: Its configuration.
        yes_id: Token id of the answer that means relevant.
        no_id: Token id of the other answer.

    Raises:
        CheckpointError: There is no head, it is misshapen, it lacks the ids, or the order of its labels is unknown.
    """
    checkpoint = Checkpoint.open(source)
    raw_config = load_raw_config(source)
    if "score.weight" in checkpoint.tensors:
        return _classifier_row(checkpoint, config, raw_config)
    if "Qwen3ForSequenceClassification" in (raw_config.get("architectures") or ()):
        raise CheckpointError(
            "config.json says Qwen3ForSequenceClassification, but the weights hold no score.weight.", param=str(source)
        )
    name = "lm_head.weight" if "lm_head.weight" in checkpoint.tensors else "embed_tokens.weight"
    if name == "embed_tokens.weight" and not config.tie_word_embeddings:
        if source.is_file():
            raise CheckpointError(
                f"{source.name} holds no cls.output.weight and no output.weight, and does not say that it is a "
                "reranker of the sizes whose head is the embedding table.",
                param=str(source),
                hint="Embedding models cannot rerank. If it is a reranker, convert it again with a current llama.cpp, "
                "from a folder with its README.md.",
            )
        raise CheckpointError(
            "The weights hold no lm_head.weight, and config.json does not tie the head to the embedding table.",
            param=str(source),
            hint="This looks like an embedding model (Qwen3-Embedding-8B is stored so); it cannot rerank.",
        )
    _check_head(checkpoint, name, ((config.vocab_size, config.hidden_size),))
    if not (0 <= yes_id < config.vocab_size and 0 <= no_id < config.vocab_size and yes_id != no_id):
        raise CheckpointError(
            f"The answers have token ids {yes_id} and {no_id}, but {name} has rows 0 to {config.vocab_size - 1}.",
            param=str(source),
            hint="Do the tokenizer and the side files belong to this model?",
        )
    rows = checkpoint.read_rows(name, (yes_id, no_id)).float()
    return rows[0] - rows[1]


def truncate_and_normalise(hidden: npt.NDArray[np.float32], dimensions: int, normalize: bool) -> Vectors:
    """The first `dimensions` of each row, scaled to length 1 after the cut if `normalize`.

    Args:
        hidden: Hidden states of the last tokens, `[N, C]`.
        dimensions: At most C.
        normalize: Whether to scale. A row of zeros stays zero.

    Returns:
        float32 `[N, D]`, contiguous.
    """
    vectors = hidden[:, :dimensions].astype(np.float32)
    if normalize:
        # In float64, where the squares of large float32 values do not overflow.
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors /= np.maximum(lengths, SMALLEST_NORM)
    return np.ascontiguousarray(vectors)


def relevance(hidden: npt.NDArray[np.float32], row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """logit("yes") - logit("no") of each text, float32 `[N]`.

    Args:
        hidden: Hidden states of the last tokens, `[N, C]`.
        row: `load_score_row`, `[C]`.
    """
    logits: npt.NDArray[np.float32] = (hidden.astype(np.float64) @ row.astype(np.float64)).astype(np.float32)
    return logits


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores between 0 and 1, without overflow for logits of any size: float32, same shape."""
    small = np.exp(-np.abs(logits, dtype=np.float64))
    scores: npt.NDArray[np.float32] = (np.where(logits >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)
    return scores


def _classifier_row(checkpoint: Checkpoint, config: Qwen3Config, raw_config: Mapping[str, Any]) -> Tensor:
    """The score row of a `Qwen3ForSequenceClassification` checkpoint: its one row, or the difference of its two."""
    _check_head(checkpoint, "score.weight", ((1, config.hidden_size), (2, config.hidden_size)))
    num_rows = checkpoint.tensors["score.weight"].shape[0]
    rows = checkpoint.read_rows("score.weight", range(num_rows)).float()
    if num_rows == 1:
        return rows[0]
    # Conversions exist in both orders, some of them by mistake; guessing would turn every ranking upside down.
    labels = [str(label).lower() for _, label in sorted((raw_config.get("id2label") or {}).items())]
    if sorted(labels) != ["no", "yes"]:
        is_gguf = checkpoint.source.is_file()
        key, place = (LABELS_KEY, "the metadata") if is_gguf else ("id2label", "config.json")
        raise CheckpointError(
            f"score.weight has two rows, but {key} in {place} ({', '.join(labels) or 'absent'}) does not say which is "
            "'yes' and which is 'no'.",
            param=key,
            hint="Convert it again with a current llama.cpp, which writes both rows and labels."
            if is_gguf
            else 'Write "id2label": {"0": "no", "1": "yes"} into config.json, in the order of the rows.',
        )
    return rows[labels.index("yes")] - rows[labels.index("no")]


def _check_head(checkpoint: Checkpoint, name: str, shapes: tuple[tuple[int, int], ...]) -> None:
    """Refuse a head that is missing, of none of the `shapes`, or of a type that cannot be loaded."""
    stored = checkpoint.tensors.get(name)
    if stored is None or stored.shape not in shapes or stored.dtype not in STORED_DTYPES:
        found = "missing" if stored is None else f"{stored.dtype} {list(stored.shape)} in {stored.file.name}"
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise CheckpointError(f"{name} is {found}; it should be {wanted}.", param=str(checkpoint.source))
