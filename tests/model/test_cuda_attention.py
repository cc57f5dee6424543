"""The plan and the merge are tested here, with a loop in place of the CUDA kernel; the kernel where there is a GPU."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel.model.attention import plan_reads, reference_attention
from quernel.model.cuda_attention import (
    attend_planned,
    attend_varlen,
    flash_kernel,
    has_flash_kernel,
    plan_texts,
    plan_varlen_reads,
    plan_varlen_rows,
)
from quernel.model.layout import Layout
from tests.model.forests import build_layout, layouts
from tests.model.test_attention import CPU, HEADS, assert_close, random_inputs


def loop_kernel(query, key, value, call):
    """Each sequence by the textbook. Rows of no sequence are NaN: the plan must leave none."""
    shared = query.shape[1] // key.shape[1]
    output = torch.full_like(query, math.nan)
    normaliser = torch.full(query.shape[:2], math.nan)
    bounds = (pairwise(starts.tolist()) for starts in (call.query_starts, call.key_starts))
    for (start, stop), (first, last) in zip(*bounds, strict=True):
        assert stop - start <= call.max_queries
        assert last - first <= call.max_keys
        wide = [part[first:last].repeat_interleave(shared, dim=1).float() for part in (key, value)]
        scores = torch.einsum("qhd,khd->qhk", query[start:stop].float(), wide[0]) / math.sqrt(query.shape[-1])
        if call.causal:
            future = torch.ones(stop - start, last - first, dtype=torch.bool).triu(last - first - (stop - start) + 1)
            scores = scores.masked_fill(future.unsqueeze(1), -math.inf)
        output[start:stop] = torch.einsum("qhk,khd->qhd", scores.softmax(-1), wide[1]).to(query.dtype)
        normaliser[start:stop] = scores.logsumexp(-1)
    return output, normaliser


def forest_attention(query, key, value, layout):
    return attend_varlen(query, key, value, plan_varlen_rows(layout, CPU), loop_kernel)


def read_attention(query, key, value, layout):
    return attend_varlen(query, key, value, plan_varlen_reads(layout, CPU), loop_kernel)


def last_rows(layout):
    return [layout.rows(index).stop - 1 for index in layout.reads]


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_forest_attention_is_the_definition(layout, heads, seed):
    query, key, value = random_inputs(layout, heads, seed=seed)
    assert_close(forest_attention(query, key, value, layout), reference_attention(query, key, value, layout))


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_read_rows_get_what_they_get_among_all_rows(layout, heads, seed):
    query, key, value = random_inputs(layout, heads, seed=seed)
    rows = last_rows(layout)
    reference = reference_attention(query, key, value, layout)[rows]
    assert_close(read_attention(query[rows], key, value, layout), reference)


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99), num_known=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_rows_below_cached_segments_get_what_they_get_among_all_rows(layout, heads, seed, num_known):
    """The first segments of any layout are closed upwards: their ancestors are among them."""
    query, key, value = random_inputs(layout, heads, seed=seed)
    whole = reference_attention(query, key, value, layout)
    num_known = min(num_known, len(layout.segments) - 1)
    start = layout.segments[num_known].start
    reads = tuple(index for index in layout.reads if index >= num_known) or (num_known,)
    below = Layout(layout.segments, reads, num_cached=start)
    assert_close(forest_attention(query[start:], key, value, below), whole[start:])
    rows = [start + row for row in last_rows(below)]
    assert_close(read_attention(query[rows], key, value, below), whole[rows])


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12), heads=HEADS)
@settings(max_examples=30, deadline=None)
def test_a_deep_chain_is_one_causal_text(lengths, heads):
    chain = build_layout(lengths, [None, *range(len(lengths) - 1)], [len(lengths) - 1])
    query, key, value = random_inputs(chain, heads)
    whole = reference_attention(query, key, value, Layout.from_lengths([sum(lengths)]))
    assert_close(forest_attention(query, key, value, chain), whole)
    assert_close(read_attention(query[-1:], key, value, chain), whole[-1:])


@given(layout=layouts())
@settings(max_examples=50, deadline=None)
def test_launches_are_counted_by_depth_and_not_by_segments(layout):
    depths = [len([*layout.ancestors(index)]) for index in range(len(layout.segments))]
    assert len(plan_varlen_rows(layout, CPU).context) == max(depths)
    assert len(plan_varlen_reads(layout, CPU).context) == max(depths[index] for index in layout.reads)


def test_what_requests_look_like_is_attended_to_without_a_gather():
    """Texts on their own, and an instruction with its queries, read in any order: rows and keys are slices."""
    texts, shared = Layout.from_lengths([3, 4, 5]), build_layout([6, 2, 3, 2], [None, 0, 0, 0], [1, 2, 3])
    for layout in (texts, shared):
        for plan in (plan_varlen_rows(layout, CPU), plan_varlen_reads(layout, CPU)):
            assert all(isinstance(part, slice) for call in (plan.own, *plan.context) for part in (call.rows, call.keys))
    assert isinstance(plan_varlen_reads(Layout(texts.segments, (2, 0, 1)), CPU).own.keys, slice)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any), heads=HEADS, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_texts_whose_lengths_only_the_device_knows_are_texts(lengths, heads, seed):
    full = [length for length in lengths if length]
    layout = Layout.from_lengths(full)
    query, key, value = random_inputs(layout, heads, seed=seed)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    rows, reads = plan_texts(starts, sum(lengths))
    whole = reference_attention(query, key, value, layout)
    assert_close(attend_varlen(query, key, value, rows, loop_kernel), whole)
    ends = (starts[1:].long() - 1).clamp(min=0)
    read = attend_varlen(query[ends], key, value, reads, loop_kernel)
    present = torch.tensor(lengths) > 0
    assert_close(read[present], whole[ends[present]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_definition_to_its_rounding(dtype):
    layout = build_layout([7, 1, 5, 2, 9], [None, 0, 0, 2, None], [1, 3, 4])
    query, key, value = random_inputs(layout, (6, 2), head_dim=16, dtype=dtype)
    attended = forest_attention(query, key, value, layout)
    assert attended.dtype is dtype
    assert_close(attended, reference_attention(query, key, value, layout), limit=2e-2)


def test_scores_of_any_size_stay_finite():
    layout = build_layout([4, 1, 6], [None, 0, 0], [1, 2])
    query, key, value = random_inputs(layout, (4, 2))
    attended = forest_attention(query * 1e3, key * 1e3, value, layout)
    assert torch.isfinite(attended).all()


def test_a_plain_plan_is_attended_to_as_before():
    layout = build_layout([4, 1, 6], [None, 0, 0], [1, 2])
    query, key, value = random_inputs(layout, (4, 2))
    rows = last_rows(layout)
    varlen = attend_planned(query[rows], key, value, plan_varlen_reads(layout, CPU), loop_kernel)
    assert_close(varlen, attend_planned(query[rows], key, value, plan_reads(layout, CPU)))


def test_there_is_no_flash_kernel_on_a_cpu():
    assert not has_flash_kernel(CPU, torch.bfloat16, 128)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_flash_kernel_is_the_loop():
    device = torch.device("cuda")
    layout = build_layout([70, 1, 5, 200, 9], [None, 0, 0, 2, None], [4, 1, 3])
    query, key, value = random_inputs(layout, (16, 8), head_dim=128, dtype=torch.bfloat16)
    inputs = [part.to(device) for part in (query, key, value)]
    ours = attend_varlen(*inputs, plan_varlen_rows(layout, device), flash_kernel).cpu()
    assert_close(ours, forest_attention(query, key, value, layout), limit=3e-2)
    rows = last_rows(layout)
    ours = attend_varlen(inputs[0][rows], *inputs[1:], plan_varlen_reads(layout, device), flash_kernel).cpu()
    assert_close(ours, read_attention(query[rows], key, value, layout), limit=3e-2)
