"""The tokenizer that training makes, against the prompts of the package."""

import pytest

from quernel.errors import SettingsError
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.reranking import RerankPrompts
from quernel.prompts.templates import CARD_TEMPLATE, QUERY_PROMPT
from quernel.prompts.tokenizer import Tokenizer
from quernel.train.vocabulary import END_OF_TEXT, append_end_token, token_id, train_tokenizer
from quernel.types import EmbeddingRequest, InputType, RerankRequest

SIZE = 520
SAMPLE = [
    "the wing of an aircraft in a slipstream :class: and :what it is, 2024",
    "ein Flügel; un'ala; 今天天气",
    *(f"{first}{middle}{last}" for first in "bdgklm" for middle in ("an", "er", "il", "ou") for last in "nrstwxyz"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SAMPLE, SIZE)


def test_size_is_exact_and_added_tokens_are_last(tokenizer):
    assert tokenizer.get_vocab_size() == SIZE
    assert [tokenizer.id_to_token(index) for index in range(SIZE - 5, SIZE)] == [
        END_OF_TEXT,
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
    ]


@pytest.mark.parametrize("word", ["yes", "no", "\n\n", "<Query", "<Document", "assistant", " relevant"])
def test_the_words_of_the_prompts_are_single_tokens(tokenizer, word):
    assert len(tokenizer.encode(word).ids) == 1


@pytest.mark.parametrize("text", ["what is it", " it", "2024 wings", "Flügel", "今天", ""])
def test_ids_of_an_instructed_query_are_those_of_the_prompt_and_of_the_text(tokenizer, text):
    prompt = QUERY_PROMPT.format(instruction="Find it")
    assert tokenizer.encode(prompt + text).ids == tokenizer.encode(prompt).ids + tokenizer.encode(text).ids


def test_bytes_survive_the_round_trip(tokenizer):
    text = "Ünï¢ødé 🙂 \t\n <|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_only_the_embedders_file_appends_the_end_token(tokenizer):
    end = token_id(tokenizer, END_OF_TEXT)
    assert append_end_token(tokenizer).encode("wing").ids == [*tokenizer.encode("wing").ids, end]
    assert end not in tokenizer.encode("wing").ids


def test_the_prompts_of_the_package_accept_it(tokenizer):
    ours = Tokenizer.from_json(tokenizer.to_str())
    (query,) = EmbeddingPrompts(ours, max_tokens=64, prompts={}).render(
        EmbeddingRequest(inputs=["wing"], input_type=InputType.QUERY)
    )
    assert query.num_tokens > 5
    (prompt,) = RerankPrompts(ours, max_tokens=256).render(RerankRequest(query="wing", documents=["a wing"]))
    tail = ours.encode(CARD_TEMPLATE.tail)
    assert tail[-1] == token_id(tokenizer, "ĊĊ")
    assert prompt.num_tokens > len(tail)


def test_a_sample_without_enough_words_is_refused():
    with pytest.raises(SettingsError, match="tokens, not 5000"):
        train_tokenizer(["few words"], 5000)
