"""The AI SDK's gateway protocol, from both ends. The real clients are in `tests/clients/test_ai_sdk_clients.py`."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quernel import errors
from quernel.errors import EmptyInputError, InternalError, InvalidRequestError
from quernel.protocols import ai_gateway, ai_gateway_catalogue
from quernel.protocols.ai_gateway import (
    EMBEDDING_OPTIONS,
    MAX_WARNINGS,
    MOUNTS,
    RERANK_OPTIONS,
    GatewayEmbeddingReply,
    GatewayRerankReply,
    decode_embedding_reply,
    decode_embedding_request,
    decode_reranking_reply,
    decode_reranking_request,
    encode_embedding_call,
    encode_embedding_reply,
    encode_reranking_call,
    encode_reranking_reply,
    request_headers,
)
from quernel.protocols.ai_gateway_catalogue import (
    CatalogueModel,
    CredentialType,
    DatePart,
    GenerationInfo,
    GroupBy,
    ReportQuery,
    ReportRow,
    decode_report_query,
    encode_config,
    encode_credits,
    encode_generation,
    encode_report,
)
from quernel.protocols.ai_gateway_errors import AI_GATEWAY_ERRORS, GatewayErrorReply, encode_gateway_error
from quernel.protocols.ai_gateway_warnings import MAX_POSITIONS, GatewayWarning, WarningKind
from quernel.protocols.error_body import MAX_MESSAGE, UNION
from quernel.protocols.provider_options import ProviderOptions
from quernel.protocols.tei import TEI_ERRORS
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelKind,
    RankedDocument,
    RerankRequest,
    RerankResult,
    Truncate,
)

VERSIONS = sorted(MOUNTS.values())
texts = st.text(st.characters(exclude_categories=["Cs"]))
some_texts = st.lists(texts, min_size=1, max_size=5)
instructions = st.none() | texts
embedding_requests = st.builds(
    EmbeddingRequest,
    inputs=some_texts,
    instruction=instructions,
    input_type=st.sampled_from([None, InputType.QUERY]),
    prompt_name=st.none() | texts,
    dimensions=st.none() | st.integers(1, 10_000),
    normalize=st.none() | st.booleans(),
    truncate=st.sampled_from(Truncate),
)
rerank_requests = st.builds(
    RerankRequest,
    query=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    documents=some_texts,
    instruction=instructions,
    top_n=st.none() | st.integers(1, 9),
    truncate=st.sampled_from(Truncate),
    max_tokens_per_document=st.none() | st.integers(1, 10_000),
)
warnings_of_version_4 = st.lists(
    st.builds(GatewayWarning, st.just(WarningKind.OTHER), texts.filter(bool))
    | st.builds(
        GatewayWarning,
        st.sampled_from([kind for kind in WarningKind if kind is not WarningKind.OTHER]),
        texts.filter(bool),
        texts.filter(bool),
    )
)


def embedding(body, version="4"):
    return decode_embedding_request(orjson.dumps(body), model="m", version=version)


def reranking(body, version="4"):
    body = {"query": "q", "documents": {"type": "text", "values": ["a", "b"]}} | body
    return decode_reranking_request(orjson.dumps(body), model="m", version=version)


def vectors_of(*rows, truncated=None):
    count = len(rows)
    return EmbeddingResult(
        vectors=np.array(rows, np.float32),
        num_tokens=tuple(range(1, count + 1)),
        truncated=tuple(truncated or [False] * count),
        model="m",
    )


def order_of(*scores, truncated=None):
    ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
    return RerankResult(
        results=tuple(RankedDocument(index, score, np.log(score / (1 - score))) for index, score in ranked),
        num_tokens=(3,) * len(scores),
        truncated=tuple(truncated or [False] * len(scores)),
        model="m",
    )


# Requests


@pytest.mark.parametrize(
    ("version", "body", "inputs"),
    [
        ("2", {"input": "one"}, ["one"]),
        ("2", {"input": ["one", "two"]}, ["one", "two"]),
        ("3", {"values": ["one"]}, ["one"]),
        ("4", {"values": ["one", ""], "dimensions": 64}, ["one", ""]),
    ],
)
def test_each_version_names_its_texts_in_its_own_way(version, body, inputs):
    call = embedding(body, version)
    assert call.request == EmbeddingRequest(inputs=inputs, dimensions=body.get("dimensions"))
    assert (call.model, call.version, call.options, call.warnings) == ("m", version, ProviderOptions(), ())


@given(embedding_requests, st.sampled_from(VERSIONS))
def test_a_request_for_vectors_survives_the_wire(request, version):
    body = encode_embedding_call(request, version, to_quernel=True)
    call = decode_embedding_request(body, model="m", version=version)
    assert call.request == request


@given(rerank_requests, st.sampled_from(VERSIONS))
def test_a_request_for_an_order_survives_the_wire(request, version):
    call = decode_reranking_request(encode_reranking_call(request, to_quernel=True), model="m", version=version)
    assert (call.request, call.warnings) == (request, ())


@given(embedding_requests)
def test_what_we_send_is_nothing_new_to_ourselves(request):
    call = decode_embedding_request(encode_embedding_call(request, to_quernel=True), model="m", version="4")
    assert call.warnings == ()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2", {"input": "one"}),
        ("3", {"values": ["one"]}),
        ("4", {"values": ["one"]}),
    ],
)
def test_another_gateway_is_asked_as_the_client_of_its_version_asks(version, expected):
    assert orjson.loads(encode_embedding_call(EmbeddingRequest(inputs=["one"]), version)) == expected


def test_dimensions_stand_at_the_top_in_version_4():
    body = encode_embedding_call(EmbeddingRequest(inputs=["a"], dimensions=64))
    assert orjson.loads(body) == {"values": ["a"], "dimensions": 64}


def test_a_request_for_an_order_is_written_as_the_client_does():
    request = RerankRequest(query="q", documents=["a", "b"], top_n=1, truncate=Truncate.END)
    assert orjson.loads(encode_reranking_call(request)) == {
        "documents": {"type": "text", "values": ["a", "b"]},
        "query": "q",
        "topN": 1,
    }


def test_what_binds_a_request_goes_with_it_to_another_gateway():
    options = ProviderOptions(user="u", zero_data_retention=True)
    for body in (
        encode_embedding_call(EmbeddingRequest(inputs=["a"]), options=options),
        encode_reranking_call(RerankRequest(query="q", documents=["a"]), options=options),
    ):
        assert orjson.loads(body)["providerOptions"] == {"gateway": {"user": "u", "zeroDataRetention": True}}


@pytest.mark.parametrize(
    ("version", "changed"),
    [
        ("4", {"inputs": [[1, 2]]}),
        ("4", {"instruction": "x"}),
        ("4", {"input_type": InputType.DOCUMENT}),
        ("4", {"prompt_name": "query"}),
        ("4", {"normalize": False}),
        ("4", {"truncate": Truncate.START}),
        ("3", {"dimensions": 64}),
        ("2", {"dimensions": 64}),
    ],
)
def test_what_another_gateway_would_pass_over_is_refused(version, changed):
    request = EmbeddingRequest(**{"inputs": ["a"]} | changed)
    with pytest.raises(InvalidRequestError):
        encode_embedding_call(request, version)


@pytest.mark.parametrize(
    "changed", [{"instruction": "x"}, {"max_tokens_per_document": 3}, {"truncate": Truncate.START}]
)
def test_what_another_gateway_would_pass_over_in_reranking_is_refused(changed):
    with pytest.raises(InvalidRequestError):
        encode_reranking_call(RerankRequest(query="q", documents=["a"], **changed))


@pytest.mark.parametrize("owner", ["gateway", "alibaba", "qwen", "openai", "openaiCompatible", "deepinfra", "quernel"])
@pytest.mark.parametrize(("version", "kind"), [("2", "other"), ("3", "other"), ("4", "deprecated")])
def test_dimensions_count_where_callers_put_them_and_a_warning_says_so(owner, version, kind):
    call = embedding({"values": ["a"], "providerOptions": {owner: {"dimensions": 64}}}, version)
    assert call.request.dimensions == 64
    assert [(warning.kind, warning.subject) for warning in call.warnings] == [
        (WarningKind.DEPRECATED, f"providerOptions.{owner}.dimensions")
    ]
    reply = orjson.loads(encode_embedding_reply(vectors_of([1.0]), version=version, warnings=call.warnings))
    assert [warning["type"] for warning in reply["warnings"]] == [kind]


@pytest.mark.parametrize("owner", ["quernel", "gateway", "alibaba"])
@pytest.mark.parametrize("spelling", ["inputType", "input_type"])
def test_our_own_options_are_read_in_either_spelling(owner, spelling):
    call = embedding({"values": ["a"], "providerOptions": {owner: {spelling: "query", "truncate": "end"}}})
    assert call.request == EmbeddingRequest(inputs=["a"], input_type=InputType.QUERY, truncate=Truncate.END)
    assert call.warnings == ()


def test_our_own_options_of_reranking_are_read():
    options = {"instruction": "i", "truncate": True, "max_tokens_per_doc": 9}
    request = reranking({"topN": 1, "providerOptions": {"quernel": options}}).request
    assert request == RerankRequest(
        query="q", documents=["a", "b"], top_n=1, instruction="i", truncate=Truncate.END, max_tokens_per_document=9
    )


@pytest.mark.parametrize("table", [EMBEDDING_OPTIONS, RERANK_OPTIONS])
def test_every_option_is_a_field_of_the_request(table):
    neutral = {**EmbeddingRequest.__annotations__, **RerankRequest.__annotations__}
    assert {field for field, _ in table.values()} <= set(neutral)


def test_where_a_request_may_go_is_read_with_it():
    options = {"gateway": {"order": ["alibaba"], "dimensions": 64, "instruction": "x"}}
    call = embedding({"values": ["a"], "providerOptions": options})
    assert call.options == ProviderOptions(order=("alibaba",))
    assert (call.request.dimensions, call.request.instruction) == (64, "x")
    assert reranking({"providerOptions": {"gateway": {"only": ["b"]}}}).options.only == ("b",)


def test_the_same_said_twice_is_fine():
    options = {"alibaba": {"dimensions": 64}, "openai": {"dimensions": 64}}
    assert embedding({"values": ["a"], "dimensions": 64, "providerOptions": options}).request.dimensions == 64


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({}, InvalidRequestError, "values"),
        ({"values": ["a"], "input": "a"}, InvalidRequestError, "values"),
        ({"values": []}, EmptyInputError, "values"),
        ({"input": []}, EmptyInputError, "input"),
        ({"values": "a"}, InvalidRequestError, "values"),
        ({"values": ["a", 1]}, InvalidRequestError, "values[1]"),
        ({"values": ["a"] * 2049}, InvalidRequestError, "values"),
        ({"values": ["a"], "dimensions": "64"}, InvalidRequestError, "dimensions"),
        ({"values": ["a"], "providerOptions": []}, InvalidRequestError, "providerOptions"),
        ({"values": ["a"], "providerOptions": {"gateway": []}}, InvalidRequestError, "providerOptions.gateway"),
        ({"values": ["a"], "providerOptions": {"openai": 1}}, InvalidRequestError, "providerOptions.openai"),
        (
            {"values": ["a"], "providerOptions": {"openai": {"dimensions": "64"}}},
            InvalidRequestError,
            "providerOptions.openai.dimensions",
        ),
        (
            {"values": ["a"], "dimensions": 32, "providerOptions": {"openai": {"dimensions": 64}}},
            InvalidRequestError,
            "providerOptions.openai.dimensions",
        ),
        (
            {"values": ["a"], "providerOptions": {"quernel": {"inputType": "question"}}},
            InvalidRequestError,
            "providerOptions.quernel.inputType",
        ),
        (
            {"values": ["a"], "providerOptions": {"quernel": {"truncate": "middle"}}},
            InvalidRequestError,
            "providerOptions.quernel.truncate",
        ),
        (
            {"values": ["a"], "providerOptions": {"gateway": {"order": "x"}}},
            InvalidRequestError,
            "providerOptions.gateway.order",
        ),
    ],
)
def test_what_is_wrong_is_named(body, error, param):
    with pytest.raises(error) as caught:
        embedding(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("changed", "error", "param"),
    [
        ({"documents": ["a"]}, InvalidRequestError, "documents"),
        ({"documents": {"values": ["a"]}}, InvalidRequestError, "documents.type"),
        ({"documents": {"type": "image", "values": ["a"]}}, InvalidRequestError, "documents.type"),
        ({"documents": {"type": "text", "values": [{}]}}, InvalidRequestError, "documents.values[0]"),
        ({"documents": {"type": "object", "values": ["a"]}}, InvalidRequestError, "documents.values[0]"),
        ({"documents": {"type": "text", "values": []}}, EmptyInputError, "documents"),
        ({"query": ""}, EmptyInputError, "query"),
        ({"query": None}, InvalidRequestError, "query"),
        ({"topN": 0}, InvalidRequestError, "top_n"),
        ({"topN": "1"}, InvalidRequestError, "topN"),
    ],
)
def test_what_is_wrong_in_reranking_is_named(changed, error, param):
    with pytest.raises(error) as caught:
        reranking(changed)
    assert caught.value.param == param


def test_what_is_not_known_changes_nothing_but_is_not_passed_over_in_silence():
    options = {"gateway": {"caching": "auto"}, "quernel": {"instructon": "x"}, "cohere": {"priority": 1}}
    for call in (embedding({"values": ["a"], "task": "x", "providerOptions": options}), reranking({"task": "x"})):
        assert {warning.kind for warning in call.warnings} == {WarningKind.UNSUPPORTED}
    call = embedding({"values": ["a"], "task": "x", "providerOptions": options})
    assert [warning.subject for warning in call.warnings] == [
        "task",
        "providerOptions.gateway.caching",
        "providerOptions.quernel.instructon",
    ]
    assert call.request == EmbeddingRequest(inputs=["a"])


def test_a_thousand_unknown_fields_are_not_all_repeated():
    call = embedding({"values": ["a"]} | {"x" * 10_000 + str(index): 1 for index in range(1000)})
    assert len(call.warnings) == MAX_WARNINGS
    assert len(encode_embedding_reply(vectors_of([1.0]), version="4", warnings=call.warnings)) < 20_000


def test_an_object_is_read_as_json_with_its_keys_as_they_came():
    objects = '[{"title": "Zürich", "a": {"n": [1, 2.50, 12345678901234567890123]}}]'
    body = f'{{"query": "q", "documents": {{"type": "object", "values": {objects}}}}}'.encode()
    call = decode_reranking_request(body, model="m", version="4")
    assert call.request.documents == ['{"title":"Zürich","a":{"n":[1,2.5,12345678901234567890123]}}']
    assert [(warning.kind, warning.subject) for warning in call.warnings] == [
        (WarningKind.COMPATIBILITY, "object documents")
    ]


def test_an_object_of_any_depth_is_read_or_refused():
    refused = 0
    for depth in (10, *range(900, 1100), 10**5):
        nested = b"[" * depth + b"]" * depth
        body = b'{"query": "q", "documents": {"type": "object", "values": [{"a": ' + nested + b"}]}}"
        try:
            decode_reranking_request(body, model="m", version="4")
        except InvalidRequestError:
            refused += 1
    assert 0 < refused < 200


def test_texts_as_documents_need_no_warning():
    assert reranking({}).warnings == ()


# Replies


def test_vectors_are_written_as_the_protocol_has_them():
    result = vectors_of([0.5, -1.0], [0.1, 2.0])
    assert orjson.loads(encode_embedding_reply(result, version="4", metadata={"generationId": "gen_1"})) == {
        "embeddings": [[0.5, -1.0], [0.1, 2.0]],
        "usage": {"tokens": 3},
        "warnings": [],
        "providerMetadata": {"gateway": {"generationId": "gen_1"}},
    }


def test_vectors_are_written_in_the_digits_of_float32():
    assert b"[[0.1]]" in encode_embedding_reply(vectors_of([0.1]), version="4")


def test_an_order_is_written_as_the_protocol_has_it():
    assert orjson.loads(encode_reranking_reply(order_of(0.25, 0.75), version="3")) == {
        "ranking": [{"index": 1, "relevanceScore": 0.75}, {"index": 0, "relevanceScore": 0.25}],
        "usage": {"tokens": 6},
        "warnings": [],
    }


@pytest.mark.parametrize("version", VERSIONS)
@given(warnings_of_version_4)
def test_a_warning_has_only_forms_that_its_version_knows(version, warnings):
    for body in (
        encode_embedding_reply(vectors_of([1.0]), version=version, warnings=warnings),
        encode_reranking_reply(order_of(0.5), version=version, warnings=warnings),
    ):
        told = orjson.loads(body)["warnings"]
        assert len(told) == len(warnings)
        for warning in told:
            needed = {
                "unsupported": {"feature", "details"},
                "compatibility": {"feature", "details"},
                "other": {"message"},
                **({"deprecated": {"setting", "message"}} if version == "4" else {}),
            }[warning["type"]]
            assert set(warning) == needed | {"type"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_text_that_was_cut_is_told(version):
    cut = [False, True, False, True]
    result = vectors_of(*[[1.0]] * 4, truncated=cut)
    (warning,) = orjson.loads(encode_embedding_reply(result, version=version))["warnings"]
    assert (warning["type"], "1, 3" in warning["message"]) == ("other", True)
    (warning,) = orjson.loads(encode_reranking_reply(order_of(*[0.5] * 4, truncated=cut), version=version))["warnings"]
    assert "documents were cut, being too long: 1, 3" in warning["message"]


def test_many_texts_that_were_cut_are_counted():
    result = vectors_of(*[[1.0]] * 100, truncated=[True] * 100)
    (warning,) = orjson.loads(encode_embedding_reply(result, version="4"))["warnings"]
    assert f"and {100 - MAX_POSITIONS} more" in warning["message"]


@given(
    arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    warnings_of_version_4,
)
def test_vectors_survive_the_wire_to_the_last_bit(vectors, warnings):
    result = EmbeddingResult(vectors=vectors, num_tokens=(5, 2, 3), truncated=(False,) * 3, model="m")
    metadata = {"generationId": "gen_1", "cost": "0.0000025"}
    body = encode_embedding_reply(result, version="4", warnings=warnings, metadata=metadata)
    answer = decode_embedding_reply(body, model="m")
    assert answer.result.vectors.dtype == np.float32
    np.testing.assert_array_equal(answer.result.vectors, vectors)
    assert (sum(answer.result.num_tokens), len(answer.result.num_tokens)) == (10, 3)
    assert (answer.cost, answer.generation_id) == (Decimal("0.0000025"), "gen_1")
    assert answer.warnings == tuple(warnings)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6), st.integers(1, 6))
def test_an_order_survives_the_wire(scores, top_n):
    request = RerankRequest(query="q", documents=["d"] * len(scores), top_n=top_n)
    sent = order_of(*scores)
    answer = decode_reranking_reply(encode_reranking_reply(sent, version="4"), request, model="m")
    assert [(one.index, one.relevance_score) for one in answer.result.results] == [
        (one.index, one.relevance_score) for one in sent.results[:top_n]
    ]
    for ours, theirs in zip(answer.result.results, sent.results, strict=False):
        assert ours.logit == pytest.approx(theirs.logit, rel=1e-6, abs=1e-6)
    assert sum(answer.result.num_tokens) == 3 * len(scores)
    assert (answer.cost, answer.generation_id, answer.warnings) == (None, None, ())


def test_an_order_that_is_not_sorted_is_sorted():
    body = b'{"ranking": [{"index": 0, "relevanceScore": 0.1}, {"index": 2, "relevanceScore": 0.9}]}'
    request = RerankRequest(query="q", documents=["a", "b", "c"])
    assert [one.index for one in decode_reranking_reply(body, request, model="m").result.results] == [2, 0]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"embeddings": [[1, null]]}',
        b'{"embeddings": [[1], [1, 2]]}',
        b'{"embeddings": [["1"]]}',
        b'{"embeddings": "AACAPw=="}',
    ],
)
def test_vectors_that_cannot_be_read_are_an_error(body):
    with pytest.raises(InternalError):
        decode_embedding_reply(body, model="m")


@pytest.mark.parametrize(
    "ranking",
    [
        [{"index": 2, "relevanceScore": 0.5}],
        [{"index": -1, "relevanceScore": 0.5}],
        [{"index": 0.5, "relevanceScore": 0.5}],
        [{"index": 0, "relevanceScore": None}],
        [{"index": 1, "relevanceScore": 0.5}, {"index": 1, "relevanceScore": 0.4}],
    ],
)
def test_an_order_that_cannot_be_is_an_error(ranking):
    with pytest.raises(InternalError):
        decode_reranking_reply(
            orjson.dumps({"ranking": ranking}), RerankRequest(query="q", documents=["a", "b"]), model="m"
        )


@pytest.mark.parametrize(
    ("told", "cost"),
    [
        ("0.0000045", Decimal("0.0000045")),
        (0.5, Decimal("0.5")),
        (0, Decimal(0)),
        ("", None),
        ("free", None),
        ("NaN", None),
        ("-1", None),
        (None, None),
        ({"usd": 1}, None),
    ],
)
def test_a_cost_that_is_no_amount_does_not_spoil_an_answer(told, cost):
    body = {"embeddings": [[1.0]], "usage": None, "providerMetadata": {"gateway": {"cost": told, "generationId": 1}}}
    answer = decode_embedding_reply(orjson.dumps(body), model="m")
    assert (answer.cost, answer.generation_id, answer.result.num_tokens) == (cost, None, (0,))


def test_what_another_gateway_says_besides_is_passed_over():
    body = {
        "embeddings": [[1.0]],
        "usage": {"tokens": 4, "x": 1},
        "providerMetadata": {"openai": {"a": 1}},
        "warnings": [{"type": "later", "message": "new"}],
        "rateLimit": {},
    }
    answer = decode_embedding_reply(orjson.dumps(body), model="m")
    assert answer.result.num_tokens == (4,)
    assert answer.warnings == (GatewayWarning(WarningKind.OTHER, "new"),)


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (GatewayEmbeddingReply, encode_embedding_reply(vectors_of([1.0]), version="4", metadata={})),
        (GatewayRerankReply, encode_reranking_reply(order_of(0.5), version="4", metadata={})),
        (GatewayErrorReply, encode_gateway_error("x", status=404, code="model_not_found", param="m")),
    ],
)
def test_replies_have_the_documented_shape(shape, body):
    class Strict(shape, forbid_unknown_fields=True):
        pass

    msgspec.json.decode(body, type=Strict)


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (ModelKind.EMBEDDING, "ai-embedding-model-specification-version"),
        (ModelKind.RERANKER, "ai-reranking-model-specification-version"),
    ],
)
def test_the_headers_of_a_request_are_the_clients(kind, header):
    assert request_headers("alibaba/qwen3-embedding-0.6b", kind, "3") == {
        "content-type": "application/json",
        "ai-gateway-protocol-version": "0.0.1",
        "ai-gateway-auth-method": "api-key",
        header: "3",
        "ai-model-id": "alibaba/qwen3-embedding-0.6b",
    }


# What a client looks up


@pytest.mark.parametrize(("mount", "literal"), [("/v1/ai", "v2"), ("/v3/ai", "v3"), ("/v4/ai", "v4")])
def test_a_model_names_the_version_of_its_path(mount, literal):
    models = [
        CatalogueModel(
            id="alibaba/qwen3-embedding-0.6b",
            name="Qwen3 Embedding 0.6B",
            kind=ModelKind.EMBEDDING,
            description="Texts to vectors.",
            input_price="0.00000001",
        ),
        CatalogueModel(id="tiny", name="Tiny", kind=ModelKind.RERANKER),
    ]
    assert orjson.loads(encode_config(models, MOUNTS[mount])) == {
        "models": [
            {
                "id": "alibaba/qwen3-embedding-0.6b",
                "name": "Qwen3 Embedding 0.6B",
                "description": "Texts to vectors.",
                "pricing": {"input": "0.00000001", "output": "0"},
                "specification": {
                    "specificationVersion": literal,
                    "provider": "alibaba",
                    "modelId": "alibaba/qwen3-embedding-0.6b",
                },
                "modelType": "embedding",
            },
            {
                "id": "tiny",
                "name": "Tiny",
                "specification": {"specificationVersion": literal, "provider": "quernel", "modelId": "tiny"},
                "modelType": "reranking",
            },
        ]
    }


def test_every_kind_of_model_has_a_word_of_the_clients():
    assert set(ai_gateway_catalogue.MODEL_TYPES) == set(ai_gateway.SPECIFICATION_HEADERS) == set(ModelKind)


def test_credits_are_text():
    assert orjson.loads(encode_credits("95.50", "4.50")) == {"balance": "95.50", "total_used": "4.50"}


def test_a_generation_has_every_field_that_the_client_insists_on():
    info = GenerationInfo(
        id="gen_1",
        model="alibaba/qwen3-embedding-0.6b",
        provider="deepinfra",
        created_at=datetime(2026, 11, 2, 13, 4, 5, 600_000, tzinfo=timezone(timedelta(hours=1))),
        total_cost="0.000012",
        market_cost="0.00001",
        latency_seconds=0.0125,
        generation_seconds=0.02,
        num_tokens=1200,
        num_cached_tokens=200,
    )
    assert orjson.loads(encode_generation(info)) == {
        "data": {
            "id": "gen_1",
            "total_cost": 0.000012,
            "market_cost": 0.00001,
            "upstream_inference_cost": 0,
            "usage": 0.000012,
            "created_at": "2026-11-02T12:04:05.600Z",
            "model": "alibaba/qwen3-embedding-0.6b",
            "is_byok": False,
            "provider_name": "deepinfra",
            "streamed": False,
            "finish_reason": "stop",
            "latency": 12.5,
            "generation_time": 20,
            "native_tokens_prompt": 1200,
            "native_tokens_completion": 0,
            "native_tokens_reasoning": 0,
            "native_tokens_cached": 200,
            "native_tokens_cache_creation": 0,
            "billable_web_search_calls": 0,
        }
    }


def test_a_generation_of_midnight_utc_is_dated_in_utc():
    info = GenerationInfo(
        id="g",
        model="m",
        provider="p",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        total_cost="0",
        latency_seconds=0,
        generation_seconds=0,
        num_tokens=0,
    )
    assert orjson.loads(encode_generation(info))["data"]["created_at"] == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("group_by", "date_part", "group", "field"),
    [
        (GroupBy.DAY, DatePart.DAY, "2026-11-02", "day"),
        (GroupBy.DAY, DatePart.HOUR, "2026-11-02T13:00:00Z", "hour"),
        (GroupBy.USER, DatePart.HOUR, "user-7", "user"),
        (GroupBy.MODEL, DatePart.DAY, "m", "model"),
        (GroupBy.TAG, DatePart.DAY, "chat", "tag"),
        (GroupBy.PROVIDER, DatePart.DAY, "deepinfra", "provider"),
        (GroupBy.CREDENTIAL_TYPE, DatePart.DAY, "byok", "credential_type"),
    ],
)
def test_a_row_of_a_report_says_what_it_is_for(group_by, date_part, group, field):
    row = ReportRow(
        group_by=group_by, group=group, date_part=date_part, total_cost="1.25", num_tokens=9, num_requests=2
    )
    assert orjson.loads(encode_report([row])) == {
        "results": [{field: group, "total_cost": 1.25, "input_tokens": 9, "cached_input_tokens": 0, "request_count": 2}]
    }


def test_a_report_is_asked_for_in_the_query():
    days = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
    whole = {"start": date(2026, 11, 1), "end": date(2026, 11, 30)}
    assert decode_report_query(days | {"team": "x"}) == ReportQuery(**whole)
    assert decode_report_query(
        days
        | {
            "group_by": "tag",
            "date_part": "hour",
            "user_id": "u",
            "model": "m",
            "provider": "p",
            "credential_type": "byok",
            "tags": "a,b,",
        }
    ) == ReportQuery(
        **whole,
        group_by=GroupBy.TAG,
        date_part=DatePart.HOUR,
        user="u",
        model="m",
        provider="p",
        credential_type=CredentialType.BYOK,
        tags=("a", "b"),
    )


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"start_date": None}, "start_date"),
        ({"end_date": "tomorrow"}, "end_date"),
        ({"end_date": "2026-10-31"}, "end_date"),
        ({"group_by": "team"}, "group_by"),
        ({"date_part": "minute"}, "date_part"),
        ({"credential_type": "x"}, "credential_type"),
    ],
)
def test_a_report_that_cannot_be_made_is_refused(changed, param):
    params = {"start_date": "2026-11-01", "end_date": "2026-11-30"} | changed
    with pytest.raises(InvalidRequestError) as caught:
        decode_report_query({name: value for name, value in params.items() if value is not None})
    assert caught.value.param == param


# Errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidRequestError, "invalid_request_error"),
        (errors.InvalidDimensionsError, "invalid_request_error"),
        (errors.NoRouteError, "invalid_request_error"),
        (errors.AuthenticationError, "authentication_error"),
        (errors.InsufficientCreditError, "insufficient_funds"),
        (errors.PermissionDeniedError, "forbidden"),
        (errors.ModelNotFoundError, "model_not_found"),
        (errors.NotFoundError, "not_found"),
        (errors.BodyTooLargeError, "invalid_request_error"),
        (errors.OverloadedError, "rate_limit_exceeded"),
        (errors.LimitExceededError, "rate_limit_exceeded"),
        (errors.InternalError, "internal_server_error"),
        (errors.ProviderError, "internal_server_error"),
        (errors.ModelNotReadyError, "internal_server_error"),
        (errors.DeadlineExceededError, "internal_server_error"),
    ],
)
def test_an_error_has_the_type_by_which_the_client_knows_it(error, kind):
    body = orjson.loads(AI_GATEWAY_ERRORS.encode("What is wrong.", status=error.status, code=error.code))
    assert body == {"error": {"message": "What is wrong.", "type": kind, "param": None, "code": error.code}}
    assert AI_GATEWAY_ERRORS.status(error.status, error.code) == error.status


@pytest.mark.parametrize(
    ("status", "code", "param", "expected"),
    [
        (400, "invalid_dimensions", "dimensions", "dimensions"),
        (404, "model_not_found", "alibaba/none", {"modelId": "alibaba/none"}),
        (404, "model_not_found", "model", None),
        (404, "not_found", "id", "id"),
        (403, "permission_denied", "no-china", {"ruleId": "no-china"}),
        (403, "permission_denied", None, None),
        (424, "no_credential", None, None),
    ],
)
def test_what_an_error_is_about_stands_where_the_client_looks(status, code, param, expected):
    error = orjson.loads(encode_gateway_error("x", status=status, code=code, param=param))["error"]
    assert error["param"] == expected


def test_a_failed_dependency_has_its_type():
    assert b'"failed_dependency"' in encode_gateway_error("x", status=424, code="no_credential")


def test_a_generation_that_failed_is_named():
    body = encode_gateway_error("x", status=502, code="provider_failed", generation_id="gen_1")
    assert orjson.loads(body)["generationId"] == "gen_1"
    assert AI_GATEWAY_ERRORS.of_generation("gen_1").encode("x", status=502, code="provider_failed") == body


@pytest.mark.parametrize("dialect", [UNION, TEI_ERRORS])
def test_a_body_without_a_place_for_a_generation_stays_as_it_is(dialect):
    assert dialect.of_generation("gen_1") is dialect


def test_an_error_that_quotes_a_whole_request_is_cut():
    for code in ("invalid_request", "model_not_found"):
        body = encode_gateway_error("x" * 10**6, status=400, code=code, param="y" * 10**6)
        assert len(body) < 2 * MAX_MESSAGE
