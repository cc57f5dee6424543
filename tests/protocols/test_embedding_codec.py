import base64
from dataclasses import replace

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quernel.errors import EmptyInputError, InternalError, InvalidRequestError, TokenIdRangeError
from quernel.protocols.fields import MAX_INPUTS, RequestBody, RoutingFields
from quernel.protocols.openai import (
    EmbeddingBody,
    EmbeddingCall,
    EmbeddingReply,
    ListedModel,
    ModelStatus,
    decode_embedding_request,
    decode_embedding_response,
    decode_models,
    encode_embedding_request,
    encode_embedding_response,
    encode_models,
)
from quernel.protocols.vectors import OutputDtype, VectorEncoding, dequantise, quantise
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.types import EmbeddingRequest, EmbeddingResult, InputType, Truncate

texts = st.text(st.characters(exclude_categories=["Cs"]))
ids = st.lists(st.integers(0, 2**32 - 1))
requests = st.builds(
    EmbeddingRequest,
    inputs=st.lists(texts, min_size=1) | st.lists(ids, min_size=1),
    instruction=st.none() | texts,
    input_type=st.sampled_from([None, InputType.QUERY]),
    prompt_name=st.none() | texts,
    dimensions=st.none() | st.integers(-(2**63), 2**63 - 1),
    normalize=st.none() | st.booleans(),
    truncate=st.sampled_from(Truncate),
)
calls = st.builds(
    EmbeddingCall,
    request=requests,
    model=st.none() | texts,
    encoding=st.sampled_from(VectorEncoding),
    dtype=st.sampled_from(OutputDtype),
)
ANY = EmbeddingRequest(inputs=["any"])
finite_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def results(draw):
    count, dimensions = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    return EmbeddingResult(
        vectors=draw(arrays(np.float32, (count, dimensions), elements=finite_floats)),
        num_tokens=tuple(draw(st.lists(st.integers(0, 40_000), min_size=count, max_size=count))),
        truncated=tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        model=draw(texts),
    )


def body(**fields):
    return orjson.dumps(fields)


def offered(call):
    request = call.request
    bits = request.dimensions is None or request.dimensions % 8 == 0
    return call.dtype is OutputDtype.FLOAT or (request.normalize is not False and bits)


@given(calls.filter(offered))
def test_a_request_survives_the_wire(call):
    assert decode_embedding_request(encode_embedding_request(call)) == call


@given(results(), st.sampled_from(VectorEncoding))
def test_a_result_survives_the_wire_to_the_last_bit(result, encoding):
    decoded = decode_embedding_response(
        encode_embedding_response(result, EmbeddingCall(request=ANY, encoding=encoding))
    )
    np.testing.assert_array_equal(decoded.vectors, result.vectors)
    assert decoded.vectors.dtype == np.float32
    assert (decoded.num_tokens, decoded.truncated, decoded.model) == (
        result.num_tokens,
        result.truncated,
        result.model,
    )


@given(results(), st.sampled_from(VectorEncoding))
def test_a_reply_has_no_field_that_its_schema_lacks(result, encoding):
    reply = orjson.loads(encode_embedding_response(result, EmbeddingCall(request=ANY, encoding=encoding)))
    assert set(reply) <= set(EmbeddingReply.__struct_fields__)
    msgspec.convert(reply, EmbeddingReply)


def test_base64_is_little_endian_float32():
    result = EmbeddingResult(
        vectors=np.array([[1.0, -2.5]], dtype=np.float32), num_tokens=(1,), truncated=(False,), model="m"
    )
    reply = orjson.loads(encode_embedding_response(result, EmbeddingCall(request=ANY, encoding=VectorEncoding.BASE64)))
    assert base64.b64decode(reply["data"][0]["embedding"]) == bytes.fromhex("0000803f 000020c0")


@pytest.mark.parametrize("layout", ["strided", "big-endian", "float64"])
@pytest.mark.parametrize("encoding", VectorEncoding)
def test_vectors_of_any_memory_layout_are_written_alike(layout, encoding):
    plain = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    vectors = {
        "strided": np.asfortranarray(plain),
        "big-endian": plain.astype(">f4"),
        "float64": plain.astype(np.float64),
    }[layout]
    result = EmbeddingResult(vectors=vectors, num_tokens=(1,) * 3, truncated=(False,) * 3, model="m")
    decoded = decode_embedding_response(
        encode_embedding_response(result, EmbeddingCall(request=ANY, encoding=encoding))
    )
    np.testing.assert_array_equal(decoded.vectors, plain)


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", ""], ["a", ""]),
        ([1, 2], [[1, 2]]),
        ([[1], [], [2, 3]], [[1], [], [2, 3]]),
        ([[]], [[]]),
    ],
)
def test_input_has_four_forms(given_input, inputs):
    assert decode_embedding_request(body(input=given_input)).request.inputs == inputs


@pytest.mark.parametrize(
    ("fields", "error", "param", "says"),
    [
        ({}, InvalidRequestError, "input", "missing"),
        ({"input": None}, InvalidRequestError, "input", "null"),
        ({"input": 3}, InvalidRequestError, "input", "int"),
        ({"input": {"text": "a"}}, InvalidRequestError, "input", "object"),
        ({"input": []}, EmptyInputError, "input", "no texts"),
        ({"input": ["a", 1]}, InvalidRequestError, "input[1]", "an integer, but input[0] is a string"),
        ({"input": [1, [2]]}, InvalidRequestError, "input[1]", "an array, but input[0] is an integer"),
        ({"input": ["a", None]}, InvalidRequestError, "input[1]", "null"),
        ({"input": [True]}, InvalidRequestError, "input[0]", "bool"),
        ({"input": [[1, False]]}, InvalidRequestError, "input[0][1]", "bool"),
        ({"input": [1.5]}, InvalidRequestError, "input[0]", "float"),
        ({"input": [["a"]]}, InvalidRequestError, "input[0][0]", "str"),
        ({"input": [5, -1]}, TokenIdRangeError, "input", "-1"),
        ({"input": [[1], [2**32]]}, TokenIdRangeError, "input", "input[1] holds 4294967296"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, InvalidRequestError, "input", "2049 texts, but a request takes 2048"),
        ({"input": "a", "dimensions": "64"}, InvalidRequestError, "dimensions", "str"),
        ({"input": "a", "dimensions": 64.5}, InvalidRequestError, "dimensions", "float"),
        ({"input": "a", "dimensions": True}, InvalidRequestError, "dimensions", "bool"),
        ({"input": "a", "encoding_format": "int8"}, InvalidRequestError, "encoding_format", "float, base64"),
        ({"input": "a", "input_type": "passage"}, InvalidRequestError, "input_type", "query, document"),
        ({"input": "a", "truncate": "middle"}, InvalidRequestError, "truncate", "error, end, start"),
        ({"input": "a", "truncate": 1}, InvalidRequestError, "truncate", "int"),
        ({"input": "a", "normalize": "yes"}, InvalidRequestError, "normalize", "str"),
        ({"input": "a", "model": 7}, InvalidRequestError, "model", "int"),
        ({"input": "a", "instruction": ["x"]}, InvalidRequestError, "instruction", "array"),
        ({"input": "a", "instruction": "x", "input_type": "document"}, InvalidRequestError, "instruction", "document"),
        ({"input": ["a", {"image": "b"}]}, InvalidRequestError, "input[1].image", "not a field"),
        ({"input": [{"text": "a"}, [1]]}, InvalidRequestError, "input[1]", "an array, but input[0] is a string"),
        ({"input": "a", "late_chunking": True}, InvalidRequestError, "late_chunking", "last token"),
        ({"input": "a", "task": "retrieval"}, InvalidRequestError, "task", "retrieval.query, retrieval.passage"),
        ({"input": "a", "task": "retrieval.query", "input_type": "document"}, InvalidRequestError, "task", "but task"),
        ({"input": "a", "dimensions": 64, "output_dimension": 32}, InvalidRequestError, "output_dimension", "says 32"),
        ({"input": "a", "output_dtype": "int4"}, InvalidRequestError, "output_dtype", "float, int8, uint8"),
        ({"input": "a", "output_dtype": "int8", "normalize": False}, InvalidRequestError, "normalize", "length"),
        (
            {"input": "a", "output_dtype": "binary", "dimensions": 36},
            InvalidRequestError,
            "dimensions",
            "multiple of 8",
        ),
        (
            {"input": "a", "embedding_type": "binary", "output_dtype": "int8"},
            InvalidRequestError,
            "output_dtype",
            "int8",
        ),
        ({"input": "a", "dimension": 64}, InvalidRequestError, "dimension", "Did you mean dimensions?"),
        ({"input": "a", "temperature": 1}, InvalidRequestError, "temperature", "not a field"),
        (
            {"input": "a", "truncate": "start", "truncate_sequence": True},
            InvalidRequestError,
            "truncate_sequence",
            "truncate says start but truncate_sequence says end",
        ),
    ],
)
def test_a_wrong_field_is_named(fields, error, param, says):
    with pytest.raises(InvalidRequestError) as caught:
        decode_embedding_request(body(**fields))
    assert type(caught.value) is error
    assert caught.value.param == param
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("task", "input_type", "instructed"),
    [
        ("retrieval.query", InputType.QUERY, False),
        ("retrieval.passage", InputType.DOCUMENT, False),
        ("text-matching", InputType.QUERY, True),
        ("classification", InputType.QUERY, True),
        ("separation", InputType.QUERY, True),
    ],
)
def test_a_task_of_jina_is_an_input_type_or_an_instruction(task, input_type, instructed):
    request = decode_embedding_request(body(input="a", task=task)).request
    assert (request.input_type, request.instruction is not None) == (input_type, instructed)
    if instructed:
        own = decode_embedding_request(body(input="a", task=task, instruction="Mine.")).request
        assert own.instruction == "Mine."


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"truncation": True}, {"truncate": "end"}),
        ({"output_dimension": 64}, {"dimensions": 64}),
        ({"normalized": True}, {"normalize": True}),
        ({"embedding_type": "base64"}, {"encoding_format": "base64"}),
        ({"embedding_type": "ubinary"}, {"output_dtype": "ubinary"}),
        ({"late_chunking": False}, {}),
        ({"input": [{"text": "a"}, "b"]}, {"input": ["a", "b"]}),
    ],
)
def test_words_of_other_vendors_mean_ours(fields, same):
    assert decode_embedding_request(body(**{"input": "a"} | fields)) == decode_embedding_request(
        body(**{"input": "a"} | same)
    )


@pytest.mark.parametrize("encoding", VectorEncoding)
@pytest.mark.parametrize("dtype", OutputDtype)
def test_numbers_of_any_kind_survive_the_wire(dtype, encoding):
    vectors = np.random.default_rng(7).standard_normal((3, 64)).astype(np.float32)
    result = EmbeddingResult(vectors=vectors, num_tokens=(1,) * 3, truncated=(False,) * 3, model="m")
    reply = encode_embedding_response(result, EmbeddingCall(request=ANY, encoding=encoding, dtype=dtype))
    expected = dequantise(quantise(vectors, dtype), dtype)
    np.testing.assert_array_equal(decode_embedding_response(reply, dtype=dtype).vectors, expected)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (b"", "line 1 column 1"),
        (b'{"input": "a"', "line 1 column 14"),
        (b'{"input":\n  nope}', "line 2 column"),
        (b'{"input": "\xff"}', "byte 11 is not UTF-8"),
        (b'{"input": NaN}', "line 1 column 11"),
        (b'{"input": "\\ud800"}', "surrogate"),
        (b'["a"]', "expected `object`, got `array`"),
        (b'{"input": "a", "metadata": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"input": [' + b"9" * 10_000 + b"]}", "out of range"),
    ],
)
def test_broken_json_says_where(broken, says):
    with pytest.raises(InvalidRequestError) as caught:
        decode_embedding_request(broken)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["metadata", "priority", "request_id"])
def test_fields_that_clients_send_and_that_mean_nothing_here_are_ignored(name):
    plain = decode_embedding_request(body(input="a"))
    for value in ("x", 3, {"a": [1]}, None):
        assert decode_embedding_request(body(input="a", **{name: value})) == plain


def test_what_is_said_to_a_gateway_is_kept_for_one_and_read_by_no_other():
    call = decode_embedding_request(body(input="a", user="u", provider=3, providerOptions="x"))
    assert (call.routing.user, call.routing.provider, call.routing.provider_options) == ("u", 3, "x")
    assert replace(call, routing=RoutingFields()) == decode_embedding_request(body(input="a"))


@pytest.mark.parametrize("name", ["truncate", "truncate_sequence"])
@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (True, Truncate.END),
        (False, Truncate.ERROR),
        (None, Truncate.ERROR),
        ("end", Truncate.END),
        ("start", Truncate.START),
        ("error", Truncate.ERROR),
    ],
)
def test_truncate_may_be_a_word_or_a_boolean_under_either_name(name, value, meaning):
    assert decode_embedding_request(body(input="a", **{name: value})).request.truncate is meaning


def test_null_is_the_same_as_leaving_a_field_out():
    optional = [field.encode_name for field in msgspec.structs.fields(EmbeddingBody) if field.name != "input"]
    assert decode_embedding_request(body(input="a", **dict.fromkeys(optional))) == decode_embedding_request(
        body(input="a")
    )


def test_a_plain_request_shows_an_upstream_only_fields_of_openai():
    call = EmbeddingCall(request=EmbeddingRequest(inputs=["a"], dimensions=64), model="m")
    assert set(orjson.loads(encode_embedding_request(call))) == {"model", "input", "dimensions", "encoding_format"}


def test_a_reply_of_openai_itself_is_read():
    reply = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 1, "embedding": [3.0, 4.0]},
            {"object": "embedding", "index": 0, "embedding": [1, 2]},
        ],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    result = decode_embedding_response(orjson.dumps(reply))
    assert result.vectors.tolist() == [[1, 2], [3, 4]]
    assert sum(result.num_tokens) == 7
    assert result.truncated == (False, False)


@pytest.mark.parametrize("rows", [["!!!"], ["AAA="], [[1.0], [1.0, 2.0]]])
def test_vectors_that_cannot_be_read_are_an_error_not_a_guess(rows):
    reply = {
        "data": [{"index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": "m",
        "usage": {},
    }
    with pytest.raises(InternalError):
        decode_embedding_response(orjson.dumps(reply))


def test_models_survive_the_wire():
    infos = (FakeEmbeddingModel().info, FakeRerankModel().info)
    listed = [ListedModel(name=info.name, created=1, info=info) for info in infos]
    assert decode_models(encode_models(listed)) == infos


def test_models_that_take_no_requests_are_listed_but_not_offered():
    failed = ListedModel(name="a/b", created=1, status=ModelStatus.FAILED, error="Broken.", aliases=("c",))
    body = orjson.loads(encode_models([failed]))
    assert (body["data"][0]["status"], body["data"][0]["error"]) == ("failed", "Broken.")
    assert body["data"][0]["dimensions"] is None
    assert decode_models(orjson.dumps(body)) == ()


def test_every_field_of_a_request_is_described():
    schema = msgspec.json.schema_components([EmbeddingBody])[1]["EmbeddingBody"]["properties"]
    assert set(RequestBody.__struct_encode_fields__) < set(schema)
    assert [name for name, field in schema.items() if not field.get("description")] == []
