import json
import logging
from functools import cache

import pytest
from hypothesis import given

from quernel.errors import TokenizerError
from quernel.prompts.gguf_tokenizer import build_tokenizer
from tests.prompts.test_tokenizer import _vectors as published_vectors
from tests.prompts.texts import texts, unhurried
from tests.support.gguf import tokenizer_metadata
from tests.support.tokenizers import official_tokenizer_json, tiny_tokenizer_json

VECTORS = [vector.values[:2] for vector in published_vectors() if vector.values[0] != "qwen3-embedding-0.6b"]
"""Without those for the smallest embedder, whose tokens are the reranker's."""


@pytest.fixture(scope="session")
def rebuilt():
    """The official tokenizers, by way of GGUF metadata."""
    return cache(lambda name: build_tokenizer(tokenizer_metadata(json.loads(official_tokenizer_json(name)))))


@pytest.fixture
def metadata():
    return tokenizer_metadata(json.loads(tiny_tokenizer_json(appends_end=True)), num_rows=300)


@pytest.mark.parametrize(("name", "case"), VECTORS)
def test_ids_of_published_vectors_are_those_of_the_official_file(official, rebuilt, name, case):
    assert rebuilt(name).encode(case["text"]) == official(name).encode(case["text"])


@unhurried
@given(text=texts)
def test_ids_are_those_of_the_official_file(official, rebuilt, text):
    ours, theirs = rebuilt("qwen3-reranker"), official("qwen3-reranker")
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode_plain(text) == theirs.encode_plain(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_added_tokens_and_sizes_are_those_of_the_official_files(official, rebuilt):
    for name in ("qwen3-reranker", "qwen3-embedding-4b-8b"):
        assert rebuilt(name).vocab_size == official(name).vocab_size
        assert rebuilt(name).end_id == official(name).end_id == 151_643
    assert rebuilt("qwen3-reranker").token_id("</think>") == 151_668


@pytest.mark.parametrize("types", [None, [1] * 300])
def test_added_tokens_are_found_where_their_types_are_wrong(tiny, metadata, types):
    if types is None:
        metadata = tokenizer_metadata(json.loads(tiny_tokenizer_json(appends_end=True)))
    ours = build_tokenizer(metadata | {"tokenizer.ggml.token_type": types})
    text = "<|im_start|>yes<think>\n\n</think><|im_end|>the [PAD]"
    assert ours.encode(text) == tiny.encode(text)


@pytest.mark.parametrize("pre", [None, "", "default"])
def test_a_file_that_does_not_say_how_to_divide_is_divided_as_the_family(tiny, metadata, caplog, pre):
    with caplog.at_level(logging.WARNING, logger="quernel"):
        ours = build_tokenizer(metadata | {"tokenizer.ggml.pre": pre})
    assert "tokenizer.ggml.pre" in caplog.text
    assert ours.encode("is it?\n 12") == tiny.encode("is it?\n 12")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tokenizer.ggml.tokens": None}, "lack tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": []}, "lack tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": None}, "lack tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["not there"]}, "do not fit"),
        ({"tokenizer.ggml.merges": ["one"]}, "do not fit"),
        ({"tokenizer.ggml.token_type": [1]}, "300 tokens, but types of 1"),
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.pre": "gpt-2"}, "'gpt-2'"),
    ],
)
def test_metadata_of_another_tokenizer_are_refused(metadata, change, match):
    with pytest.raises(TokenizerError, match=match):
        build_tokenizer(metadata | change)
