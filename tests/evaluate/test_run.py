import math

import numpy as np
import pytest

from quernel.evaluate.run import Settings, as_form, evaluate_embedding, evaluate_reranker
from quernel.evaluate.tasks import (
    Classification,
    Clustering,
    Following,
    Similarity,
    Translations,
    find_tasks,
    read_task,
)
from quernel.protocols.vectors import OutputDtype
from quernel.types import InputType
from tests.evaluate.conftest import LengthReranker


def value(results, measure=None):
    figures = results[0].figures
    return next(figure.value for figure in figures if measure in (None, figure.measure))


def test_retrieval_finds_what_the_vectors_say(model, retrieval):
    task = read_task(find_tasks(retrieval)[0])
    results, run = evaluate_embedding(model, task, Settings(depth=2))
    # "sun" is nearer to "sun sun sun fish" than to "fish sun", which is the answer.
    assert list(run["b"]) == ["4", "2"]
    assert value(results, "nDCG@10") == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert {request.input_type for request in model.requests} == {InputType.QUERY, InputType.DOCUMENT}
    assert results[0].num_texts == 7


def test_a_reranker_orders_what_was_found(model, retrieval):
    task = read_task(find_tasks(retrieval)[0])
    results, run = evaluate_embedding(model, task, Settings(depth=2))
    reranked = evaluate_reranker(LengthReranker(), task, run, Settings(), first=results[0])
    assert reranked.model == "words + short"
    assert reranked.figures[0].items.tolist() == [0.6309297535714575, 1.0]  # "dog" is shorter than "cat cat"
    assert reranked.num_texts == 4


def test_every_form_is_measured_from_one_reading(model, retrieval):
    task = read_task(find_tasks(retrieval)[0])
    settings = Settings(dimensions=(16, 8, 99), dtypes=(OutputDtype.FLOAT, OutputDtype.BINARY))
    results, _ = evaluate_embedding(model, task, settings)
    assert [(one.dimensions, one.dtype) for one in results] == [
        (16, "float"), (16, "binary"), (8, "float"), (8, "binary"),
    ]  # fmt: skip
    assert len(model.requests) == 2


def test_forms_are_those_that_clients_get():
    vectors = np.array([[3.0, 4.0, 12.0]], dtype=np.float32) / 13
    np.testing.assert_allclose(as_form(vectors, 2, OutputDtype.FLOAT), [[0.6, 0.8]], atol=1e-6)
    assert len(np.unique(np.abs(as_form(vectors, 3, OutputDtype.UBINARY)))) == 1
    np.testing.assert_allclose(as_form(vectors, 3, OutputDtype.INT8), vectors, atol=0.01)
    assert not as_form(np.zeros((1, 4), dtype=np.float32), 2, OutputDtype.FLOAT).any()


def test_other_kinds(model):
    similarity = Similarity(name="s", first=["cat", "sun", "dog"], second=["cat", "moon", "dog fish"], scores=[5, 0, 3])
    assert value(evaluate_embedding(model, similarity, Settings())[0]) == pytest.approx(1)
    assert model.requests[-1].instruction == "Retrieve semantically similar text"
    translations = Translations(name="t", left=["Katze", "Hund"], right=["cat", "dog"])
    assert value(evaluate_embedding(model, translations, Settings(instructions=False))[0]) == 1
    assert model.requests[-1].instruction is None
    groups = Clustering(name="c", texts=["cat"] * 5 + ["sun"] * 5, labels=["a"] * 5 + ["b"] * 5)
    assert value(evaluate_embedding(model, groups, Settings())[0]) == pytest.approx(1)
    task = Classification(
        name="k", train=["cat", "sun"] * 4, train_labels=["a", "b"] * 4, test=["cat", "sun"], test_labels=["a", "b"]
    )
    assert value(evaluate_embedding(model, task, Settings())[0]) == 1


def test_instructions_that_change(model):
    task = Following(
        name="f",
        documents={"1": "cat", "2": "dog", "3": "moon"},
        queries={"q": "cat dog"},
        instructions={"q": ("any pets", "pets but not cat")},
        candidates={"q": ["1", "2", "3"]},
        qrels={"q": {"1": 1, "2": 1}},
        changed_qrels={"q": {"1": 0, "2": 1}},
    )
    results, run = evaluate_embedding(model, task, Settings())
    assert run is None
    assert value(results) == pytest.approx(1 - 1 / 2)  # from the first place to the second


def test_texts_that_come_twice_are_read_once(model):
    evaluate_embedding(model, Clustering(name="c", texts=["cat", "sun"] * 10, labels=["a", "b"] * 10), Settings())
    assert model.requests[0].inputs == ["cat", "sun"]
