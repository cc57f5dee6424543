"""The Qwen3 decoder over packed batches: token ids and a layout in, the final hidden state of each read token out.

Shapes:
    T   rows of the packed stream             R   tokens that are read
    C   hidden size                           G   key/value heads
    D   width of a head                       K   rows to keep
    S   rows of keys: cached ones, then T
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from quernel.model.attention import plan_reads, plan_rows
from quernel.model.config import Qwen3Config
from quernel.model.cuda_attention import Plan, plan_texts, plan_varlen_reads, plan_varlen_rows
from quernel.model.layers import DecoderLayer, KeyValue, RMSNorm, Rotary
from quernel.model.layout import Layout

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of the stream that go through a layer together, and what they see."""

    rows: slice
    plan: Plan


class Qwen3(nn.Module):
    """Qwen3 without its language-model head, which neither an embedding model nor a reranker runs.

    Parameters have the names of the official embedding files: `embed_tokens.weight`, `layers.0.mlp.up_proj.weight`.

    Source: arXiv 2505.09388; `Qwen3Model` in transformers, with which it agrees to rounding (`tests/parity`).
    """

    has_varlen_kernel = False
    """Whether all sequences of a batch may be attended to in one launch: `quernel.model.cuda`."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config)

    @property
    def num_bytes(self) -> int:
        """Memory of the embedding table and of the layers' matrices as they are held."""
        maps = (getattr(module, "num_bytes", 0) for module in self.layers.modules())
        return self.embed_tokens.weight.nbytes + sum(maps)

    def forward(self, token_ids: Tensor, layout: Layout) -> Tensor:
        """Hidden states after the final norm, at the last token of each segment in `layout.reads`.

        Differentiable where no segment has a parent. To run rather than to train, `steps` needs less memory and can be
        interrupted.

        Args:
            token_ids: int64 `[T]`, the packed stream.
            layout: The forest that the stream holds; nothing cached.

        Returns:
            `[R, C]` in the model's type, in the order of `layout.reads`.
        """
        return finish(self.steps(token_ids, layout))[0]

    def steps(
        self,
        token_ids: Tensor,
        layout: Layout,
        *,
        cached: Tensor | None = None,
        keep: Tensor | None = None,
        chunk_rows: int | None = None,
    ) -> Generator[None, None, tuple[Tensor, Tensor | None]]:
        """`forward` in steps, with keys and values of some rows known before, and of others handed out.

        Between two steps (one chunk of rows in one layer) the caller may do something else, another batch too.

        Args:
            token_ids: int64 `[T]`, the packed stream.
            layout: The forest; its first `num_cached` rows are those of `cached`.
            cached: Keys and values `[2, layers, num_cached, G, D]`, as this method hands them out.
            keep: Stream rows whose keys and values are wanted, int64 `[K]`.
            chunk_rows: Most rows that go through a layer at once: bounds the memory of a step, and its time. All of
                them where it is None.

        Returns:
            Hidden states `[R, C]`, and keys and values `[2, layers, K, G, D]` where `keep` is given.
        """
        device = token_ids.device
        stream = [layout.segments[index] for index in layout.stream]
        positions = torch.cat([torch.arange(part.position, part.position + part.length) for part in stream])
        reads = torch.tensor([layout.rows(index).stop - 1 for index in layout.reads]).to(device)
        if self.has_varlen_kernel and chunk_rows is None and not torch.is_grad_enabled():
            chunks = [Chunk(slice(0, layout.num_tokens), plan_varlen_rows(layout, device))]
            read_plan: Plan = plan_varlen_reads(layout, device)
        else:
            cuts = _cut(layout, chunk_rows)
            chunks = [Chunk(rows, plan_rows(layout, rows.start, rows.stop, device)) for rows in cuts]
            read_plan = plan_reads(layout, device)
        cos, sin = self.rotary(positions.to(device))
        kept: list[KeyValue] = []
        h: Tensor = self.embed_tokens(token_ids).to(self.norm.weight.dtype)
        last = len(self.layers) - 1
        for index, layer in enumerate(cast("Sequence[DecoderLayer]", self.layers)):
            seen = _Seen(layout, None if cached is None else (cached[0, index], cached[1, index]))
            after = []
            for chunk in chunks:
                part, angles = h[chunk.rows], (cos[chunk.rows], sin[chunk.rows])
                x = layer.normalise(part)
                key_value = seen.extend(chunk.rows, layer.self_attn.key_value(x, angles))
                if index < last:
                    after.append(layer(part, x, angles, key_value, chunk.plan))
                yield
            if keep is not None:
                kept.append((key_value[0][keep + layout.num_cached], key_value[1][keep + layout.num_cached]))
            if index == last:
                h, angles = h[reads], (cos[reads], sin[reads])
                h = layer(h, layer.normalise(h), angles, key_value, read_plan)
            else:
                h = after[0] if len(after) == 1 else torch.cat(after)
        return self.norm(h), None if keep is None else torch.stack([torch.stack(p) for p in zip(*kept, strict=True)])

    def texts(self, token_ids: Tensor, positions: Tensor, starts: Tensor, reads: Tensor) -> Tensor:
        """Final hidden states of independent texts, by launches that depend on shapes alone: what a CUDA graph records.

        Args:
            token_ids: int64 `[T]`, the texts one after the other.
            positions: int64 `[T]`, of each token in its text.
            starts: Where each text begins, and their total, int32 `[N + 1]`. Texts may be empty.
            reads: The row that is read of each text, int64 `[N]`.

        Returns:
            `[N, C]` in the model's type.
        """
        row_plan, read_plan = plan_texts(starts, token_ids.shape[0])
        cos, sin = self.rotary(positions)
        h: Tensor = self.embed_tokens(token_ids).to(self.norm.weight.dtype)
        *layers, last = cast("Sequence[DecoderLayer]", self.layers)
        for layer in layers:
            x = layer.normalise(h)
            h = layer(h, x, (cos, sin), layer.self_attn.key_value(x, (cos, sin)), row_plan)
        key_value = last.self_attn.key_value(last.normalise(h), (cos, sin))
        h, angles = h[reads], (cos[reads], sin[reads])
        read: Tensor = self.norm(last(h, last.normalise(h), angles, key_value, read_plan))
        return read


def finish(steps: Generator[None, None, Result]) -> Result:
    """All steps at once: what the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


class _Seen:
    """Keys and values of a layer, as they become known chunk by chunk.

    Args:
        layout: The forest.
        cached: Those of its cached rows, each `[num_cached, G, D]`.
    """

    def __init__(self, layout: Layout, cached: KeyValue | None) -> None:
        self._layout = layout
        self._cached = cached
        self._buffers: KeyValue | None = None

    def extend(self, rows: slice, part: KeyValue) -> KeyValue:
        """Add those of some stream rows; all so far, each `[S, G, D]` (later rows undefined)."""
        if self._cached is None and rows == slice(0, self._layout.num_tokens):
            return part
        num_cached = self._layout.num_cached
        if self._buffers is None:
            shape = (num_cached + self._layout.num_tokens, *part[0].shape[1:])
            self._buffers = part[0].new_empty(shape), part[1].new_empty(shape)
        for which, buffer in enumerate(self._buffers):
            if self._cached is not None and rows.start == 0:
                buffer[:num_cached] = self._cached[which]
            buffer[num_cached + rows.start : num_cached + rows.stop] = part[which]
        return self._buffers


def _cut(layout: Layout, chunk_rows: int | None) -> Iterator[slice]:
    """The stream in chunks, cut between segments where one ends in a chunk's second half."""
    size = chunk_rows or layout.num_tokens
    stops = [layout.rows(index).stop for index in layout.stream]
    start = 0
    while start < layout.num_tokens:
        whole = [stop for stop in stops if start + size // 2 < stop <= start + size]
        stop = max(whole, default=min(start + size, layout.num_tokens))
        yield slice(start, stop)
        start = stop
