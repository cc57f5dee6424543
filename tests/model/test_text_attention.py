"""Attention of packed texts in groups: the definition's values and gradients, whatever the lengths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel.model.attention import reference_attention
from quernel.model.layout import Layout
from quernel.model.text_attention import SCORES_TO, plan_texts

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def rows(num_rows, *, query_heads=4, heads=2, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(num_rows, query_heads, width), (num_rows, heads, width), (num_rows, heads, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@settings(max_examples=40, deadline=None)
@given(LENGTHS)
def test_all_rows_have_the_values_and_gradients_of_the_definition(lengths):
    plan, _ = plan_texts(lengths, torch.device("cpu"))
    parts, direction = rows(sum(lengths)), torch.randn(sum(lengths), 4, 8, dtype=torch.float64)
    out = plan.attend(*parts)
    wanted = reference_attention(*parts, Layout.from_lengths(lengths))
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)  # the reference computes in float32
    own = torch.autograd.grad(out, parts, direction)
    theirs = torch.autograd.grad(wanted, parts, direction)
    torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(LENGTHS)
def test_last_rows_are_those_of_all_rows(lengths):
    all_rows, last_rows = plan_texts(lengths, torch.device("cpu"))
    query, key, value = rows(sum(lengths))
    ends = torch.tensor(lengths).cumsum(0) - 1
    out = last_rows.attend(query[ends], key, value)
    wanted = all_rows.attend(query, key, value)[ends]
    torch.testing.assert_close(out, wanted)
    direction = torch.randn(out.shape, dtype=torch.float64)
    own = torch.autograd.grad(out, [query, key, value], direction)
    torch.testing.assert_close(own, torch.autograd.grad(wanted, [query, key, value], direction))


def test_longer_texts_take_the_blocked_kernel():
    lengths = [SCORES_TO + 9, 3]
    plan, _ = plan_texts(lengths, torch.device("cpu"))
    parts = [part.detach().float() for part in rows(sum(lengths))]
    wanted = reference_attention(*parts, Layout.from_lengths(lengths))
    torch.testing.assert_close(plan.attend(*parts), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [3, 200, 4, 190, 60]])
def test_groups_waste_little(lengths):
    plan, _ = plan_texts(lengths, torch.device("cpu"))
    assert sum(texts for texts, _ in plan.groups) == len(lengths)
    assert len(plan.spread) <= 1.2 * sum(lengths)
