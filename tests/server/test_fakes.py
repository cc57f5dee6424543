import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import InputTooLongError, InvalidRequestError
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingModel, EmbeddingRequest, InputType, RerankModel, RerankRequest, Truncate


def embed(model, *inputs, **options):
    return asyncio.run(model.embed(EmbeddingRequest(inputs=inputs, **options)))


def test_the_fakes_are_models():
    assert isinstance(FakeEmbeddingModel(), EmbeddingModel)
    assert isinstance(FakeRerankModel(), RerankModel)
    assert not isinstance(FakeRerankModel(), EmbeddingModel)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_vector_does_not_depend_on_what_it_was_sent_with(texts):
    model = FakeEmbeddingModel()
    together = embed(model, *texts).vectors
    alone = [embed(FakeEmbeddingModel(), text).vectors[0] for text in texts]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)


def test_prompts_change_the_vector_and_count_as_tokens():
    model = FakeEmbeddingModel()
    plain, query = embed(model, "a"), embed(model, "a", input_type=InputType.QUERY)
    assert plain.num_tokens == (2,)
    assert query.num_tokens > plain.num_tokens
    assert not np.array_equal(plain.vectors, query.vectors)
    np.testing.assert_array_equal(query.vectors, embed(model, "a", prompt_name="query").vectors)
    with pytest.raises(InvalidRequestError):
        embed(model, "a", prompt_name="unknown")


def test_a_cut_keeps_the_named_side():
    model = FakeEmbeddingModel(max_tokens=3)
    for truncate, kept in ((Truncate.END, "a b"), (Truncate.START, "b c")):
        cut = embed(model, "a b c", truncate=truncate)
        np.testing.assert_array_equal(cut.vectors, embed(model, kept).vectors)
        assert (cut.truncated, cut.num_tokens) == ((True,), (3,))
    with pytest.raises(InputTooLongError, match="has 4 tokens, but this model reads 3"):
        embed(model, "a b c")


def test_documents_are_ranked_by_shared_words_and_ties_keep_their_order():
    request = RerankRequest(query="a b", documents=["x", "b", "b a", "a"])
    result = asyncio.run(FakeRerankModel().rerank(request))
    assert [document.index for document in result.results] == [2, 1, 3, 0]
