"""Losses on numbers checked by hand."""

import math

import pytest
import torch

from quernel.train.losses import cosent, distillation, info_nce, matryoshka

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def test_info_nce_is_the_mean_log_loss_of_both_directions():
    queries, documents = torch.tensor([EAST, NORTH]), torch.tensor([EAST, EAST])
    # Scores [[1, 1], [0, 0]] at temperature 1. Queries choose between equals: log 2 twice. Documents: the first has its
    # query at 1 against 0, the second at 0 against 1.
    by_document = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    loss = info_nce(queries, documents, torch.tensor([0, 1]), temperature=1.0, margin=None)
    assert loss.item() == pytest.approx((math.log(2) + by_document) / 2)


def test_rows_of_one_group_are_never_negatives_of_each_other():
    vectors = torch.tensor([EAST, EAST])
    assert info_nce(vectors, vectors, torch.tensor([7, 7]), temperature=1.0, margin=None).item() == pytest.approx(0)
    assert info_nce(vectors, vectors, torch.tensor([7, 8]), temperature=1.0, margin=None).item() == pytest.approx(
        math.log(2)
    )


def test_a_negative_beyond_the_margin_is_left_out():
    queries, documents = torch.tensor([EAST, NORTH]), torch.tensor([NORTH, EAST])
    groups = torch.tensor([0, 1])
    assert info_nce(queries, documents, groups, temperature=1.0, margin=0.1).item() == pytest.approx(0)
    assert info_nce(queries, documents, groups, temperature=1.0, margin=None).item() == pytest.approx(
        math.log(1 + math.e)
    )


def test_matryoshka_cuts_then_normalises():
    vectors = torch.tensor([[3.0, 4.0]])
    firsts = matryoshka(lambda part: part[:, 0].sum(), vectors, dimensions=(2, 1))
    assert firsts.item() == pytest.approx((0.6 + 1.0) / 2)


def test_distillation_is_zero_at_the_teacher_and_counts_both_terms_elsewhere():
    targets = torch.tensor([EAST, NORTH])
    assert distillation(targets, targets).item() == pytest.approx(0)
    # Both at EAST: one vector is right; two of four similarities are 1 instead of 0.
    assert distillation(torch.tensor([EAST, EAST]), targets).item() == pytest.approx(0.5 + 10 * 0.5)


def test_cosent_wants_the_judged_order():
    first, second = torch.tensor([EAST, EAST]), torch.tensor([EAST, NORTH])  # cosines 1 and 0
    right = cosent(first, second, torch.tensor([0.9, 0.1]), temperature=1.0)
    wrong = cosent(first, second, torch.tensor([0.1, 0.9]), temperature=1.0)
    assert right.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert wrong.item() == pytest.approx(math.log(1 + math.e))
    assert cosent(first, second, torch.tensor([0.5, 0.5]), temperature=1.0).item() == pytest.approx(0)
