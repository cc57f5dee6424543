"""One batch through the model: token ids to float32 hidden states; what overflows is computed again in float32."""

from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from quernel.engine.prefix_cache import PrefixCache
from quernel.engine.segments import Forest, build_forest
from quernel.model.qwen3 import Qwen3, finish
from quernel.types import TokenPath, Vectors


class ModelRunner:
    """Runs batches on one model.

    Args:
        model: The model, on its device.
        load_wide: Gives the same model in float32; called once, when a result in half precision is not finite.
        prefix_cache_bytes: Memory for the keys and values of prefixes that come again; 0 keeps none.
        chunk_rows: Most rows that go through a layer at once, which is one step; all of a batch where it is None.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        load_wide: Callable[[], Qwen3] | None = None,
        prefix_cache_bytes: int = 0,
        chunk_rows: int | None = None,
    ) -> None:
        self._model = model
        self._load_wide = load_wide
        self._wide: Qwen3 | None = None
        self._chunk_rows = chunk_rows
        self.prefix_cache: PrefixCache[Tensor] = PrefixCache(prefix_cache_bytes)
        """Keys and values `[2, layers, run, G, D]` of each prefix's last run."""
        self.num_recomputed = 0
        """Prompts whose first result was NaN or infinite and that were computed again in float32."""

    def steps(self, paths: Sequence[TokenPath]) -> Generator[None, None, Vectors]:
        """Hidden states after the final norm at each prompt's last token, float32 `[N, C]`, in steps.

        Between two steps the caller may run another batch. A row of the result is not finite only if it is so in
        float32 too (or no wide model can be had); the caller refuses it.
        """
        hidden = yield from self._steps_with_cache(paths)
        broken = np.flatnonzero(~np.isfinite(hidden).all(axis=1))
        if broken.size and self._load_wide is not None:
            if self._wide is None:
                self._wide = self._load_wide()
            forest = build_forest([paths[index] for index in broken.tolist()])
            read, _ = yield from self._forward(self._wide, forest)
            hidden[broken] = _to_rows(forest, read)
            self.num_recomputed += int(broken.size)
        return hidden

    def run(self, paths: Sequence[TokenPath]) -> Vectors:
        """What `steps` returns, without stopping between them."""
        return finish(self.steps(paths))

    def _steps_with_cache(self, paths: Sequence[TokenPath]) -> Generator[None, None, Vectors]:
        found: dict[TokenPath, Tensor] = {}

        def known(prefix: TokenPath) -> bool:
            entry = self.prefix_cache.get(prefix)
            if entry is not None:
                found[prefix] = entry  # held until the batch is done, whatever is dropped meanwhile
            return entry is not None

        forest = build_forest(paths, known)
        keep = list(forest.computed.values()) if self.prefix_cache.max_bytes else []
        cached = torch.cat([found[prefix] for prefix in forest.cached], dim=2) if forest.cached else None
        read, kept = yield from self._forward(self._model, forest, cached, keep)
        hidden = _to_rows(forest, read)
        if kept is not None and np.isfinite(hidden).all():
            parts = torch.split(kept, [part.stop - part.start for part in keep], dim=2)
            for prefix, part in zip(forest.computed, parts, strict=True):
                entry = part.clone()  # a view would hold the memory of all of them
                self.prefix_cache.put(prefix, entry, entry.nbytes)
        return hidden

    def _forward(
        self, model: Qwen3, forest: Forest, cached: Tensor | None = None, keep: Sequence[slice] = ()
    ) -> Generator[None, None, tuple[Tensor, Tensor | None]]:
        device = model.norm.weight.device
        rows = torch.cat([torch.arange(part.start, part.stop) for part in keep]).to(device) if keep else None
        token_ids = torch.tensor(forest.token_ids).to(device)
        steps = model.steps(token_ids, forest.layout, cached=cached, keep=rows, chunk_rows=self._chunk_rows)
        while True:
            with (
                torch.inference_mode()
            ):  # around each step: the mode is the thread's, and another batch may come between
                try:
                    next(steps)
                except StopIteration as end:
                    result: tuple[Tensor, Tensor | None] = end.value
                    return result
            yield


def _to_rows(forest: Forest, read: Tensor) -> Vectors:
    """The result of each prompt, float32 `[N, C]`."""
    rows: Vectors = read.float().cpu().numpy()[list(forest.rows)]
    return rows
