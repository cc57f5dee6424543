import hashlib
import json

import pytest
from hypothesis import given

from quernel.errors import InvalidRequestError, TokenizerError
from quernel.prompts.tokenizer import Tokenizer
from tests.prompts.texts import texts, unhurried
from tests.support.tokenizers import (
    DATA,
    END_ID,
    OFFICIAL_ADDED_TOKENS,
    THINK_TOKENS,
    VOCAB_SIZE,
    official_tokenizer_json,
    tiny_tokenizer_json,
)

PUBLISHED_SHA256 = {
    "qwen3-embedding-0.6b": "def76fb086971c7867b829c23a26261e38d9d74e02139253b38aeb9df8b4b50a",
    "qwen3-embedding-4b-8b": "83cdf8c3a34f68862319cb1810ee7b1e2c0a44e0864ae930194ddb76bb7feb8d",
    "qwen3-reranker": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
}
END_OFFICIAL = 151643


def _vectors():
    for vector_set in json.loads((DATA / "vectors.json").read_text(encoding="utf-8"))["sets"]:
        for number, case in enumerate(vector_set["cases"]):
            for name in vector_set.get("tokenizers") or [case["tokenizer"]]:
                appends = case.get("add_special_tokens", vector_set.get("add_special_tokens"))
                yield pytest.param(name, case, appends, id=f"{vector_set['name']}-{number}-{name}")


@pytest.mark.parametrize("name", PUBLISHED_SHA256)
def test_the_stored_copy_gives_the_published_file_byte_for_byte(name):
    content = official_tokenizer_json(name, indent=2).encode()
    assert hashlib.sha256(content).hexdigest() == PUBLISHED_SHA256[name]


@pytest.mark.parametrize(("name", "case", "appends"), list(_vectors()))
def test_published_vectors_hold(official, name, case, appends):
    expected = case["ids"]
    if appends and name != "qwen3-reranker":  # What the file itself would append, the prompts append.
        assert expected[-1] == END_OFFICIAL
        expected = expected[:-1]
    assert official(name).encode(case["text"])[: case.get("max_length", len(expected) + 2) - 1] == expected


def test_vocabulary_counts_added_tokens(official, tiny):
    assert official("qwen3-reranker").vocab_size == 151_669
    assert official("qwen3-embedding-4b-8b").vocab_size == 151_665
    assert tiny.vocab_size == VOCAB_SIZE


def test_the_end_is_endoftext_in_every_file(official, tiny):
    assert {official(name).end_id for name in PUBLISHED_SHA256} == {END_OFFICIAL}
    assert tiny.end_id == END_ID


def test_nothing_is_appended(tiny):
    assert tiny.encode("yes") == [tiny.token_id("yes")]
    assert tiny.encode("") == []


def test_a_batch_equals_single_texts(official):
    tokenizer = official("qwen3-embedding-0.6b")
    batch = ["", "one <think>", "two three", "", "\ncafe\u0301"]
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_plain_batch(batch) == [tokenizer.encode_plain(text) for text in batch]


@unhurried
@given(text=texts)
def test_plain_text_never_holds_an_added_token(official, text):
    ids = official("qwen3-reranker").encode_plain(text)
    assert max(ids, default=0) < END_OFFICIAL


@pytest.mark.parametrize("token", OFFICIAL_ADDED_TOKENS)
def test_a_token_string_is_the_token_for_the_reference_and_characters_in_plain_text(official, token):
    tokenizer = official("qwen3-reranker")
    assert tokenizer.encode(token) == [tokenizer.token_id(token)]
    assert tokenizer.decode(tokenizer.encode_plain(token)) == token
    assert len(tokenizer.encode_plain(token)) > 1


@unhurried
@given(text=texts)
def test_plain_and_reference_agree_on_texts_without_token_strings(official, text):
    tokenizer = official("qwen3-reranker")
    if any(token in text for token in OFFICIAL_ADDED_TOKENS):
        return
    assert tokenizer.encode(text) == tokenizer.encode_plain(text)


@unhurried
@given(text=texts)
def test_split_runs_joined_are_the_ids_of_the_whole(official, text):
    tokenizer = official("qwen3-embedding-0.6b")
    whole = tokenizer.encode(text)
    for at in range(len(text) + 2):
        (runs,) = tokenizer.encode_split_batch([text], at=at)
        assert [token for run in runs for token in run] == whole
        assert all(runs)


def test_decoding_gives_the_text_back_special_tokens_included(tiny):
    assert tiny.decode(tiny.encode("a <think>\n<|im_end|>é")) == "a <think>\n<|im_end|>é"


@pytest.mark.parametrize("encode", ["encode", "encode_plain"])
def test_half_a_surrogate_pair_is_refused(tiny, encode):
    with pytest.raises(InvalidRequestError, match=r"U\+D800.*valid Unicode"):
        getattr(tiny, encode)("fine \ud800 until here")


def test_an_absent_token_is_an_error_that_names_it(tiny):
    with pytest.raises(TokenizerError, match="nonesuch"):
        tiny.token_id("nonesuch")


def test_a_file_without_the_end_token_is_refused_when_it_is_asked_for():
    content = json.loads(tiny_tokenizer_json(appends_end=False))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in THINK_TOKENS]
    with pytest.raises(TokenizerError, match="endoftext"):
        _ = Tokenizer.from_json(json.dumps(content)).end_id


def test_a_limit_or_padding_stored_in_the_file_has_no_effect():
    content = json.loads(tiny_tokenizer_json(appends_end=False))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    assert len(Tokenizer.from_json(json.dumps(content)).encode("abcd")) == 4


def test_load_reads_the_file_of_a_folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer_json(appends_end=True), encoding="utf-8")
    assert Tokenizer.load(tmp_path).vocab_size == VOCAB_SIZE


def test_a_missing_file_is_named_with_the_way_out(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist.*save_pretrained"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model": 1}', b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*Download"):
        Tokenizer.load(tmp_path)
