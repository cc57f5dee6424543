"""Attention over a forest in few launches: one call for all own segments, one for each depth of ancestors.

For the whole stream at once, without chunks, and for inference: no gradient goes through the log-sum-exps. The plan is
made once for all layers, on the CPU, and copied at once. The kernel is a parameter, so that the plan and the merge are
tested without a CUDA device. The arithmetic is that of `quernel.model.attention`, which also runs where this cannot.

Shapes:
    Q   query rows                            N   sequences of a call
    S   rows of keys: cached ones, then the stream
    K   keys of a call                        D   width of a head
    H   query heads                           G   key/value heads; H / G query heads share one
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from quernel.model.attention import AttentionPlan, attend
from quernel.model.layout import Layout
from quernel.model.text_attention import TextPlan


@dataclass(frozen=True, slots=True)
class VarlenCall:
    """One launch: sequences of query rows, each with a sequence of keys.

    Attributes:
        rows: Query rows of all sequences, one after the other: a slice, or an int32 index where they are no neighbours.
        keys: Rows of keys and values, likewise.
        query_starts: Where each sequence begins in `rows`, and their total, int32 `[N + 1]`.
        key_starts: The same in `keys`, int32 `[N + 1]`.
        max_queries: Rows of the sequence that has most.
        max_keys: Keys of the sequence that has most.
        causal: Whether a row sees the keys of its sequence only up to itself.
    """

    rows: slice | Tensor
    keys: slice | Tensor
    query_starts: Tensor
    key_starts: Tensor
    max_queries: int
    max_keys: int
    causal: bool


class VarlenKernel(Protocol):
    """Attention of packed sequences: what CUDA has, or a loop in tests."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, call: VarlenCall) -> tuple[Tensor, Tensor]:
        """Output `[Q, H, D]` and log-sum-exp of the scores, float32 `[Q, H]`.

        Args:
            query: `[Q, H, D]`, the rows that `call.rows` selects.
            key: `[K, G, D]`, the rows that `call.keys` selects.
            value: `[K, G, D]`, likewise.
            call: Where the sequences are.
        """


@dataclass(frozen=True, slots=True)
class VarlenPlan:
    """What some query rows see, found once for all layers.

    Attributes:
        own: Each row in its own segment; covers the query rows once.
        context: For each depth of ancestors: the rows that have one of that depth, and its keys, not causal. A row is
            in a call at most once.
    """

    own: VarlenCall
    context: tuple[VarlenCall, ...] = ()


Plan: TypeAlias = AttentionPlan | VarlenPlan | TextPlan
"""What a layer attends by."""


def plan_varlen_rows(layout: Layout, device: torch.device) -> VarlenPlan:
    """The plan for all rows of the stream.

    Args:
        layout: The forest, with at least one row to compute.
        device: Where indexes go.
    """
    rows = {index: layout.rows(index) for index in layout.stream}
    return _plan(layout, rows, causal=True, device=device)


def plan_varlen_reads(layout: Layout, device: torch.device) -> VarlenPlan:
    """The plan for the rows that are read, in the order of `layout.reads`; each sees all of its path.

    Args:
        layout: The forest, with at least one read.
        device: Where indexes go.
    """
    rows = {index: slice(row, row + 1) for row, index in enumerate(layout.reads)}
    return _plan(layout, rows, causal=False, device=device)


def plan_texts(starts: Tensor, num_rows: int) -> tuple[VarlenPlan, VarlenPlan]:
    """The plans for all rows and for the reads of independent texts whose lengths only the device knows.

    For CUDA graphs, which bake in everything that the host knows. Empty texts are allowed; their reads are undefined.

    Args:
        starts: Where each text begins, and their total, int32 `[N + 1]`.
        num_rows: Rows of the stream; no text is longer.
    """
    whole = slice(0, num_rows)
    num_texts = starts.shape[0] - 1
    one_each = torch.arange(num_texts + 1, dtype=torch.int32, device=starts.device)
    return (
        VarlenPlan(VarlenCall(whole, whole, starts, starts, num_rows, num_rows, causal=True)),
        VarlenPlan(VarlenCall(slice(0, num_texts), whole, one_each, starts, 1, num_rows, causal=False)),
    )


def attend_varlen(query: Tensor, key: Tensor, value: Tensor, plan: VarlenPlan, kernel: VarlenKernel) -> Tensor:
    """Attention by a plan: own segments, then each depth of ancestors, merged by log-sum-exp. `[Q, H, D]`.

    The merge is in float32: `merged = lerp(mine, theirs, sigmoid(lse_theirs - lse_mine))`.

    Args:
        query: `[Q, H, D]`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        plan: What the query rows see.
        kernel: Runs one call.
    """
    own = plan.own
    output, normaliser = kernel(query[own.rows], key[own.keys], value[own.keys], own)
    if isinstance(own.rows, Tensor):
        output = torch.empty_like(output).index_put_((own.rows,), output)
        normaliser = torch.empty_like(normaliser).index_put_((own.rows,), normaliser)
    if not plan.context:
        return output
    merged = output.float()
    # A kernel may hand out a transposed view, or its own memory: what is written to here is ours.
    normaliser = normaliser.contiguous().clone()
    for call in plan.context:
        seen, seen_normaliser = kernel(query[call.rows], key[call.keys], value[call.keys], call)
        mine = normaliser[call.rows]
        share = torch.sigmoid(seen_normaliser - mine).unsqueeze(-1)
        merged[call.rows] = torch.lerp(merged[call.rows], seen.float(), share)
        normaliser[call.rows] = torch.logaddexp(mine, seen_normaliser)
    return merged.to(query.dtype)


def attend_planned(query: Tensor, key: Tensor, value: Tensor, plan: Plan, kernel: VarlenKernel | None = None) -> Tensor:
    """Attention by any kind of plan: what a layer calls. `[Q, H, D]`.

    Args:
        query: `[Q, H, D]`.
        key: `[S, G, D]`.
        value: `[S, G, D]`.
        plan: What the query rows see.
        kernel: For a `VarlenPlan`; torch's where it is None.
    """
    if isinstance(plan, VarlenPlan):
        return attend_varlen(query, key, value, plan, kernel or flash_kernel)
    if isinstance(plan, TextPlan):
        return plan.attend(query, key, value)
    return attend(query, key, value, plan)


def has_flash_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether `flash_kernel` may run here: half precision, heads it is built for, on Ampere or later.

    Source: `check_flash_attention_head_dim_size` and `check_sm_version` in torch's `sdp_utils.cpp`.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or head_dim % 8 or head_dim > 256:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401 - absent before torch 2.10
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def flash_kernel(query: Tensor, key: Tensor, value: Tensor, call: VarlenCall) -> tuple[Tensor, Tensor]:
    """torch's variable-length flash attention as a `VarlenKernel`."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    output, normaliser = varlen_attn(
        query,
        key,
        value,
        call.query_starts,
        call.key_starts,
        call.max_queries,
        call.max_keys,
        return_aux=AuxRequest(lse=True),
        window_size=(-1, 0) if call.causal else (-1, -1),
        enable_gqa=True,
    )
    # [H, Q], as the operator's fake implementation says; the docstring of `varlen_attn` has it the other way round.
    return output, normaliser.transpose(0, 1)


def _plan(layout: Layout, rows: Mapping[int, slice], *, causal: bool, device: torch.device) -> VarlenPlan:
    """The plan for query rows of some segments, given by segment."""
    # In the order of the keys, whatever that of the reads: neighbours' keys are then one slice, and a few query rows
    # are gathered rather than many keys.
    ordered = dict(sorted(rows.items()))
    depths: dict[int, dict[int, list[slice]]] = {}
    for index, part in ordered.items():
        for depth, ancestor in enumerate(reversed([*layout.ancestors(index)])):
            depths.setdefault(depth, {}).setdefault(ancestor, []).append(part)
    calls = [_call(layout, {index: [part] for index, part in ordered.items()}, causal)]
    calls += [_call(layout, dict(sorted(depths[depth].items())), False) for depth in sorted(depths)]
    own, *context = _to_device(calls, device)
    return VarlenPlan(own, tuple(context))


def _call(layout: Layout, below: Mapping[int, Sequence[slice]], causal: bool) -> VarlenCall:
    """A call, its numbers on the CPU: for each segment, the query rows that see its keys."""
    queries = [sum(part.stop - part.start for part in parts) for parts in below.values()]
    segments = [layout.segments[index] for index in below]
    return VarlenCall(
        rows=_join([part for parts in below.values() for part in parts]),
        keys=_join([slice(segment.start, segment.stop) for segment in segments]),
        query_starts=_starts(queries),
        key_starts=_starts([segment.length for segment in segments]),
        max_queries=max(queries),
        max_keys=max(segment.length for segment in segments),
        causal=causal,
    )


def _starts(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([*accumulate(lengths, initial=0)], dtype=torch.int32)


def _join(parts: Sequence[slice]) -> slice | Tensor:
    """What selects these rows in this order: one slice where they are neighbours (no copy), else an index."""
    if all(left.stop == right.start for left, right in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return torch.cat([torch.arange(part.start, part.stop, dtype=torch.int32) for part in parts])


def _to_device(calls: Sequence[VarlenCall], device: torch.device) -> list[VarlenCall]:
    """The calls with all of their numbers on the device, by one copy."""
    names = ("rows", "keys", "query_starts", "key_starts")
    found = [{name: part for name in names if isinstance(part := getattr(call, name), Tensor)} for call in calls]
    numbers = [part for parts in found for part in parts.values()]
    packed = torch.cat(numbers)
    if device.type == "cuda":
        packed = packed.pin_memory()  # so that the copy does not wait for the kernels before it
    placed = iter(torch.split(packed.to(device, non_blocking=True), [len(part) for part in numbers]))
    changes: list[dict[str, Any]] = [{name: next(placed) for name in parts} for parts in found]
    return [replace(call, **change) for call, change in zip(calls, changes, strict=True)]
