"""vLLM's `/score` and `/pooling`, from both ends."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quernel.errors import EmptyInputError, InternalError, InvalidRequestError
from quernel.protocols import vllm
from quernel.protocols.vectors import VectorEncoding
from quernel.types import EmbeddingRequest, EmbeddingResult, RankedDocument, RerankRequest, RerankResult, Truncate

texts = st.text(st.characters(exclude_categories=["Cs"]))
queries = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
cuts = st.sampled_from([Truncate.ERROR, Truncate.END])


@st.composite
def score_calls(draw):
    common = {
        "instruction": draw(st.none() | texts),
        "truncate": draw(cuts),
        "max_tokens_per_document": draw(st.none() | st.integers(1, 10_000)),
    }
    if draw(st.booleans()):
        requests = [RerankRequest(query=draw(queries), documents=draw(st.lists(texts, min_size=1)), **common)]
    else:
        pairs = draw(st.lists(st.tuples(queries, texts), min_size=2))
        requests = [RerankRequest(query=query, documents=[document], **common) for query, document in pairs]
    return vllm.ScoreCall(requests=tuple(requests), model=draw(st.none() | texts), raw_scores=draw(st.booleans()))


pooling_calls = st.builds(
    vllm.PoolingCall,
    request=st.builds(
        EmbeddingRequest,
        inputs=st.lists(texts, min_size=1) | st.lists(st.lists(st.integers(0, 2**32 - 1)), min_size=1),
        instruction=st.none() | texts,
        normalize=st.none() | st.booleans(),
        dimensions=st.none() | st.integers(1, 10_000),
        truncate=cuts,
    ),
    model=st.none() | texts,
    encoding=st.sampled_from(VectorEncoding),
)


@given(score_calls())
def test_a_score_request_survives_the_wire(call):
    assert vllm.decode_score_request(vllm.encode_score_request(call)) == call


@given(pooling_calls)
def test_a_pooling_request_survives_the_wire(call):
    assert vllm.decode_pooling_request(vllm.encode_pooling_request(call)) == call


@given(score_calls(), st.data())
def test_scores_survive_the_wire(call, data):
    results = []
    for request in call.requests:
        count = len(request.documents)
        logits = data.draw(st.lists(st.floats(-20, 20), min_size=count, max_size=count))
        ranked = [RankedDocument(i, 1 / (1 + math.exp(-logit)), logit) for i, logit in enumerate(logits)]
        ranked.sort(key=lambda one: -one.logit)
        results.append(
            RerankResult(results=tuple(ranked), num_tokens=(1,) * count, truncated=(False,) * count, model="m")
        )
    body = vllm.encode_score_response(results, call, request_id="r", created=1)
    for ours, theirs in zip(vllm.decode_score_response(body, call), results, strict=True):
        assert {one.index: one.logit for one in ours.results} == pytest.approx(
            {one.index: one.logit for one in theirs.results}, rel=1e-6, abs=1e-6
        )


@given(
    arrays(np.float32, (2, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.sampled_from(VectorEncoding),
)
def test_vectors_survive_the_wire(vectors, encoding):
    result = EmbeddingResult(vectors=vectors, num_tokens=(3, 4), truncated=(False, False), model="m")
    call = vllm.PoolingCall(request=EmbeddingRequest(inputs=["a", "b"]), encoding=encoding)
    decoded = vllm.decode_pooling_response(vllm.encode_pooling_response(result, call, request_id="r", created=1))
    np.testing.assert_array_equal(decoded.vectors, vectors)
    assert (decoded.model, sum(decoded.num_tokens)) == ("m", 7)


@pytest.mark.parametrize("first", ["queries", "text_1", "data_1"])
@pytest.mark.parametrize("second", ["documents", "text_2", "data_2", "items"])
@pytest.mark.parametrize("as_list", [True, False])
def test_both_sides_have_several_names(first, second, as_list):
    body = {first: ["q"] if as_list else "q", second: ["d"] if as_list else "d"}
    (request,) = vllm.decode_score_request(orjson.dumps(body)).requests
    assert (request.query, list(request.documents)) == ("q", ["d"])


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ({"documents": "d"}, EmptyInputError, "queries is missing"),
        ({"queries": "q"}, EmptyInputError, "documents is missing"),
        ({"queries": [], "documents": ["d"]}, EmptyInputError, "queries is an empty list"),
        ({"queries": ["a", "b"], "documents": ["d"]}, InvalidRequestError, "2 queries and 1 documents"),
        ({"queries": "q", "text_1": "p", "documents": "d"}, InvalidRequestError, "but"),
        ({"queries": "q", "documents": "d", "truncate_prompt_tokens": 5}, InvalidRequestError, "truncate_prompt"),
    ],
)
def test_pairs_that_do_not_pair_are_refused(body, error, says):
    with pytest.raises(error, match=says):
        vllm.decode_score_request(orjson.dumps(body))


def test_another_task_is_refused():
    with pytest.raises(InvalidRequestError, match="task"):
        vllm.decode_pooling_request(b'{"input": "a", "task": "token_embed"}')


def test_a_reply_with_too_few_scores_is_an_error():
    call = vllm.ScoreCall(requests=(RerankRequest(query="q", documents=["a", "b"]),))
    with pytest.raises(InternalError, match="1 scores for 2 pairs"):
        vllm.decode_score_response(b'{"data": [{"index": 0, "score": 0.5}]}', call)


@pytest.mark.parametrize("changed", [{"input_type": "query"}, {"prompt_name": "query"}])
def test_what_vllm_has_no_field_for_is_not_dropped_in_silence(changed):
    with pytest.raises(InvalidRequestError, match=next(iter(changed))):
        vllm.encode_pooling_request(vllm.PoolingCall(request=EmbeddingRequest(inputs=["a"], **changed)))
