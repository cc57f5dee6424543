"""Causal attention over a forest of segments, twice: a reference that is obviously right, and the path that runs.

Both take packed rows and never see padding. The reference builds one [T, T] mask from the definition and is for tests.
The fast path never builds a [length, length] tensor: it attends to each ancestor without a mask (all segments below
the same parent in one call) and to the own segment causally, and merges the parts by their log-sum-exp. The merge is
exact arithmetic (it is how flash attention splits its keys): "Online normalizer calculation for softmax",
arXiv 1805.02867; "cascade inference" in FlashInfer.

Keys and values may have more rows than there are queries: cached rows, of which no queries are wanted, come first.

Shapes:
    T   rows of the packed stream             R   rows that are read
    S   rows of keys: cached ones, then T
    H   query heads                           G   key/value heads; H / G query heads share one
    D   width of a head
"""

import math
from collections.abc import Sequence
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


def forest_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Attention of every row of the stream. `[T, H, D]`.

    Args:
        query: `[T, H, D]`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        layout: The forest.
    """
    rows: list[slice | None] = [None] * len(layout.segments)
    for index in layout.stream:
        rows[index] = layout.rows(index)
    return _cascade(query, key, value, layout, rows, causal=True)


def last_token_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Attention of the read rows alone, which see all of their path. `[R, H, D]`.

    Args:
        query: `[R, H, D]`, in the order of `layout.reads`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        layout: The forest.
    """
    rows: list[slice | None] = [None] * len(layout.segments)
    for row, index in enumerate(layout.reads):
        rows[index] = slice(row, row + 1)
    return _cascade(query, key, value, layout, rows, causal=False)


def _cascade(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, rows: Sequence[slice | None], *, causal: bool
) -> Tensor:
    """Own segments first, then one ancestor after the other, merged by log-sum-exp.

    Args:
        query: `[Q, H, D]`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        layout: The forest.
        rows: For each segment, its rows in `query`, if it has any there; together they are all rows once.
        causal: Whether a query row sees its own segment only up to itself.
    """

    def attend(mine: Tensor, index: int, *, causal: bool) -> tuple[Tensor, Tensor]:
        segment = layout.segments[index]
        return _attend(mine, key[segment.start : segment.stop], value[segment.start : segment.stop], causal=causal)

    own = [(index, part) for index, part in enumerate(rows) if part is not None]
    if not layout.children:
        return torch.cat([attend(query[part], index, causal=causal)[0] for index, part in sorted(own, key=_first_row)])
    num_rows, num_heads, head_dim = query.shape
    output = query.new_empty(num_rows, num_heads, head_dim, dtype=torch.float32)
    normaliser = query.new_empty(num_rows, num_heads, dtype=torch.float32)
    for index, part in own:
        output[part], normaliser[part] = attend(query[part], index, causal=causal)
    for ancestor in layout.children:
        below = _row_index([part for index in _descendants(layout, ancestor) if (part := rows[index])], query.device)
        if below is None:
            continue
        seen, seen_normaliser = attend(query[below], ancestor, causal=False)
        both = torch.logaddexp(normaliser[below], seen_normaliser)
        mine, theirs = ((part - both).exp().unsqueeze(-1) for part in (normaliser[below], seen_normaliser))
        output[below] = output[below] * mine + seen * theirs
        normaliser[below] = both
    return output.to(query.dtype)


def _first_row(own: tuple[int, slice]) -> int:
    return int(own[1].start)


def _descendants(layout: Layout, index: int) -> list[int]:
    """All segments below `index`, in the order of the stream."""
    found: list[int] = []
    pending = list(layout.children.get(index, ()))
    while pending:
        below = pending.pop()
        found.append(below)
        pending.extend(layout.children.get(below, ()))
    return sorted(found)


def _row_index(rows: Sequence[slice], device: torch.device) -> Tensor | slice | None:
    """What selects all of `rows`: one slice where they are neighbours (no copy), else an index tensor."""
    if not rows:
        return None
    ordered = sorted(rows, key=lambda part: int(part.start))
    if all(left.stop == right.start for left, right in pairwise(ordered)):
        return slice(ordered[0].start, ordered[-1].stop)
    return torch.cat([torch.arange(part.start, part.stop, device=device) for part in ordered])


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Plain attention of some rows to some rows: output `[Q, H, D]` and log-sum-exp of the scores float32 `[Q, H]`.

    Query heads that share a key/value head are laid out as heads over a batch of key/value heads, with keys and values
    broadcast by a stride of zero: nothing is copied for grouped-query attention.
    """
    num_rows, num_heads, head_dim = query.shape
    num_groups = key.shape[1]
    shared = num_heads // num_groups
    queries = query.view(num_rows, num_groups, shared, head_dim).permute(1, 2, 0, 3)  # [G, H/G, Q, D]
    keys = key.transpose(0, 1).unsqueeze(1).expand(-1, shared, -1, -1)  # [G, H/G, K, D]
    values = value.transpose(0, 1).unsqueeze(1).expand(-1, shared, -1, -1)
    kernel = _KERNELS.get(query.device.type, _attend_by_matrix)
    output, normaliser = kernel(queries, keys, values, causal)
    return output.permute(2, 0, 1, 3).reshape(num_rows, num_heads, head_dim), normaliser.permute(2, 0, 1).reshape(
        num_rows, num_heads
    )


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


_KERNELS = {"cpu": _attend_on_cpu, "cuda": _attend_on_cuda}
