"""One batch through the model: token ids to float32 hidden states; what overflows is computed again in float32."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from quernel.engine.engine import RunnerStatistics
from quernel.engine.prefix_cache import PrefixCache
from quernel.engine.segments import Forest, build_forest
from quernel.model.cuda_graphs import GraphedForward
from quernel.model.layout import Layout
from quernel.model.qwen3 import Qwen3, finish
from quernel.types import TokenPath, Vectors


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute without the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ModelRunner:
    """Runs batches on one model.

    Args:
        model: The model, on its device.
        load_wide: Gives the same model in float32; called once, when a result in half precision is not finite.
        graphs: Recorded forwards of a few short texts, where the device has such.
        prefix_cache_bytes: Memory for the keys and values of prefixes that come again; 0 keeps none.
        chunk_rows: Most rows that go through a layer at once, which is one step; all of a batch where it is None.
        small_operations: Batches of fewer operations run on one CPU thread; 0 for none. Only where nothing else of the
            process uses torch: a thread that begins meanwhile would have one for good.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        load_wide: Callable[[], Qwen3] | None = None,
        graphs: GraphedForward | None = None,
        prefix_cache_bytes: int = 0,
        chunk_rows: int | None = None,
        small_operations: int = 0,
    ) -> None:
        self._model = model
        self._small_operations = small_operations
        self._load_wide = load_wide
        self._wide: Qwen3 | None = None
        self._graphs = graphs
        self._chunk_rows = chunk_rows
        self.prefix_cache: PrefixCache[Tensor] = PrefixCache(prefix_cache_bytes)
        """Keys and values `[2, layers, run, G, D]` of each prefix's last run."""
        self._num_tokens = 0
        self._num_recomputed = 0

    @property
    def statistics(self) -> RunnerStatistics:
        """Counts since the start; from any thread."""
        return RunnerStatistics(
            num_tokens=self._num_tokens,
            num_prefix_hits=self.prefix_cache.num_hits,
            num_prefix_misses=self.prefix_cache.num_misses,
            prefix_cache_bytes=self.prefix_cache.num_bytes,
            num_recomputed=self._num_recomputed,
        )

    def steps(self, paths: Sequence[TokenPath]) -> Generator[None, None, Vectors]:
        """Hidden states after the final norm at each prompt's last token, float32 `[N, C]`, in steps.

        Between two steps the caller may run another batch. A row of the result is not finite only if it is so in
        float32 too (or no wide model can be had); the caller refuses it.
        """
        hidden = self._by_graph(paths)
        if hidden is None:
            hidden = yield from self._steps_with_cache(paths)
        broken = np.flatnonzero(~np.isfinite(hidden).all(axis=1))
        if broken.size and self._load_wide is not None:
            if self._wide is None:
                self._wide = self._load_wide()
            forest = build_forest([paths[index] for index in broken.tolist()])
            read, _ = yield from self._forward(self._wide, forest)
            hidden[broken] = _to_rows(forest, read)
            self._num_recomputed += int(broken.size)
        return hidden

    def measure_speed(self, num_tokens: int) -> float:
        """Tokens a second, judged by the time of the first layer for so many; the second run counts."""
        token_ids = torch.zeros(num_tokens, dtype=torch.int64, device=self._model.norm.weight.device)
        layout = Layout.from_lengths([num_tokens])
        seconds = 0.0
        for _ in range(2):
            start = time.perf_counter()
            with torch.inference_mode():
                first_layer = self._model.steps(token_ids, layout)
                next(first_layer, None)
                if token_ids.is_cuda:
                    torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            first_layer.close()
        return num_tokens / (seconds * len(self._model.layers))

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
        self._num_tokens += forest.layout.num_tokens
        hidden = _to_rows(forest, read)
        if kept is not None and np.isfinite(hidden).all():
            parts = torch.split(kept, [part.stop - part.start for part in keep], dim=2)
            for prefix, part in zip(forest.computed, parts, strict=True):
                entry = part.clone()  # a view would hold the memory of all of them
                self.prefix_cache.put(prefix, entry, entry.nbytes)
        return hidden

    def _place(self, model: Qwen3, layout: Layout) -> Callable[[], AbstractContextManager[object]]:
        """Where a batch is computed: on its device; on a CPU a small one on a single thread."""
        device = model.norm.weight.device
        if device.type == "cuda":
            return partial(torch.cuda.device, device)
        operations = model.config.num_operations(layout.num_tokens, len(layout.reads))
        return one_thread if operations < self._small_operations else nullcontext

    def _by_graph(self, paths: Sequence[TokenPath]) -> Vectors | None:
        """Results of a few short prompts by a recorded forward, which is faster than sharing their prefixes."""
        if self._graphs is None:
            return None
        texts = [[token for run in path for token in run] for path in paths]
        if self._graphs.bucket([len(text) for text in texts]) is None:
            return None
        with torch.inference_mode():
            hidden: Vectors = self._graphs(texts).numpy()
        self._num_tokens += sum(map(len, texts))
        return hidden

    def _forward(
        self, model: Qwen3, forest: Forest, cached: Tensor | None = None, keep: Sequence[slice] = ()
    ) -> Generator[None, None, tuple[Tensor, Tensor | None]]:
        device = model.norm.weight.device
        rows = torch.cat([torch.arange(part.start, part.stop) for part in keep]).to(device) if keep else None
        token_ids = torch.tensor(forest.token_ids)
        if device.type == "cuda":
            token_ids = token_ids.pin_memory().to(device, non_blocking=True)
        steps = model.steps(token_ids, forest.layout, cached=cached, keep=rows, chunk_rows=self._chunk_rows)
        place = self._place(model, forest.layout)
        while True:
            # Around each step: mode and device are the thread's, and another batch may come between.
            with torch.inference_mode(), place():
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
