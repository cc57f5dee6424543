import math

import numpy as np
import pytest

from quernel.evaluate.measures import (
    bootstrap,
    classification_figures,
    clustering_figures,
    compare,
    figure_of_mean,
    following_figures,
    rank_change,
    retrieval_figures,
    similarity_figures,
    translation_figures,
)


def by_name(figures):
    return {figure.measure: figure.value for figure in figures}


def test_retrieval_by_hand():
    run = {"a": {"x": 3.0, "y": 2.0, "z": 1.0}, "b": {"x": 1.0, "z": 0.5}}
    qrels = {"a": {"y": 1}, "b": {"x": 1, "q": 1}, "none found": {"r": 1}}
    figures = retrieval_figures(run, qrels, ["nDCG@10", "RR@10", "R@100"])
    values = by_name(figures)
    second = 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx((second + 1 / (1 + second) + 0) / 3)
    assert values["RR@10"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert values["R@100"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert dict(zip(figures[1].names, figures[1].items, strict=True)) == {"a": 0.5, "b": 1.0, "none found": 0.0}


def test_similarity_is_that_of_ranks():
    figures = similarity_figures(np.array([0.1, 0.2, 0.9, 0.95]), [1, 2, 3, 4])
    assert by_name(figures)["Spearman"] == pytest.approx(1)
    assert by_name(figures)["Pearson"] < 1
    assert figures[0].low <= figures[0].value <= figures[0].high


def test_translations_are_found_from_both_sides():
    left = np.eye(3, dtype=np.float32)
    right = np.eye(3, dtype=np.float32)[[0, 1, 1]]  # the third of the right is the second again
    values = by_name(translation_figures(left, right))
    assert values["accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_classification_learns_and_is_counted():
    draw = np.random.default_rng(0)
    centres = {"a": np.array([1, 0]), "b": np.array([0, 1])}
    labels = ["a", "b"] * 20
    vectors = np.stack([centres[label] + 0.05 * draw.standard_normal(2) for label in labels]).astype(np.float32)
    figures = by_name(classification_figures(vectors, labels, vectors[:4], ["a", "b", "a", "a"]))
    assert figures["accuracy"] == 0.75
    assert figures["F1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_clusters_are_found():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    assert by_name(clustering_figures(vectors, [str(i // 20) for i in range(60)]))["V-measure"] == pytest.approx(1)
    mixed = by_name(clustering_figures(vectors, [str(i % 3) for i in range(60)]))["V-measure"]
    assert mixed == pytest.approx(0, abs=0.05)


def test_p_mrr_by_hand():
    assert rank_change(1, 4) == 0.75  # from first to fourth: it is not wanted any more
    assert rank_change(4, 1) == -0.75
    assert rank_change(3, 3) == 0
    before = {"q": {"x": 3.0, "y": 2.0, "z": 1.0}}
    after = {"q": {"x": 1.0, "y": 3.0, "z": 2.0}}
    [figure] = following_figures(before, after, {"q": {"x": 1, "y": 1}}, {"q": {"x": 0, "y": 1}})
    assert figure.value == pytest.approx(1 - 1 / 3)


def test_an_interval_covers_the_mean_of_what_it_was_drawn_from():
    hits = 0
    for seed in range(100):
        values = np.random.default_rng(seed).normal(0.3, 1, 60)
        figure = figure_of_mean("m", {str(i): value for i, value in enumerate(values)})
        hits += figure.low <= 0.3 <= figure.high
    assert 87 <= hits <= 99


def test_a_statistic_that_fails_on_some_draws_still_has_an_interval():
    low, high = bootstrap(3, lambda chosen: float("nan") if len(set(chosen)) == 1 else 1.0)
    assert (low, high) == (1.0, 1.0)


def items(values):
    return figure_of_mean("m", {str(i): float(value) for i, value in enumerate(values)})


def test_equal_models_are_not_different_and_better_ones_are():
    draw = np.random.default_rng(1)
    base = draw.uniform(size=80)
    same = compare(items(base), items(base))
    assert (same.mean, same.p_value) == (0, 1)
    better = compare(items(base), items(base + draw.normal(0.2, 0.1, 80)))
    assert better.p_value < 0.001
    assert better.low > 0
    assert better.mean == pytest.approx(0.2, abs=0.05)


def test_under_no_difference_the_p_value_is_uniform():
    small = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        base = draw.uniform(size=30)
        small += compare(items(base), items(base + draw.normal(0, 0.1, 30))).p_value < 0.2
    assert 4 <= small <= 22


def test_figures_over_other_items_cannot_be_compared():
    assert compare(items([1, 2]), items([1, 2, 3])) is None
