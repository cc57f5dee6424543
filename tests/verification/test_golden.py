import numpy as np

from quernel.catalog.catalog import load_official_cards
from quernel.verification.golden import (
    CosineCase,
    RerankCase,
    SimilarityCase,
    VectorCase,
    load_golden,
    published_models,
)


def test_every_official_model_has_a_published_value_and_no_other_has():
    assert set(published_models()) == {card.name for card in load_official_cards()}


def test_names_of_cases_are_unique():
    names = [case.id for case in load_golden()]
    assert len(names) == len(set(names))


def test_every_case_names_its_source_and_says_when_it_differs():
    for case in load_golden():
        assert case.source
        assert case.tolerance or (isinstance(case, RerankCase) and case.bounds), case.id


def test_every_case_belongs_to_a_model_of_its_kind_and_has_one_value_for_each_input():
    cards = {card.name: card for card in load_official_cards()}
    for case in load_golden():
        assert (cards[case.model].kind == "reranker") == isinstance(case, RerankCase)
        match case:
            case SimilarityCase():
                assert np.shape(case.expected) == (len(case.queries), len(case.documents))
            case VectorCase():
                assert len(case.expected) == cards[case.model].dimensions
            case RerankCase():
                assert len(case.expected) == len(case.documents)
                assert case.bounds is None or len(case.bounds) == len(case.documents)
            case CosineCase():
                assert -1 <= case.expected <= 1


def test_the_published_vectors_have_their_published_norm_and_cosine():
    first, second = (case for case in load_golden() if isinstance(case, VectorCase))
    for case in (first, second):
        assert np.isclose(np.linalg.norm(case.expected), case.expected_norm, rtol=1e-5)
    (cosine,) = (case for case in load_golden() if isinstance(case, CosineCase))
    assert cosine.inputs == (first.input, second.input)
    got = np.dot(first.expected, second.expected) / (first.expected_norm * second.expected_norm)
    assert np.isclose(got, cosine.expected, atol=1e-5)
