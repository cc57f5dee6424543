"""Counting tokens before anybody is asked: exactly where the tokenizer is here, and never too few where it is not."""

import asyncio
import threading
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.prompts.texts import texts
from tests.support.tokenizers import official_tokenizer_json, tiny_tokenizer_json

import quernel
from quernel.errors import InputTooLongError, InvalidRequestError, SettingsError
from quernel.gateway import counting
from quernel.gateway.counting import ByteCounter, PromptCounter, count_beside
from quernel.instructions import named_instructions
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.reranking import RerankPrompts
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import EmbeddingRequest, InputType, ModelKind, RerankRequest, Truncate

BUILTIN = Path(quernel.__file__).parent / "builtin"

MAX_TOKENS = 4096

NAMES = ("tiny", "qwen3-embedding-0.6b", "qwen3-reranker", "builtin")

unhurried = settings(deadline=None, max_examples=150)

unicode_texts = texts | st.text(max_size=40) | st.text(st.characters(min_codepoint=0x300, categories=("L", "M", "So")))
"""Among it letters that normalisation makes longer, such as U+0958 and U+1D160."""


@cache
def tokenizer(name):
    if name == "builtin":
        return Tokenizer.load(BUILTIN / "tiny-embedding")
    return Tokenizer.from_json(
        tiny_tokenizer_json(appends_end=True) if name == "tiny" else official_tokenizer_json(name)
    )


@cache
def embedding_counter(name, max_tokens=MAX_TOKENS):
    return PromptCounter(EmbeddingPrompts(tokenizer(name), max_tokens=max_tokens, prompts={}))


@cache
def rerank_counter(name, max_tokens=MAX_TOKENS):
    return PromptCounter(RerankPrompts(tokenizer(name), max_tokens=max_tokens))


how_to_ask = st.one_of(
    st.builds(lambda text: {"instruction": text}, unicode_texts),
    st.sampled_from([{}, {"input_type": InputType.QUERY}, {"input_type": InputType.DOCUMENT}]),
    st.builds(
        lambda name, kind: {"prompt_name": name, "input_type": kind},
        st.sampled_from(sorted(named_instructions())),
        st.none() | st.sampled_from(InputType),
    ),
)


LONGEST_TASK = max(named_instructions(), key=lambda name: len(named_instructions()[name].query))


@pytest.mark.parametrize("name", NAMES)
@unhurried
@given(st.lists(unicode_texts, min_size=1, max_size=3), how_to_ask, st.sampled_from(Truncate))
@example(["\U0001d160" * 20], {}, Truncate.ERROR)
@example(["\u0958\ufb2c" * 20], {"input_type": InputType.QUERY}, Truncate.ERROR)
@example([""], {"prompt_name": LONGEST_TASK}, Truncate.ERROR)
@example([""], {"instruction": "\ufb1d" * 20}, Truncate.ERROR)
def test_the_bound_of_an_embedding_request_is_never_below_its_count(name, inputs, how, truncate):
    request = EmbeddingRequest(inputs=inputs, truncate=truncate, **how)
    assert ByteCounter(MAX_TOKENS).count(request) >= embedding_counter(name).count(request)


@pytest.mark.parametrize("name", NAMES[:3])
@unhurried
@given(
    unicode_texts.filter(bool),
    st.lists(unicode_texts, min_size=1, max_size=3),
    st.none() | unicode_texts,
    st.none() | st.integers(1, 30),
)
@example("\U0001d160" * 20, ["\u0958" * 20], None, None)
def test_the_bound_of_a_rerank_request_is_never_below_its_count(name, query, documents, instruction, most):
    request = RerankRequest(query=query, documents=documents, instruction=instruction, max_tokens_per_document=most)
    assert ByteCounter(MAX_TOKENS).count(request) >= rerank_counter(name).count(request)


@pytest.mark.parametrize("truncate", [Truncate.START, Truncate.END])
@given(st.integers(0, 60))
def test_a_text_that_is_cut_counts_as_what_the_model_reads(truncate, length):
    request = EmbeddingRequest(inputs=["7" * length, "7"], truncate=truncate)
    for counter in (ByteCounter(32), embedding_counter("tiny", 32)):
        assert counter.count(request) == min(length + 1, 32) + 2


def test_a_text_that_may_not_be_cut_is_not_counted_as_if_it_were():
    request = EmbeddingRequest(inputs=["7" * 40])
    assert ByteCounter(32).count(request) == 41
    with pytest.raises(InputTooLongError):
        embedding_counter("tiny", 32).count(request)


def test_token_ids_count_as_they_are():
    request = EmbeddingRequest(inputs=[[1, 2, 3], [4]])
    assert embedding_counter("tiny").count(request) == ByteCounter(MAX_TOKENS).count(request) == 4 + 2


def test_each_text_is_counted_as_often_as_it_is_there():
    once, twice = (EmbeddingRequest(inputs=["the same"] * number) for number in (1, 2))
    assert embedding_counter("tiny").count(twice) == 2 * embedding_counter("tiny").count(once)


def test_a_model_with_its_tokenizer_is_counted_exactly_and_another_is_bounded():
    assert PromptCounter.is_exact
    assert not ByteCounter.is_exact


@pytest.mark.parametrize("kind", ModelKind)
def test_a_counter_is_loaded_from_the_folder_of_a_model(kind):
    folder = BUILTIN / ("tiny-reranker" if kind is ModelKind.RERANKER else "tiny-embedding")
    counter = PromptCounter.load(folder, kind, MAX_TOKENS)
    if kind is ModelKind.RERANKER:
        assert counter.count(RerankRequest(query="q", documents=["d"])) > 40
    else:
        assert counter.count(EmbeddingRequest(inputs=["a"])) == 2


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"no tokenizer\.json"):
        PromptCounter.load(tmp_path, ModelKind.EMBEDDING, MAX_TOKENS)


class Watched:
    """Says on which thread it counts."""

    is_exact = True

    def __init__(self):
        self.threads = []

    def count(self, request):
        self.threads.append(threading.current_thread())
        return 7


@pytest.mark.parametrize(
    ("request_of", "is_beside"),
    [
        (lambda most: EmbeddingRequest(inputs=["a" * (most - 1), "b"]), False),
        (lambda most: EmbeddingRequest(inputs=["a" * most, "b"]), True),
        (lambda most: EmbeddingRequest(inputs=[[1] * (most + 1)]), True),
        (lambda most: RerankRequest(query="a" * (most // 2), documents=["", ""]), False),
        (lambda most: RerankRequest(query="a" * (most // 2), documents=["", "", ""]), True),
    ],
)
def test_what_takes_its_time_is_counted_beside_the_loop(request_of, is_beside):
    counter = Watched()
    assert asyncio.run(count_beside(counter, request_of(counting.MAX_CHARACTERS_ON_LOOP))) == 7
    assert (counter.threads != [threading.current_thread()]) == is_beside


def test_a_text_that_is_no_unicode_is_bounded_and_refused_by_who_reads_it():
    request = EmbeddingRequest(inputs=["\ud800"])
    assert ByteCounter(MAX_TOKENS).count(request) == 4
    with pytest.raises(InvalidRequestError):
        embedding_counter("tiny").count(request)
