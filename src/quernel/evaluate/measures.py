"""Measures, and how sure one may be of them.

Each gives a number for every query (or pair, or sentence), whose mean is the figure: so figures have confidence
intervals, and two models can be compared pair by pair. Where a figure is no mean (a rank correlation, an F1, a
clustering), the interval comes from drawing the items anew.

Shapes:
    N   texts of one side                     M   texts of the other
    C   width of a vector
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quernel.types import Vectors

Items = npt.NDArray[np.float64]
"""A number for each item, `[N]`."""

CONFIDENCE = 0.95
NUM_RESAMPLES = 2_000
NUM_FLIPS = 10_000
SEED = 20_260_101


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its interval.

    Attributes:
        measure: What was measured.
        value: The figure.
        low: Lower end of the interval.
        high: Its upper end.
        items: A number for each item whose mean the figure is; empty where it is no mean.
        names: Of the items.
    """

    measure: str
    value: float
    low: float
    high: float
    items: Items
    names: Sequence[str] = ()


def figure_of_mean(measure: str, items: Mapping[str, float]) -> Figure:
    """The mean of numbers by item, with an interval by the bootstrap over items."""
    values = np.array(list(items.values()), dtype=np.float64)
    low, high = bootstrap(values.size, lambda chosen: float(values[chosen].mean()))
    return Figure(measure=measure, value=float(values.mean()), low=low, high=high, items=values, names=tuple(items))


def figure_of(measure: str, count: int, statistic: Callable[[npt.NDArray[np.intp]], float]) -> Figure:
    """A figure that is no mean, with an interval by the bootstrap over `count` items.

    Args:
        measure: What is measured.
        count: Items.
        statistic: The figure of the items at these positions, which may repeat.
    """
    low, high = bootstrap(count, statistic)
    return Figure(measure=measure, value=statistic(np.arange(count)), low=low, high=high, items=np.empty(0), names=())


def bootstrap(count: int, statistic: Callable[[npt.NDArray[np.intp]], float]) -> tuple[float, float]:
    """The middle 95 % of a statistic over items drawn with replacement.

    Source: B. Efron, 1979; the percentile method.
    """
    random = np.random.default_rng(SEED)
    values = [statistic(random.integers(0, count, count)) for _ in range(NUM_RESAMPLES)]
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How one model's figure differs from another's on the same items.

    Attributes:
        mean: The second minus the first.
        low: Lower end of the interval.
        high: Its upper end.
        p_value: How often chance alone would give such a difference, by a paired randomisation test.
    """

    mean: float
    low: float
    high: float
    p_value: float


def compare(first: Figure, second: Figure) -> Difference | None:
    """The difference of two figures that are means over the same items; None where they are not.

    The test flips the sign of each item's difference at random. Source: E. Noreen, 1989; for retrieval, Smucker, Allan
    and Carterette, CIKM 2007.
    """
    if not first.names or first.names != second.names:
        return None
    differences = second.items - first.items
    low, high = bootstrap(differences.size, lambda chosen: float(differences[chosen].mean()))
    random = np.random.default_rng(SEED)
    observed, num_as_large = abs(float(differences.mean())) - 1e-12, 0
    for _ in range(NUM_FLIPS):
        signs = random.integers(0, 2, differences.size) * 2 - 1
        num_as_large += abs(float((signs * differences).mean())) >= observed
    p_value = (1 + num_as_large) / (1 + NUM_FLIPS)
    return Difference(mean=float(differences.mean()), low=low, high=high, p_value=p_value)


def retrieval_figures(
    run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]], measures: Sequence[str]
) -> list[Figure]:
    """Measures of `ir_measures`, by name (`nDCG@10`, `R@100`, `RR@10`), over the queries of `qrels`.

    Args:
        run: Scores by query and document.
        qrels: Grades by query and document.
        measures: Names as https://ir-measur.es has them.
    """
    import ir_measures

    wanted = [ir_measures.parse_measure(name) for name in measures]
    found: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    for metric in ir_measures.iter_calc(wanted, dict(qrels), dict(run)):
        found[str(metric.measure)][metric.query_id] = float(metric.value)
    return [figure_of_mean(name, items) for name, items in found.items()]


def similarity_figures(cosines: Items, scores: Sequence[float]) -> list[Figure]:
    """Rank and linear correlation of cosines with what people said."""
    from scipy.stats import ConstantInputWarning, pearsonr, spearmanr

    said = np.asarray(scores, dtype=np.float64)

    def with_(correlation: Callable[[Items, Items], tuple[float, float]]) -> Callable[[npt.NDArray[np.intp]], float]:
        def measure(chosen: npt.NDArray[np.intp]) -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConstantInputWarning)  # a draw of few items may repeat one
                return float(correlation(cosines[chosen], said[chosen])[0])

        return measure

    return [figure_of("Spearman", len(said), with_(spearmanr)), figure_of("Pearson", len(said), with_(pearsonr))]


def translation_figures(left: Vectors, right: Vectors) -> list[Figure]:
    """Share of sentences whose translation is nearest, from either side and both.

    Args:
        left: Unit vectors `[N, C]`.
        right: Unit vectors `[N, C]`; row i is the translation of row i.
    """
    scores = left @ right.T
    place = np.arange(len(left))
    there, back = scores.argmax(axis=1) == place, scores.argmax(axis=0) == place
    return [figure_of_mean("accuracy", {str(i): (float(there[i]) + float(back[i])) / 2 for i in place})]


def classification_figures(
    train: Vectors, train_labels: Sequence[str], test: Vectors, test_labels: Sequence[str]
) -> list[Figure]:
    """A logistic regression on the vectors: accuracy, and the mean F1 of the labels. Source: mteb's classification."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    model = LogisticRegression(max_iter=1_000, random_state=SEED).fit(train, list(train_labels))
    predicted, expected = model.predict(test), np.asarray(list(test_labels))
    right = {str(index): float(hit) for index, hit in enumerate(predicted == expected)}

    def f1(chosen: npt.NDArray[np.intp]) -> float:
        return float(f1_score(expected[chosen], predicted[chosen], average="macro", zero_division=0))

    return [figure_of_mean("accuracy", right), figure_of("F1", len(expected), f1)]


def clustering_figures(vectors: Vectors, labels: Sequence[str]) -> list[Figure]:
    """V-measure of k-means with as many clusters as there are labels, the mean of ten starts. Source: mteb."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    names = np.asarray(list(labels))
    starts = {}
    for start in range(10):
        model = MiniBatchKMeans(n_clusters=len(set(labels)), random_state=start, n_init=1, batch_size=512)
        starts[str(start)] = float(v_measure_score(names, model.fit_predict(vectors)))
    return [figure_of_mean("V-measure", starts)]


def following_figures(
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    changed_qrels: Mapping[str, Mapping[str, int]],
) -> list[Figure]:
    """p-MRR: how the documents that an instruction no longer wants change their rank, from -1 to 1.

    The mean over queries of the mean over such documents of `rank_change`. Source: Weller et al., "FollowIR",
    arXiv 2403.15246, equation 1.

    Args:
        before: Scores by query and document under the original instruction.
        after: The same under the changed one.
        qrels: Grades under the original instruction.
        changed_qrels: Grades under the changed one.
    """
    items = {}
    for query, grades in qrels.items():
        ranks = [_ranks(run[query]) for run in (before, after)]
        gone = [
            document
            for document, grade in grades.items()
            if grade > 0 and changed_qrels.get(query, {}).get(document, 0) <= 0 and document in ranks[0]
        ]
        if gone:
            items[query] = float(np.mean([rank_change(ranks[0][one], ranks[1][one]) for one in gone]))
    return [figure_of_mean("p-MRR", items)]


def rank_change(before: int, after: int) -> float:
    """How a document that is not wanted any more has moved: above 0 if down, as it should; at most 1."""
    return 1 - before / after if after >= before else after / before - 1


def _ranks(scores: Mapping[str, float]) -> dict[str, int]:
    ordered = sorted(scores, key=lambda document: (-scores[document], document))
    return {document: rank for rank, document in enumerate(ordered, 1)}
