"""TEI's wire format, from both ends."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quernel.errors import EmptyInputError, InternalError, InvalidRequestError, TokenIdRangeError
from quernel.protocols import tei
from quernel.protocols.rerank import RerankCall
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Timing,
    Token,
    Truncate,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
embed_calls = st.builds(
    tei.TeiEmbedCall,
    request=st.builds(
        EmbeddingRequest,
        inputs=st.lists(texts, min_size=1) | st.lists(st.lists(st.integers(0, 2**32 - 1)), min_size=1),
        prompt_name=st.none() | texts,
        normalize=st.booleans(),
        dimensions=st.none() | st.integers(1, 10_000),
        truncate=st.sampled_from(Truncate),
    ),
)
rerank_calls = st.builds(
    RerankCall,
    request=st.builds(
        RerankRequest,
        query=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        documents=st.lists(texts, min_size=1),
        truncate=st.sampled_from(Truncate),
    ),
    return_documents=st.booleans(),
    raw_scores=st.booleans(),
)


@given(embed_calls)
def test_an_embed_request_survives_the_wire(call):
    assert tei.decode_embed_request(tei.encode_embed_request(call)) == call


@given(rerank_calls)
def test_a_rerank_request_survives_the_wire(call):
    assert tei.decode_rerank_request(tei.encode_rerank_request(call)) == call


@given(arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_vectors_survive_the_wire(vectors):
    result = EmbeddingResult(vectors=vectors, num_tokens=(1, 2, 3), truncated=(False,) * 3, model="m")
    call = tei.TeiEmbedCall(request=EmbeddingRequest(inputs=["a", "b", "c"]))
    decoded = tei.decode_embed_response(tei.encode_embed_response(result), call, model="m")
    np.testing.assert_array_equal(decoded.vectors, vectors)


@given(rerank_calls, st.data())
def test_scores_survive_the_wire(call, data):
    count = len(call.request.documents)
    logits = data.draw(st.lists(st.floats(-30, 30), min_size=count, max_size=count))
    ranked = tuple(
        RankedDocument(index, 1 / (1 + math.exp(-logit)), logit)
        for index, logit in sorted(enumerate(logits), key=lambda pair: -pair[1])
    )
    result = RerankResult(results=ranked, num_tokens=(1,) * count, truncated=(False,) * count, model="m")
    decoded = tei.decode_rerank_response(tei.encode_rerank_response(result, call), call, model="m")
    assert [one.index for one in decoded.results] == [one.index for one in ranked]
    for ours, theirs in zip(decoded.results, ranked, strict=True):
        assert ours.logit == pytest.approx(theirs.logit, rel=1e-6, abs=1e-6) or abs(theirs.logit) > 25
        assert ours.relevance_score == pytest.approx(theirs.relevance_score)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Truncate.END),
        ({"truncate": True}, Truncate.END),
        ({"truncate": False}, Truncate.ERROR),
        ({"truncation_direction": "left"}, Truncate.START),
        ({"truncation_direction": "Left", "truncate": True}, Truncate.START),
        ({"truncation_direction": "RIGHT", "truncate": None}, Truncate.END),
    ],
)
def test_long_texts_are_cut_unless_a_request_says_otherwise(fields, expected):
    assert tei.decode_embed_request(orjson.dumps({"inputs": "a"} | fields)).request.truncate is expected


@pytest.mark.parametrize(
    ("decode", "body", "error", "param"),
    [
        (tei.decode_embed_request, {"inputs": []}, EmptyInputError, "inputs"),
        (tei.decode_embed_request, {"inputs": ["a", 1]}, InvalidRequestError, "inputs[1]"),
        (tei.decode_embed_request, {"inputs": [[-1]]}, TokenIdRangeError, "inputs"),
        (tei.decode_embed_request, {}, InvalidRequestError, "inputs"),
        (
            tei.decode_embed_request,
            {"inputs": "a", "truncation_direction": "up"},
            InvalidRequestError,
            "truncation_direction",
        ),
        (tei.decode_rerank_request, {"query": "q", "texts": []}, EmptyInputError, "documents"),
        (tei.decode_rerank_request, {"query": "q", "documents": ["a"]}, InvalidRequestError, "documents"),
        (
            tei.decode_similarity_request,
            {"inputs": {"source_sentence": "a", "sentences": []}},
            EmptyInputError,
            "inputs.sentences",
        ),
        (tei.decode_tokenize_request, {"inputs": []}, EmptyInputError, "inputs"),
        (tei.decode_decode_request, {"ids": []}, EmptyInputError, "ids"),
        (tei.decode_decode_request, {"ids": [[2**33]]}, TokenIdRangeError, "ids"),
    ],
)
def test_what_is_wrong_is_named(decode, body, error, param):
    with pytest.raises(error) as caught:
        decode(orjson.dumps(body))
    assert caught.value.param == param


@pytest.mark.parametrize("changed", [{"instruction": "x"}, {"input_type": "query"}])
def test_what_tei_has_no_field_for_is_not_dropped_in_silence(changed):
    with pytest.raises(InvalidRequestError, match=next(iter(changed))):
        tei.encode_embed_request(tei.TeiEmbedCall(request=EmbeddingRequest(inputs=["a"], **changed)))


@pytest.mark.parametrize("changed", [{"instruction": "x"}, {"max_tokens_per_document": 3}])
def test_what_tei_has_no_field_for_in_reranking_is_not_dropped_either(changed):
    call = RerankCall(request=RerankRequest(query="q", documents=["a"], **changed))
    with pytest.raises(InvalidRequestError, match=next(iter(changed))):
        tei.encode_rerank_request(call)


def test_similarity_embeds_the_sentence_first_and_answers_cosines():
    body = {"inputs": {"source_sentence": "s", "sentences": ["a", "b"]}, "parameters": {"prompt_name": "query"}}
    call = tei.decode_similarity_request(orjson.dumps(body))
    assert call.request.inputs == ["s", "a", "b"]
    assert (call.request.prompt_name, call.request.normalize) == ("query", True)
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    result = EmbeddingResult(vectors=vectors, num_tokens=(1,) * 3, truncated=(False,) * 3, model="m")
    assert orjson.loads(tei.encode_similarity_response(result)) == pytest.approx([0.6, 0.0])


def test_tokens_are_written_as_tei_does():
    tokens = [Token(id=9707, text="Hello", start=0, stop=5), Token(id=151643, text="<|endoftext|>", special=True)]
    assert orjson.loads(tei.encode_tokenize_response([tokens])) == [
        [
            {"id": 9707, "text": "Hello", "special": False, "start": 0, "stop": 5},
            {"id": 151643, "text": "<|endoftext|>", "special": True, "start": None, "stop": None},
        ]
    ]


@pytest.mark.parametrize(
    ("status", "code", "expected", "kind"),
    [
        (400, "invalid_request", 422, "Validation"),
        (400, "empty_input", 400, "Empty"),
        (401, "invalid_api_key", 401, "Validation"),
        (404, "model_not_found", 422, "Validation"),
        (413, "body_too_large", 413, "Validation"),
        (429, "overloaded", 429, "Overloaded"),
        (500, "internal_error", 424, "Backend"),
        (503, "engine_closed", 503, "Unhealthy"),
        (504, "deadline_exceeded", 424, "Backend"),
    ],
)
def test_errors_have_teis_status_and_class(status, code, expected, kind):
    assert tei.TEI_ERRORS.status(status, code) == expected
    body = orjson.loads(tei.TEI_ERRORS.encode("What is wrong.", status=status, code=code))
    assert body == {"error": "What is wrong.", "error_type": kind}


def test_times_are_told_in_milliseconds():
    timing = Timing(tokenization=0.0004, queue=0.0121, inference=1.5)
    headers = tei.timing_headers(timing, seconds=1.6, num_characters=7, num_tokens=3, device="cuda:0")
    assert headers["x-compute-type"] == "gpu"
    assert [headers[f"x-{name}-time"] for name in ("total", "tokenization", "queue", "inference")] == [
        "1600",
        "1",
        "13",
        "1500",
    ]
    assert (headers["x-compute-characters"], headers["x-compute-tokens"]) == ("7", "3")


def test_a_reply_that_cannot_be_read_is_an_error():
    call = tei.TeiEmbedCall(request=EmbeddingRequest(inputs=["a"]))
    with pytest.raises(InternalError):
        tei.decode_embed_response(b'{"error": "x"}', call, model="m")
