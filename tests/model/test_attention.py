import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel.model.attention import (
    _attend_by_matrix,
    _attend_on_cpu,
    attend,
    forest_mask,
    plan_reads,
    plan_rows,
    reference_attention,
)
from quernel.model.layout import Layout
from tests.model.forests import build_layout, layouts, path_rows

HEADS = st.sampled_from([(1, 1), (4, 2), (6, 2), (7, 1), (5, 5), (16, 8)])
"""Query heads and key/value heads."""


CPU = torch.device("cpu")


def forest_attention(query, key, value, layout):
    return attend(query, key, value, plan_rows(layout, 0, layout.num_tokens, CPU))


def last_token_attention(query, key, value, layout):
    return attend(query, key, value, plan_reads(layout, CPU))


def random_inputs(layout, heads, head_dim=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(layout.num_tokens, count, head_dim) for count in (heads[0], heads[1], heads[1])]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def assert_close(ours, reference, limit=3e-6):
    difference = (ours.float() - reference.float()).abs().max().item()
    assert ours.shape == reference.shape
    assert difference <= limit, f"largest difference {difference:.2e}"


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_forest_attention_is_the_definition(layout, heads, seed):
    query, key, value = random_inputs(layout, heads, seed=seed)
    assert_close(forest_attention(query, key, value, layout), reference_attention(query, key, value, layout))


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_read_rows_get_what_they_get_among_all_rows(layout, heads, seed):
    query, key, value = random_inputs(layout, heads, seed=seed)
    last_rows = [layout.segments[index].stop - 1 for index in layout.reads]
    reference = reference_attention(query, key, value, layout)[last_rows]
    assert_close(last_token_attention(query[last_rows], key, value, layout), reference)


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99), size=st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_rows_in_chunks_get_what_they_get_at_once(layout, heads, seed, size):
    query, key, value = random_inputs(layout, heads, seed=seed)
    whole = reference_attention(query, key, value, layout)
    for start in range(0, layout.num_tokens, size):
        stop = min(start + size, layout.num_tokens)
        plan = plan_rows(layout, start, stop, CPU)
        assert_close(attend(query[start:stop], key, value, plan), whole[start:stop])


@given(layout=layouts(), heads=HEADS, seed=st.integers(0, 99), num_known=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_rows_below_cached_segments_get_what_they_get_among_all_rows(layout, heads, seed, num_known):
    """The first segments of any layout are closed upwards: their ancestors are among them."""
    query, key, value = random_inputs(layout, heads, seed=seed)
    num_known = min(num_known, len(layout.segments) - 1)
    start = layout.segments[num_known].start
    below = Layout(layout.segments, (len(layout.segments) - 1,), num_cached=start)
    whole = reference_attention(query, key, value, layout)
    assert_close(forest_attention(query[start:], key, value, below), whole[start:])
    assert_close(reference_attention(query[start:], key, value, below), whole[start:])
    assert_close(last_token_attention(query[-1:], key, value, below), whole[-1:])


@given(layout=layouts())
@settings(max_examples=50, deadline=None)
def test_a_row_sees_its_path_up_to_itself(layout):
    mask = forest_mask(layout)
    for index, segment in enumerate(layout.segments):
        path = path_rows(layout, index)
        for row in range(segment.start, segment.stop):
            assert mask[row].nonzero().flatten().tolist() == sorted(path[: path.index(row) + 1])


def test_equal_segments_below_one_parent_get_equal_rows():
    layout = build_layout([5, 3, 3], [None, 0, 0], [1, 2])
    query, key, value = random_inputs(layout, (4, 2))
    for part in (query, key, value):
        part[8:11] = part[5:8]
    attended = forest_attention(query, key, value, layout)
    assert_close(attended[5:8], attended[8:11], limit=1e-6)


def test_scores_of_any_size_stay_finite():
    layout = build_layout([4, 1, 6], [None, 0, 0], [1, 2])
    query, key, value = random_inputs(layout, (4, 2))
    attended = forest_attention(query * 1e3, key * 1e3, value, layout)
    assert torch.isfinite(attended).all()
    assert_close(attended, reference_attention(query * 1e3, key * 1e3, value, layout), limit=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_definition_to_its_rounding(dtype):
    layout = build_layout([7, 1, 5, 2, 9], [None, 0, 0, 2, None], [1, 3, 4])
    query, key, value = random_inputs(layout, (6, 2), head_dim=16, dtype=dtype)
    attended = forest_attention(query, key, value, layout)
    assert attended.dtype is dtype
    assert_close(attended, reference_attention(query, key, value, layout), limit=2e-2)


@pytest.mark.parametrize("causal", [True, False])
def test_the_kernels_of_all_devices_give_the_same_output_and_normaliser(causal):
    query, key, value = random_inputs(Layout.from_lengths([11]), (4, 4))
    parts = [part.transpose(0, 1).unsqueeze(0) for part in (query, key, value)]
    for ours, reference in zip(_attend_by_matrix(*parts, causal), _attend_on_cpu(*parts, causal), strict=True):
        assert_close(ours, reference)
