import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.errors import EmptyInputError, InternalError, InvalidRequestError
from quernel.protocols.cohere import (
    MAX_TOKENS_PER_DOCUMENT,
    CohereEmbedBody,
    CohereEmbedCall,
    CohereEmbedReply,
    CohereRerankBody,
    CohereRerankReply,
    decode_embed_request,
    decode_embed_response,
    decode_rerank_request,
    encode_embed_request,
    encode_embed_response,
    encode_rerank_request,
    encode_rerank_response,
)
from quernel.protocols.openai import EmbeddingType
from quernel.protocols.rerank import RerankCall, decode_rerank_response
from quernel.protocols.vectors import OutputDtype, quantise
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Truncate,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
embed_calls = st.builds(
    CohereEmbedCall,
    request=st.builds(
        EmbeddingRequest,
        inputs=st.lists(texts, min_size=1),
        instruction=st.none() | texts,
        input_type=st.sampled_from([None, InputType.QUERY]),
        dimensions=st.none() | st.integers(4, 512).map(lambda eighths: 8 * eighths),
        truncate=st.sampled_from(Truncate),
    ),
    model=st.none() | texts,
    types=st.lists(st.sampled_from(EmbeddingType), min_size=1, unique=True).map(tuple),
)
rerank_calls = st.builds(
    RerankCall,
    request=st.builds(
        RerankRequest,
        query=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        documents=st.lists(texts, min_size=1),
        instruction=st.none() | texts,
        top_n=st.none() | st.integers(1, 10**9),
        truncate=st.just(Truncate.END),
        max_tokens_per_document=st.integers(1, 10**9),
    ),
    model=st.none() | texts,
    return_documents=st.booleans(),
)
RESULT = EmbeddingResult(
    vectors=np.random.default_rng(3).standard_normal((2, 64)).astype(np.float32),
    num_tokens=(3, 9),
    truncated=(False, True),
    model="m",
)
RANKED = RerankResult(
    results=(RankedDocument(1, 0.75, float(np.log(3))), RankedDocument(0, 0.5, 0.0)),
    num_tokens=(5, 6),
    truncated=(True, False),
    model="m",
)


def body(**fields):
    return orjson.dumps(fields)


@given(embed_calls)
def test_an_embed_request_survives_the_wire(call):
    assert decode_embed_request(encode_embed_request(call)) == call


@given(rerank_calls)
def test_a_rerank_request_survives_the_wire(call):
    assert decode_rerank_request(encode_rerank_request(call)) == call


@pytest.mark.parametrize("kind", EmbeddingType)
def test_a_result_of_each_kind_survives_the_wire(kind):
    call = CohereEmbedCall(request=EmbeddingRequest(inputs=["a", "b"]), types=(kind,))
    reply = encode_embed_response(RESULT, call, request_id="r")
    msgspec.json.decode(reply, type=CohereEmbedReply)
    decoded = decode_embed_response(reply)
    assert (decoded.num_tokens, decoded.truncated, decoded.model) == ((3, 9), (False, True), "m")
    exact = kind in (EmbeddingType.FLOAT, EmbeddingType.BASE64)
    cosine = (decoded.vectors * RESULT.vectors).sum(axis=1) / np.linalg.norm(RESULT.vectors, axis=1)
    assert (cosine / np.linalg.norm(decoded.vectors, axis=1)).min() > (0.999999 if exact else 0.7)
    if exact:
        np.testing.assert_array_equal(decoded.vectors, RESULT.vectors)


def test_a_reply_has_every_kind_that_was_asked_for_and_no_other():
    kinds = (EmbeddingType.INT8, EmbeddingType.FLOAT, EmbeddingType.UBINARY)
    call = CohereEmbedCall(request=EmbeddingRequest(inputs=["a", "b"]), types=kinds)
    reply = orjson.loads(encode_embed_response(RESULT, call, request_id="r"))
    assert set(reply["embeddings"]) == set(kinds)
    assert reply["embeddings"]["int8"] == quantise(RESULT.vectors, OutputDtype.INT8).tolist()
    assert reply["texts"] == ["a", "b"]
    assert reply["meta"] == {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 12}}
    assert set(reply) <= set(CohereEmbedReply.__struct_fields__)


def test_a_rerank_result_survives_the_wire():
    call = RerankCall(request=RerankRequest(query="q", documents=["a", "b"]), return_documents=True)
    reply = encode_rerank_response(RANKED, call, request_id="r")
    msgspec.json.decode(reply, type=CohereRerankReply)
    assert set(orjson.loads(reply)) <= set(CohereRerankReply.__struct_fields__)
    decoded = decode_rerank_response(reply, call)
    assert [(row.index, row.relevance_score) for row in decoded.results] == [(1, 0.75), (0, 0.5)]
    assert (decoded.num_tokens, decoded.truncated, decoded.model) == ((5, 6), (True, False), "m")


def test_what_is_left_open_is_as_at_cohere():
    assert decode_embed_request(body(texts=["a"])).request.truncate is Truncate.END
    assert decode_embed_request(body(texts=["a"])).types == (EmbeddingType.FLOAT,)
    request = decode_rerank_request(body(query="q", documents=["a", {"text": "b"}])).request
    assert (request.truncate, request.max_tokens_per_document) == (Truncate.END, MAX_TOKENS_PER_DOCUMENT)
    assert request.documents == ["a", "b"]


@pytest.mark.parametrize(
    ("wire", "truncate"), [("NONE", Truncate.ERROR), ("START", Truncate.START), ("END", Truncate.END)]
)
def test_truncate_in_cohere_s_words(wire, truncate):
    assert decode_embed_request(body(texts=["a"], truncate=wire)).request.truncate is truncate


@pytest.mark.parametrize(
    ("wire", "input_type", "instructed"),
    [
        ("search_query", InputType.QUERY, False),
        ("search_document", InputType.DOCUMENT, False),
        ("classification", InputType.QUERY, True),
        ("clustering", InputType.QUERY, True),
    ],
)
def test_an_input_type_is_ours_or_an_instruction(wire, input_type, instructed):
    request = decode_embed_request(body(texts=["a"], input_type=wire)).request
    assert (request.input_type, request.instruction is not None) == (input_type, instructed)


def test_inputs_of_text_parts_are_texts():
    parts = [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert decode_embed_request(body(inputs=parts)).request.inputs == ["a\nb"]


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({}, InvalidRequestError, "texts"),
        ({"texts": ["a"], "inputs": []}, InvalidRequestError, "texts"),
        ({"texts": []}, EmptyInputError, "texts"),
        ({"texts": ["a"] * 2049}, InvalidRequestError, "texts"),
        ({"inputs": []}, EmptyInputError, "inputs"),
        ({"inputs": [{"content": [{"type": "image_url"}]}]}, InvalidRequestError, "inputs[0].content[0].type"),
        ({"texts": "a"}, InvalidRequestError, "texts"),
        ({"texts": ["a"], "images": ["b"]}, InvalidRequestError, "images"),
        ({"texts": ["a"], "input_type": "image"}, InvalidRequestError, "input_type"),
        ({"texts": ["a"], "truncate": "end"}, InvalidRequestError, "truncate"),
        ({"texts": ["a"], "embedding_types": ["int4"]}, InvalidRequestError, "embedding_types[0]"),
        (
            {"texts": ["a"], "embedding_types": ["binary"], "output_dimension": 36},
            InvalidRequestError,
            "dimensions",
        ),
    ],
)
def test_a_wrong_field_of_embed_is_named(fields, error, param):
    with pytest.raises(InvalidRequestError) as caught:
        decode_embed_request(body(**fields))
    assert type(caught.value) is error
    assert caught.value.param == param


@pytest.mark.parametrize("options", [{"prompt_name": "query"}, {"normalize": False}])
def test_what_cohere_has_no_field_for_is_refused_rather_than_dropped(options):
    with pytest.raises(InvalidRequestError):
        encode_embed_request(CohereEmbedCall(request=EmbeddingRequest(inputs=["a"], **options)))
    with pytest.raises(InvalidRequestError):
        encode_embed_request(CohereEmbedCall(request=EmbeddingRequest(inputs=[[1, 2]])))


def test_a_reply_without_vectors_is_an_error():
    with pytest.raises(InternalError):
        decode_embed_response(body(id="x", embeddings={}))


def test_a_reply_of_cohere_itself_is_read():
    reply = {
        "id": "x",
        "embeddings": {"float": [[1.0, 2.0]]},
        "texts": ["a"],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 4}},
    }
    result = decode_embed_response(orjson.dumps(reply))
    assert (result.vectors.tolist(), result.num_tokens) == ([[1.0, 2.0]], (4,))


def test_every_field_of_a_request_is_described():
    for shape in (CohereEmbedBody, CohereRerankBody):
        schema = msgspec.json.schema_components([shape])[1][shape.__name__]["properties"]
        assert [name for name, field in schema.items() if not field.get("description")] == []
