import asyncio
import math

import numpy as np
import pytest

from quernel.types import ModelKind
from quernel.verification.checks import (
    COSINE_TOLERANCE,
    LOGIT_TOLERANCE,
    Outcome,
    check_embedding,
    check_reranker,
    compare_logits,
    compare_vectors,
    reads_as_token,
)
from quernel.verification.golden import CosineCase, RerankCase, SimilarityCase, VectorCase, load_golden
from tests.verification.fakes import FakeEmbedder, FakeReranker, info_of, vectors_with

CASES = {case.id: case for case in load_golden()}
SIMILARITY = CASES["embedding-0.6b-card-transformers"]
VLLM = CASES["embedding-0.6b-card-vllm"]
LOW_SIMILARITY = CASES["embedding-4b-gguf-q8"]
VECTOR = CASES["embedding-0.6b-tei-1"]
COSINE = CASES["embedding-0.6b-tei-cosine"]
RERANK = CASES["reranker-0.6b-st-test-red-planet"]
BOUNDS = CASES["reranker-8b-user-report"]


def check_similarities(case, similarities, dtype="float32"):
    model = FakeEmbedder(vectors_with(case, similarities), info_of(ModelKind.EMBEDDING, dtype))
    return asyncio.run(check_embedding(model, case))


def check_vector(vector, dtype="float32"):
    model = FakeEmbedder({(None, VECTOR.input): vector}, info_of(ModelKind.EMBEDDING, dtype))
    return {check.what: check for check in asyncio.run(check_embedding(model, VECTOR))}


def check_logits(case, logits, dtype="float32"):
    model = FakeReranker(dict(zip(case.documents, logits, strict=True)), info_of(ModelKind.RERANKER, dtype))
    return asyncio.run(check_reranker(model, case))


def outcomes(checks):
    return [check.outcome for check in checks]


@pytest.mark.parametrize("case", [case for case in CASES.values() if isinstance(case, SimilarityCase)])
def test_published_similarities_pass_in_every_type_that_has_a_tolerance(case):
    for dtype in case.tolerance:
        checks = check_similarities(case, case.expected, dtype)
        assert set(outcomes(checks)) == {Outcome.PASS}
        assert len(checks) == np.size(case.expected)


def test_each_similarity_is_judged_by_itself_and_named():
    similarities = np.array(SIMILARITY.expected)
    similarities[0, 1] += 2e-4
    checks = check_similarities(SIMILARITY, similarities)
    assert outcomes(checks) == ["pass", "fail", "pass", "pass"]
    assert checks[1].what == "query 1, document 2"
    assert math.isclose(checks[1].difference, 2e-4, rel_tol=1e-2)
    assert checks[1].expected == SIMILARITY.expected[0][1]


def test_the_tolerance_is_that_of_the_type_under_test():
    similarities = np.array(SIMILARITY.expected) + 2e-3
    assert set(outcomes(check_similarities(SIMILARITY, similarities, "float32"))) == {Outcome.FAIL}
    assert set(outcomes(check_similarities(SIMILARITY, similarities, "bfloat16"))) == {Outcome.PASS}


def test_a_type_without_a_tolerance_is_skipped_with_the_reason():
    (check,) = check_similarities(VLLM, VLLM.expected, "float32")
    assert check.outcome is Outcome.SKIPPED
    assert check.why == "recorded in bfloat16 with vLLM; no tolerance is known for float32"


def test_a_value_of_low_confidence_never_fails():
    checks = check_similarities(LOW_SIMILARITY, np.array(LOW_SIMILARITY.expected) - 0.3, "q8_0")
    assert set(outcomes(checks)) == {Outcome.DOUBTFUL}


def test_the_published_vector_passes():
    checks = check_vector(np.array(VECTOR.expected))
    assert outcomes(checks.values()) == ["pass", "pass"]


def test_a_vector_of_the_right_direction_and_the_wrong_length_fails_by_its_norm():
    checks = check_vector(2 * np.array(VECTOR.expected))
    assert checks["cosine"].outcome is Outcome.PASS
    assert checks["norm"].outcome is Outcome.FAIL
    assert VECTOR.note in checks["norm"].why


def test_a_vector_of_another_direction_fails_by_its_cosine_and_shows_the_largest_difference():
    checks = check_vector(np.roll(VECTOR.expected, 1))
    assert checks["cosine"].outcome is Outcome.FAIL
    assert "largest difference" in checks["cosine"].why
    assert checks["norm"].outcome is Outcome.PASS


@pytest.mark.parametrize(("dtype", "outcome"), [("float32", "fail"), ("bfloat16", "pass")])
def test_how_far_a_vector_may_turn_depends_on_the_type(dtype, outcome):
    expected = np.array(VECTOR.expected)
    aside = np.zeros_like(expected)
    aside[:2] = -expected[1], expected[0]
    aside *= math.tan(math.acos(0.9995)) * np.linalg.norm(expected) / np.linalg.norm(aside)
    assert check_vector(expected + aside, dtype)["cosine"].outcome == outcome


def test_a_vector_of_another_size_fails():
    assert outcomes(check_vector(np.ones(7)).values()) == ["fail"]


def test_nan_fails():
    assert set(outcomes(check_vector(np.full(1024, np.nan)).values())) == {Outcome.FAIL}
    assert set(outcomes(check_logits(RERANK, [math.nan] * 4))) == {Outcome.FAIL}


@pytest.mark.parametrize(("angle", "outcome"), [(0.0, Outcome.PASS), (0.01, Outcome.FAIL)])
def test_a_cosine_is_compared(angle, outcome):
    assert isinstance(COSINE, CosineCase)
    turned = math.acos(COSINE.expected) + angle
    vectors = {
        (None, COSINE.inputs[0]): np.array([3.0, 0.0]),
        (None, COSINE.inputs[1]): np.array([math.cos(turned), math.sin(turned)]),
    }
    model = FakeEmbedder(vectors, info_of(ModelKind.EMBEDDING))
    assert outcomes(asyncio.run(check_embedding(model, COSINE))) == [outcome]


@pytest.mark.parametrize("case", [case for case in CASES.values() if isinstance(case, RerankCase)])
def test_published_rerank_values_pass_in_every_type(case):
    expected = np.array(case.expected)
    logits = expected if case.unit == "logit_difference" else np.log(expected / (1 - expected))
    for dtype in ("float32", "bfloat16", "float16"):
        assert set(outcomes(check_logits(case, logits.tolist(), dtype))) == {Outcome.PASS}


def test_rerank_values_are_compared_document_by_document_though_answers_come_best_first():
    logits = list(RERANK.expected)
    logits[2] += 1
    checks = check_logits(RERANK, logits)
    assert outcomes(checks) == ["pass", "pass", "fail", "pass"]
    assert [check.expected for check in checks] == list(RERANK.expected)


def test_values_outside_their_bounds_or_out_of_order_are_doubtful_where_confidence_is_low():
    checks = check_logits(BOUNDS, [-3.0, -4.0, -9.0, -8.0])
    assert outcomes(checks) == ["doubtful", "doubtful", "pass", "pass", "pass"]
    assert outcomes(check_logits(BOUNDS, [3.5, -9.2, -8.0, -9.0]))[-1] == "doubtful"


def test_all_kinds_of_cases_are_covered_here():
    assert {type(case) for case in CASES.values()} == {SimilarityCase, VectorCase, CosineCase, RerankCase}


@pytest.mark.parametrize("dtype", COSINE_TOLERANCE)
def test_vectors_are_compared_with_the_reference_by_direction(dtype):
    expected = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    near, far = math.sqrt(COSINE_TOLERANCE[dtype]), 2 * math.sqrt(COSINE_TOLERANCE[dtype])
    got = np.array([[5.0, 0.0], [1.0, near], [1.0, far]], np.float32)
    checks = compare_vectors("abc", got, expected, dtype=dtype, source="test")
    assert outcomes(checks) == ["pass", "pass", "fail"]
    assert [check.what for check in checks] == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", LOGIT_TOLERANCE)
def test_logits_are_compared_with_the_reference_one_by_one(dtype):
    far = 2 * LOGIT_TOLERANCE[dtype]
    checks = compare_logits("ab", [1.0, 1.0], [1.0, 1.0 + far], dtype=dtype, source="test")
    assert outcomes(checks) == ["pass", "fail"]
    assert reads_as_token(checks[1]).outcome is Outcome.SKIPPED
