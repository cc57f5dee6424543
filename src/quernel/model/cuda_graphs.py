"""CUDA graphs for a few short texts: a forward whose launches cost more than its arithmetic is recorded and replayed.

A graph repeats the same launches on the same memory, so each has a size. Texts are laid into the smallest bucket that
holds them: the rows that are left over are a text of their own, whose result is dropped, and the texts that are left
over are empty. Knows no model: what is recorded is a function of tensors.

One thread at a time. A graph is recorded when its bucket is first used, and there are no more graphs than buckets.

Shapes:
    T   rows of a bucket                      N   texts of a bucket
    C   hidden size
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import torch
from torch import Tensor

Forward: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`forward(token_ids, positions, starts, reads)`: the hidden state of each read row, `[N, C]`.

Token ids and positions are int64 `[T]`; `starts` is where each text begins, and their total, int32 `[N + 1]`; `reads`
int64 `[N]`. Some texts are empty. It must not depend on values that the host would have to wait for.
"""

Capture: TypeAlias = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Records a function without arguments. The result repeats its work and gives its output, until the next repetition."""

BUCKETS = (16, 32, 64, 128, 256)
"""Rows. More of them fill a large accelerator without graphs, and each graph holds memory for its activations."""

ROWS_PER_TEXT = 8
"""Rows of a bucket for each text that it can hold: queries are rarely shorter, and each text costs a read row."""

WARM_UP_RUNS = 3
"""Runs before a recording, so that libraries have their workspaces and kernels are compiled and tuned."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A bucket's graph, and the memory that it reads.

    Attributes:
        staged: What the next replay is about, int64, on the host.
        inputs: The same on the device, where the graph reads it.
        hidden: Its output on the host, float32 `[N, C]`.
        replay: Repeats the forward.
    """

    staged: Tensor
    inputs: Tensor
    hidden: Tensor
    replay: Callable[[], Tensor]


class GraphedForward:
    """A forward for a few short texts, by CUDA graphs.

    Args:
        forward: What is recorded.
        device: Where it runs.
        capture: How it is recorded; by a CUDA graph where it is None.
        buckets: Rows of each graph, in ascending order.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        device: torch.device,
        capture: Capture | None = None,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        self._forward = forward
        self._device = device
        self._capture = CudaCapture(device) if capture is None else capture
        self._buckets = tuple(buckets)
        self._recorded: dict[int, _Recorded] = {}

    def bucket(self, lengths: Sequence[int]) -> int | None:
        """Rows of the graph for texts of these lengths; None where they are too many or too long.

        Args:
            lengths: Tokens of each text, at least one.
        """
        fitting = (rows for rows in self._buckets if sum(lengths) <= rows and len(lengths) <= rows // ROWS_PER_TEXT)
        return next(fitting, None)

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The hidden state at the last token of each text, float32 `[texts, C]`, on the host.

        Args:
            texts: Token ids, for which `bucket` gives one.

        Raises:
            ValueError: They fit no bucket.
        """
        rows = self.bucket([len(text) for text in texts])
        if rows is None:
            raise ValueError(f"{len(texts)} texts of {sum(map(len, texts))} tokens fit no bucket of {self._buckets}")
        if rows not in self._recorded:
            self._recorded[rows] = self._record(rows)
        recorded = self._recorded[rows]
        recorded.staged.copy_(stage(texts, rows))
        recorded.inputs.copy_(recorded.staged, non_blocking=True)
        recorded.hidden.copy_(recorded.replay(), non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return recorded.hidden[: len(texts)].clone()

    def _record(self, rows: int) -> _Recorded:
        pinned = self._device.type == "cuda"
        staged = torch.empty(_num_inputs(rows), dtype=torch.int64, pin_memory=pinned)
        staged.copy_(stage([[0] * (rows // 2)], rows))
        inputs = staged.to(self._device, copy=True)

        def run() -> Tensor:
            token_ids, positions, reads, starts = torch.split(inputs, [rows, rows, *_text_sizes(rows)])
            return self._forward(token_ids, positions, starts.int(), reads).float()

        replay = self._capture(run)
        hidden = replay()
        return _Recorded(staged, inputs, torch.empty(hidden.shape, pin_memory=pinned), replay)


def stage(texts: Sequence[Sequence[int]], rows: int) -> Tensor:
    """Texts as the graph of a bucket reads them: token ids, positions, reads and starts, int64, one after the other.

    The rows left over are one more text, the texts left over are empty and read that one's last row.

    Args:
        texts: Token ids; they fit the bucket.
        rows: Of the bucket.
    """
    num_texts, num_starts = _text_sizes(rows)
    padding = [0] * (rows - sum(map(len, texts)))
    padded = [*texts, padding]
    ends = [*accumulate(map(len, padded))]
    reads = [end - 1 for end in ends[:-1]]
    return torch.tensor(
        [
            *(token for text in padded for token in text),
            *(position for text in padded for position in range(len(text))),
            *(reads + [rows - 1] * (num_texts - len(reads))),
            *([0, *ends] + [rows] * (num_starts - 1 - len(ends))),
        ]
    )


def _text_sizes(rows: int) -> tuple[int, int]:
    """Read rows and starts of a bucket: its texts, with one for the rows that are left over."""
    num_texts = rows // ROWS_PER_TEXT + 1
    return num_texts, num_texts + 1


def _num_inputs(rows: int) -> int:
    return 2 * rows + sum(_text_sizes(rows))


class CudaCapture:
    """Records functions as CUDA graphs that share one pool of memory, since they never run at once.

    Args:
        device: Where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The recorded function. Its output is overwritten by the next replay of any graph of the pool."""
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_RUNS):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: only this one's calls are held to what a graph allows.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = run()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay
