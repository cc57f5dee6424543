import math

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import EmptyInputError, InternalError, InvalidRequestError
from quernel.protocols.rerank import (
    RerankCall,
    RerankReply,
    decode_rerank_request,
    decode_rerank_response,
    encode_rerank_request,
    encode_rerank_response,
)
from quernel.types import RankedDocument, RerankRequest, RerankResult, Truncate

texts = st.text(st.characters(exclude_categories=["Cs"]))
counts = st.none() | st.integers(1, 10**9)
requests = st.builds(
    RerankRequest,
    query=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    documents=st.lists(texts, min_size=1),
    instruction=st.none() | texts,
    top_n=counts,
    truncate=st.sampled_from(Truncate),
    max_tokens_per_document=counts,
)
calls = st.builds(
    RerankCall,
    request=requests,
    model=st.none() | texts,
    return_documents=st.booleans(),
    raw_scores=st.booleans(),
)
logits = st.floats(-700, 700)


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


@st.composite
def answered(draw):
    call = draw(calls)
    count = len(call.request.documents)
    order = draw(st.permutations(range(count)))[: call.request.top_n]
    scored = [(index, draw(logits)) for index in order]
    return call, RerankResult(
        results=tuple(RankedDocument(index, sigmoid(logit), logit) for index, logit in scored),
        num_tokens=tuple(draw(st.lists(st.integers(1, 40_000), min_size=count, max_size=count))),
        truncated=tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        model=draw(texts),
    )


def body(**fields):
    return orjson.dumps({"query": "q", "documents": ["d"]} | fields)


@given(calls)
def test_a_request_survives_the_wire(call):
    assert decode_rerank_request(encode_rerank_request(call)) == call


@given(answered())
def test_a_result_survives_the_wire(pair):
    call, result = pair
    decoded = decode_rerank_response(encode_rerank_response(result, call, request_id="r"), call)
    assert (decoded.num_tokens, decoded.truncated, decoded.model) == (
        result.num_tokens,
        result.truncated,
        result.model,
    )
    for ours, theirs in zip(decoded.results, result.results, strict=True):
        assert ours.index == theirs.index
        assert math.isfinite(ours.logit)
        assert ours.relevance_score == pytest.approx(theirs.relevance_score, rel=1e-12)
        if call.raw_scores:
            assert ours.logit == theirs.logit


@given(answered())
def test_a_reply_has_no_field_that_its_schema_lacks(pair):
    call, result = pair
    reply = orjson.loads(encode_rerank_response(result, call, request_id="r"))
    assert set(reply) <= set(RerankReply.__struct_fields__)
    msgspec.convert(reply, RerankReply)


@given(answered())
def test_documents_are_repeated_only_when_asked_for(pair):
    call, result = pair
    reply = orjson.loads(encode_rerank_response(result, call, request_id="r"))
    for row in reply["results"]:
        expected = {"text": call.request.documents[row["index"]]} if call.return_documents else None
        assert row.get("document") == expected


@given(answered())
def test_clients_of_voyage_find_the_same_rows_under_data(pair):
    call, result = pair
    reply = orjson.loads(encode_rerank_response(result, call, request_id="r"))
    plain = [row | ({"document": row["document"]["text"]} if "document" in row else {}) for row in reply["results"]]
    assert reply["data"] == plain
    voyage = orjson.dumps({name: reply[name] for name in ("object", "data", "model", "usage", "num_tokens")})
    assert decode_rerank_response(voyage, call).results == decode_rerank_response(orjson.dumps(reply), call).results


def test_top_k_is_top_n_and_a_boolean_may_be_a_string():
    call = decode_rerank_request(body(top_k=1, return_documents="true", provider={"order": []}, return_len=True))
    assert (call.request.top_n, call.return_documents) == (1, True)
    assert not decode_rerank_request(body(return_documents="false")).return_documents


def test_documents_may_be_texts_or_objects():
    call = decode_rerank_request(body(documents=["a", {"text": "b"}, ""]))
    assert call.request.documents == ["a", "b", ""]


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"query": ""}, EmptyInputError, "query"),
        ({"query": None}, InvalidRequestError, "query"),
        ({"documents": []}, EmptyInputError, "documents"),
        ({"documents": "d"}, InvalidRequestError, "documents"),
        ({"documents": ["d", 1]}, InvalidRequestError, "documents[1]"),
        ({"documents": [{"txt": "d"}]}, InvalidRequestError, "documents[0].txt"),
        ({"documents": [{}]}, InvalidRequestError, "documents[0].text"),
        ({"top_n": 0}, InvalidRequestError, "top_n"),
        ({"top_n": -3}, InvalidRequestError, "top_n"),
        ({"top_n": "3"}, InvalidRequestError, "top_n"),
        ({"max_tokens_per_doc": 0}, InvalidRequestError, "max_tokens_per_doc"),
        ({"raw_scores": "yes"}, InvalidRequestError, "raw_scores"),
        ({"top_p": 3}, InvalidRequestError, "top_p"),
        ({"top_n": 2, "top_k": 3}, InvalidRequestError, "top_k"),
        ({"return_documents": "yes"}, InvalidRequestError, "return_documents"),
        ({"truncate": "error", "truncation": True}, InvalidRequestError, "truncation"),
    ],
)
def test_a_wrong_field_is_named(fields, error, param):
    with pytest.raises(InvalidRequestError) as caught:
        decode_rerank_request(body(**fields))
    assert type(caught.value) is error
    assert caught.value.param == param


@pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2)])
def test_search_units_count_hundreds_of_documents(documents, units):
    call = RerankCall(request=RerankRequest(query="q", documents=["d"] * documents))
    result = RerankResult(results=(), num_tokens=(1,) * documents, truncated=(False,) * documents, model="m")
    reply = orjson.loads(encode_rerank_response(result, call, request_id="r"))
    assert reply["meta"]["billed_units"]["search_units"] == units


@pytest.mark.parametrize(
    "reply",
    [
        {  # Cohere v1
            "id": "x",
            "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}],
            "meta": {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}},
        },
        {  # Jina
            "model": "jina-reranker-v2-base-multilingual",
            "object": "list",
            "usage": {"total_tokens": 9},
            "results": [
                {"index": 1, "relevance_score": 0.9, "document": {"text": "b"}},
                {"index": 0, "relevance_score": 0.25, "document": {"text": "a"}},
            ],
        },
    ],
    ids=["cohere", "jina"],
)
def test_replies_of_the_vendors_are_read(reply):
    call = RerankCall(request=RerankRequest(query="q", documents=["a", "b"]))
    result = decode_rerank_response(orjson.dumps(reply), call)
    assert [(row.index, row.relevance_score) for row in result.results] == [(1, 0.9), (0, 0.25)]
    assert result.results[1].logit == pytest.approx(math.log(0.25 / 0.75))
    assert sum(result.num_tokens) == reply.get("usage", {}).get("total_tokens", 0)


def test_a_reply_that_is_none_is_an_error():
    call = RerankCall(request=RerankRequest(query="q", documents=["a"]))
    with pytest.raises(InternalError):
        decode_rerank_response(b"<html>", call)
