"""One batch through the model: token ids to float32 hidden states; what overflows is computed again in float32."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from quernel.engine.segments import build_forest
from quernel.model.qwen3 import Qwen3
from quernel.types import TokenPath, Vectors


class ModelRunner:
    """Runs batches on one model.

    Args:
        model: The model, on its device.
        load_wide: Gives the same model in float32; called once, when a result in half precision is not finite.
    """

    def __init__(self, model: Qwen3, *, load_wide: Callable[[], Qwen3] | None = None) -> None:
        self._model = model
        self._load_wide = load_wide
        self._wide: Qwen3 | None = None
        self.num_recomputed = 0
        """Prompts whose first result was NaN or infinite and that were computed again in float32."""

    def run(self, paths: Sequence[TokenPath]) -> Vectors:
        """Hidden states after the final norm at each prompt's last token, float32 `[N, C]`.

        A row is not finite only if it is so in float32 too (or no wide model can be had); the caller refuses it.
        """
        hidden = _forward(self._model, paths)
        broken = np.flatnonzero(~np.isfinite(hidden).all(axis=1))
        if broken.size and self._load_wide is not None:
            if self._wide is None:
                self._wide = self._load_wide()
            hidden[broken] = _forward(self._wide, [paths[index] for index in broken.tolist()])
            self.num_recomputed += int(broken.size)
        return hidden


def _forward(model: Qwen3, paths: Sequence[TokenPath]) -> Vectors:
    forest = build_forest(paths)
    with torch.inference_mode():
        token_ids = torch.tensor(forest.token_ids).to(model.norm.weight.device)
        read = model(token_ids, forest.layout).float().cpu().numpy()
    rows: Vectors = read[list(forest.rows)]
    return rows
