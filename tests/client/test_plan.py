"""Large lists in parts: every text once, in order, and the same result as in one request."""

import asyncio
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quernel.client.plan import MAX_PART_CHARACTERS, cut, plan_embedding, plan_rerank
from quernel.protocols.openai import decode_embedding_request, encode_embedding_response
from quernel.protocols.rerank import decode_rerank_request, encode_rerank_response
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest, RerankRequest

TEXTS = st.lists(st.text(max_size=8), min_size=1, max_size=20)


@given(st.lists(st.integers(0, MAX_PART_CHARACTERS * 2), max_size=30), st.integers(1, 8))
def test_parts_hold_every_text_once_within_both_bounds(lengths, most):
    parts = cut(lengths, most)
    assert [index for part in parts for index in range(part.start, part.stop)] == [*range(len(lengths))]
    for part in parts:
        size = part.stop - part.start
        assert size <= most
        assert size <= 1 or sum(lengths[part]) <= MAX_PART_CHARACTERS


@given(TEXTS, st.integers(1, 7))
def test_vectors_do_not_depend_on_the_parts(texts, most):
    model = FakeEmbeddingModel()
    request = EmbeddingRequest(inputs=texts, dimensions=32)

    def answer(exchange):
        call = decode_embedding_request(exchange.body)
        return encode_embedding_response(asyncio.run(model.embed(call.request)), call)

    plan = plan_embedding(request, "m", most)
    result = plan.merge([answer(exchange) for exchange in plan.exchanges])
    whole = asyncio.run(model.embed(request))
    assert np.array_equal(result.vectors, whole.vectors)
    assert (result.num_tokens, result.truncated) == (whole.num_tokens, whole.truncated)
    assert sum(exchange.num_texts for exchange in plan.exchanges) == len(texts)


@given(TEXTS, st.integers(1, 7), st.none() | st.integers(1, 25))
def test_the_order_of_documents_does_not_depend_on_the_parts(texts, most, top_n):
    model = FakeRerankModel()
    request = RerankRequest(query="what", documents=texts, top_n=top_n)

    def answer(exchange):
        call = decode_rerank_request(exchange.body)
        return encode_rerank_response(asyncio.run(model.rerank(call.request)), call, request_id="r")

    plan = plan_rerank(request, None, most)
    result = plan.merge([answer(exchange) for exchange in plan.exchanges])
    whole = asyncio.run(model.rerank(request))
    assert [document.index for document in result.results] == [document.index for document in whole.results]
    assert np.allclose([d.logit for d in result.results], [d.logit for d in whole.results])
    assert replace(result, results=()) == replace(whole, results=())
