"""Causal attention over a forest of segments, twice: a reference that is obviously right, and the path that runs.

Both take packed rows and never see padding. The reference builds one [T, S] mask from the definition and is for tests.
The fast path never builds a [length, length] tensor: by a plan made once for all layers it attends to the own segment
causally and to each ancestor without a mask (all rows below one ancestor in one call), and merges the parts by their
log-sum-exp. The merge is exact arithmetic, as in flash attention: "Online normalizer calculation for softmax", arXiv
1805.02867; "cascade inference" in FlashInfer.

Keys and values may have more rows than there are queries: cached rows, of which no queries are wanted, come first.

Shapes:
    T   rows of the packed stream             R   rows that are read
    S   rows of keys: cached ones, then T
    H   query heads                           G   key/value heads; H / G query heads share one
    D   width of a head
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from quernel.model.layout import Layout


def forest_mask(layout: Layout) -> Tensor:
    """Which token sees which: bool `[T, S]`, row sees column. Straight from the definition; for tests."""
    mask = torch.zeros(layout.num_tokens, layout.num_cached + layout.num_tokens, dtype=torch.bool)
    for index in layout.stream:
        segment = layout.segments[index]
        for row in range(segment.start, segment.stop):
            mask[row - layout.num_cached, segment.start : row + 1] = True
            for ancestor in layout.ancestors(index):
                mask[row - layout.num_cached, layout.segments[ancestor].start : layout.segments[ancestor].stop] = True
    return mask


def reference_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Attention of every row by the textbook: mask, softmax in float32, weighted sum. `[T, H, D]`.

    Args:
        query: `[T, H, D]`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        layout: The forest.
    """
    num_shared = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(num_shared, dim=1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.float(), key.float()) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~forest_mask(layout).to(scores.device), -math.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value.float()).to(query.dtype)


@dataclass(frozen=True, slots=True)
class Span:
    """Query rows, and the rows of keys that all of them see.

    Attributes:
        rows: Query rows: a slice, or an index where they are not neighbours.
        keys: Rows of keys and values.
    """

    rows: slice | Tensor
    keys: slice


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What some query rows see, found once for all layers.

    Attributes:
        own: Rows of one segment each, and the keys of that segment up to its last row here. They cover the query rows
            once, in order.
        context: More keys that rows see, without a mask: what stands before them in their segment, and ancestors.
        causal: Whether a row of `own` sees the keys of its span only up to itself.
    """

    own: tuple[Span, ...]
    context: tuple[Span, ...]
    causal: bool


def plan_rows(layout: Layout, start: int, stop: int, device: torch.device) -> AttentionPlan:
    """The plan for the stream's rows from `start` to before `stop`.

    Args:
        layout: The forest.
        start: First row of the stream; earlier rows' keys are at hand.
        stop: The row after the last.
        device: Where indexes go.
    """
    rows: dict[int, slice] = {}
    own, before = [], []
    for index in layout.stream:
        whole = layout.rows(index)
        first, last = max(whole.start, start), min(whole.stop, stop)
        if first >= last:
            continue
        rows[index] = slice(first - start, last - start)
        own.append(Span(rows[index], slice(first + layout.num_cached, last + layout.num_cached)))
        if first > whole.start:
            before.append(Span(rows[index], slice(whole.start + layout.num_cached, first + layout.num_cached)))
    return AttentionPlan(tuple(own), (*before, *_ancestor_spans(layout, rows.items(), device)), causal=True)


def plan_reads(layout: Layout, device: torch.device) -> AttentionPlan:
    """The plan for the rows that are read, in the order of `layout.reads`; each sees all of its path."""
    own = []
    further: list[tuple[int, slice]] = []
    for row, index in enumerate(layout.reads):
        first = index
        while (parent := layout.segments[first].parent) is not None and parent == first - 1:
            first = parent  # its rows are those before, and seen just like the own ones
        rows = slice(row, row + 1)
        own.append(Span(rows, slice(layout.segments[first].start, layout.segments[index].stop)))
        if parent is not None:
            further.append((first, rows))
    return AttentionPlan(tuple(own), tuple(_ancestor_spans(layout, further, device)), causal=False)


def _ancestor_spans(layout: Layout, rows: Iterable[tuple[int, slice]], device: torch.device) -> Iterator[Span]:
    """For each segment that any of the rows extend: those rows, and its keys.

    Args:
        layout: The forest.
        rows: Segments, and query rows that are below each.
        device: Where indexes go.
    """
    below: dict[int, list[slice]] = {}
    for index, part in rows:
        for ancestor in layout.ancestors(index):
            below.setdefault(ancestor, []).append(part)
    for ancestor, parts in sorted(below.items()):
        segment = layout.segments[ancestor]
        yield Span(_join(parts, device), slice(segment.start, segment.stop))


def _join(parts: Sequence[slice], device: torch.device) -> slice | Tensor:
    """What selects all of the rows: one slice where they are neighbours (no copy), else an index."""
    ordered = sorted(parts, key=lambda part: int(part.start))
    if all(left.stop == right.start for left, right in pairwise(ordered)):
        return slice(ordered[0].start, ordered[-1].stop)
    return torch.cat([torch.arange(part.start, part.stop) for part in ordered]).to(device)


def attend(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """Attention by a plan: own segments, then context, merged by log-sum-exp. `[Q, H, D]`.

    Args:
        query: `[Q, H, D]`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        plan: What the query rows see.
    """
    if not plan.context:
        return torch.cat([_attend_alone(query[s.rows], key[s.keys], value[s.keys], plan.causal) for s in plan.own])
    num_rows, num_heads, head_dim = query.shape
    output = query.new_empty(num_rows, num_heads, head_dim, dtype=torch.float32)
    normaliser = query.new_empty(num_rows, num_heads, dtype=torch.float32)
    for span in plan.own:
        output[span.rows], normaliser[span.rows] = _attend(
            query[span.rows], key[span.keys], value[span.keys], causal=plan.causal
        )
    for span in plan.context:
        seen, seen_normaliser = _attend(query[span.rows], key[span.keys], value[span.keys], causal=False)
        share = (seen_normaliser - normaliser[span.rows]).sigmoid().unsqueeze(-1)
        output[span.rows] = torch.lerp(output[span.rows], seen.float(), share)
        normaliser[span.rows] = torch.logaddexp(normaliser[span.rows], seen_normaliser)
    return output.to(query.dtype)


def _attend_alone(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attention of rows that see nothing else, so that nobody asks for the log-sum-exp. `[Q, H, D]`."""
    if causal and _suits_blocks(query):
        return _attend_in_blocks(query, key, value)
    return _attend(query, key, value, causal=causal)[0]


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Plain attention of some rows to some rows: output `[Q, H, D]` and log-sum-exp of the scores float32 `[Q, H]`.

    Nothing is copied of keys and values for grouped queries. Without a mask, the query heads that share a key/value
    head are more rows of that head, which kernels like best; with one, they are heads over a batch of key/value heads,
    whose keys and values are broadcast by a stride of zero.
    """
    num_rows, num_heads, head_dim = query.shape
    num_groups = key.shape[1]
    kernel = _KERNELS.get(query.device.type, _attend_by_matrix)
    grouped = query.view(num_rows, num_groups, -1, head_dim)  # [Q, G, H/G, D]
    keys, values = key.transpose(0, 1), value.transpose(0, 1)  # [G, K, D]
    if not causal:
        rows = grouped.transpose(0, 1).reshape(1, num_groups, -1, head_dim)
        output, normaliser = kernel(rows, keys.unsqueeze(0), values.unsqueeze(0), False)
        output = output.view(num_groups, num_rows, -1, head_dim).transpose(0, 1)
        normaliser = normaliser.view(num_groups, num_rows, -1).transpose(0, 1)
    else:
        shared = num_heads // num_groups
        keys, values = (part.unsqueeze(1).expand(-1, shared, -1, -1) for part in (keys, values))
        output, normaliser = kernel(grouped.permute(1, 2, 0, 3), keys, values, True)
        output, normaliser = output.permute(2, 0, 1, 3), normaliser.permute(2, 0, 1)
    return output.reshape(num_rows, num_heads, head_dim), normaliser.reshape(num_rows, num_heads)


def _suits_blocks(query: Tensor) -> bool:
    """Whether the rows of a text `[Q, H, D]` are so many that products of blocks beat torch's CPU kernel, and no more.

    Measured by `benchmarks/cpu_attention.py`.
    """
    if query.device.type != "cpu" or query.dtype not in BLOCK_ROWS:
        return False
    return BLOCKS_FROM[query.dtype] <= len(query) <= BLOCKS_TO


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of a text to itself, `[Q, H, D]`: each block of rows against all rows before its end.

    The block's scores are one product for each key/value head, and never more than a block times the text.
    """
    num_rows, num_heads, head_dim = query.shape
    num_groups = key.shape[1]
    queries = query.view(num_rows, num_groups, -1, head_dim).transpose(0, 1) / math.sqrt(head_dim)  # [G, Q, H/G, D]
    keys, values = key.permute(1, 2, 0), value.transpose(0, 1)  # [G, D, Q], [G, Q, D]
    size = BLOCK_ROWS[query.dtype]
    future = query.new_full((size, size), -math.inf).triu_(1).unsqueeze(1)
    parts = []
    for start in range(0, num_rows, size):
        stop = min(start + size, num_rows)
        scores = torch.bmm(queries[:, start:stop].flatten(1, 2), keys[:, :, :stop])
        scores.view(num_groups, stop - start, -1, stop)[..., start:] += future[: stop - start, :, : stop - start]
        gathered = torch.bmm(scores.softmax(dim=-1), values[:, :stop])
        parts.append(gathered.view(num_groups, stop - start, -1))
    return torch.cat(parts, dim=1).transpose(0, 1).reshape(num_rows, num_heads, head_dim)


def _attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """torch's blocked CPU kernel: linear memory, and it hands out the log-sum-exp."""
    output, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)
    return output, normaliser


def _attend_on_cuda(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """torch's memory-efficient kernel, which takes float32 too and hands out the log-sum-exp (padded to 32 rows)."""
    output, normaliser, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, causal
    )
    return output, normaliser[..., : query.shape[-2]]


def _attend_by_matrix(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """The scores as a matrix: for devices without a kernel above (shapes on meta, other accelerators)."""
    scores = (query.float() @ key.float().transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return (scores.softmax(dim=-1) @ value.float()).to(query.dtype), scores.logsumexp(dim=-1)


BLOCK_ROWS = {torch.float32: 64, torch.bfloat16: 128}
"""Rows of a block, by type, and so the types for which blocks are used."""

BLOCKS_FROM = {torch.float32: 112, torch.bfloat16: 64}
"""The shortest text for which blocks are faster, by type."""

BLOCKS_TO = 1024
"""The longest: the scores of a block still fit a cache."""

_KERNELS = {"cpu": _attend_on_cpu, "cuda": _attend_on_cuda}
