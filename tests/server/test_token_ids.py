"""Whose token ids they are. With real ids of cl100k: tests/clients/test_langchain_openai.py."""

import pytest

from quernel.errors import ForeignTokenIdsError, SettingsError
from quernel.server import token_ids
from quernel.server.token_ids import cl100k_decoder, read_token_ids
from quernel.testing import FakeEmbeddingModel
from quernel.types import EmbeddingRequest, Token
from tests.support.tokenizers import official_tokenizer_json


class Tokenizing(FakeEmbeddingModel):
    """A fake model with the family's real tokenizer."""

    def __init__(self, tokenizer):
        super().__init__(vocab_size=151_669)
        self.tokenizer = tokenizer

    def tokenize(self, texts, *, add_special_tokens=True, prompt_name=None):
        return [self.tokenizer.encode_tokens(text, add_end=add_special_tokens) for text in texts]

    def detokenize(self, ids, *, skip_special_tokens=True):
        return [self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens) for row in ids]


@pytest.fixture(scope="module")
def model():
    from quernel.prompts.tokenizer import Tokenizer

    return Tokenizing(Tokenizer.from_json(official_tokenizer_json("qwen3-embedding-0.6b")))


def asking(*rows):
    return EmbeddingRequest(inputs=rows)


LONG = "A text of ordinary words, which is long enough to show whose tokenizer has divided it into these tokens here."


def test_ids_that_show_whose_they_are_are_believed(model):
    end, long = model.tokenizer.end_id, model.tokenizer.encode(LONG)
    for request in (asking([*long, end], [9707, end]), asking([9707, 151_645]), asking([9707], [end]), asking([])):
        assert read_token_ids(request, model, "check") is request


def test_others_are_refused_with_the_clients_switch(model):
    long = model.tokenizer.encode(LONG)
    for request in (asking(long), asking([9707]), asking([9707], long)):
        with pytest.raises(ForeignTokenIdsError, match="check_embedding_ctx_length=False"):
            read_token_ids(request, model, "check")


def test_with_a_small_vocabulary_every_text_must_be_closed(model):
    class Small(Tokenizing):
        def tokenize(self, texts, **options):
            return [[Token(id=284, text="<|endoftext|>", special=True)] for _ in texts]

    small = Small(model.tokenizer)
    closed = asking([1, 2, 284], [284], [])
    assert read_token_ids(closed, small, "check") is closed
    with pytest.raises(ForeignTokenIdsError):
        read_token_ids(asking([1, 2, 284], [3]), small, "check")


def test_the_operator_decides(model):
    request = asking([1, 2, 3])
    assert read_token_ids(request, model, "accept") is request
    with pytest.raises(ForeignTokenIdsError, match="takes no token ids"):
        read_token_ids(request, model, "refuse")
    texts = EmbeddingRequest(inputs=["a"])
    for policy in ("check", "accept", "refuse", "cl100k"):
        assert read_token_ids(texts, model, policy) is texts


def test_cl100k_is_read_as_text(model, monkeypatch):
    words = {1: "Hello", 2: ", world"}
    monkeypatch.setattr(token_ids, "cl100k_decoder", lambda: lambda row: "".join(words[token] for token in row))
    request = read_token_ids(asking([1, 2], [2]), model, "cl100k")
    assert request.inputs == ["Hello, world", ", world"]


def test_without_the_vocabulary_the_setting_is_refused(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken", reason="the extra tiktoken is not installed")

    def get_encoding(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", get_encoding)
    cl100k_decoder.cache_clear()
    with pytest.raises(SettingsError, match="TIKTOKEN_CACHE_DIR"):
        cl100k_decoder()
