import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quernel.errors import ConfigError, InputTooLongError, InvalidRequestError, TokenIdRangeError
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.templates import DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.types import EmbeddingRequest, InputType, Truncate
from tests.prompts.texts import texts, unhurried
from tests.support.tokenizers import END_ID, VOCAB_SIZE

PROMPTS = {"query": QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION), "document": "", "passage": "p: "}


@pytest.fixture(scope="session")
def prompts(tiny):
    return EmbeddingPrompts(tiny, max_tokens=512, prompts=PROMPTS)


@pytest.fixture(scope="session")
def official_prompts(official):
    return EmbeddingPrompts(official("qwen3-embedding-0.6b"), max_tokens=8192, prompts=PROMPTS)


def _joined(prompt):
    return [token for run in prompt.path for token in run]


def _text(tokenizer, prompt):
    return tokenizer.decode(_joined(prompt))


@unhurried
@given(instruction=texts, text=texts)
def test_a_query_has_the_ids_of_the_whole_text(official, official_prompts, instruction, text):
    tokenizer = official("qwen3-embedding-0.6b")
    (prompt,) = official_prompts.render(EmbeddingRequest(inputs=[text], instruction=instruction))
    whole = tokenizer.encode(f"Instruct: {instruction}\nQuery:{text}")
    assert _joined(prompt) == (whole if whole[-1] == tokenizer.end_id else [*whole, tokenizer.end_id])
    assert all(prompt.path)


@unhurried
@given(instruction=texts, text=texts)
def test_queries_of_one_instruction_share_the_run_that_ends_before_the_colon(
    official, official_prompts, instruction, text
):
    (prompt,) = official_prompts.render(EmbeddingRequest(inputs=[text], instruction=instruction))
    shared, rest = prompt.path
    assert list(shared) == official("qwen3-embedding-0.6b").encode(f"Instruct: {instruction}\nQuery")
    assert official("qwen3-embedding-0.6b").decode(rest).startswith(":")


@unhurried
@given(text=texts)
def test_a_document_is_the_text_and_one_end_token(official, official_prompts, text):
    tokenizer = official("qwen3-embedding-0.6b")
    (prompt,) = official_prompts.render(EmbeddingRequest(inputs=[text]))
    whole = tokenizer.encode(text)
    assert _joined(prompt) == (whole if whole[-1:] == [tokenizer.end_id] else [*whole, tokenizer.end_id])


def test_the_published_query_vector_holds(official_prompts):
    (prompt,) = official_prompts.render(EmbeddingRequest(inputs=["Explain gravity"], input_type=InputType.QUERY))
    instruct = [641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859]
    assert _joined(prompt) == [*instruct, 25, 840, 20772, 23249, 151643]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "yes"),
        ({"instruction": "Do {it}"}, "Instruct: Do {it}\nQuery:yes"),
        ({"instruction": "Do", "input_type": InputType.QUERY}, "Instruct: Do\nQuery:yes"),
        ({"instruction": "Do", "prompt_name": "passage"}, "Instruct: Do\nQuery:yes"),
        ({"input_type": InputType.QUERY}, f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:yes"),
        ({"input_type": InputType.DOCUMENT}, "yes"),
        ({"input_type": InputType.DOCUMENT, "prompt_name": "passage"}, "yes"),
        ({"prompt_name": "passage"}, "p: yes"),
        ({"prompt_name": "query"}, f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:yes"),
    ],
)
def test_the_prompt_is_chosen_in_the_documented_order(tiny, prompts, options, expected):
    (prompt,) = prompts.render(EmbeddingRequest(inputs=["yes"], **options))
    assert _text(tiny, prompt) == f"{expected}<|endoftext|>"
    assert not prompt.truncated


def test_a_named_prompt_in_query_form_is_shared_and_another_is_not(prompts):
    (query,) = prompts.render(EmbeddingRequest(inputs=["yes"], prompt_name="query"))
    (passage,) = prompts.render(EmbeddingRequest(inputs=["yes"], prompt_name="passage"))
    assert len(query.path) == 2
    assert len(passage.path) == 1


def test_a_model_without_prompts_of_its_own_has_the_family_s(tiny):
    bare = EmbeddingPrompts(tiny, max_tokens=512, prompts={})
    (query,) = bare.render(EmbeddingRequest(inputs=["yes"], input_type=InputType.QUERY))
    (document,) = bare.render(EmbeddingRequest(inputs=["yes"], input_type=InputType.DOCUMENT))
    assert _text(tiny, query) == f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:yes<|endoftext|>"
    assert _text(tiny, document) == "yes<|endoftext|>"


def test_the_model_s_default_prompt_applies_where_the_request_says_nothing(tiny):
    with_default = EmbeddingPrompts(tiny, max_tokens=512, prompts=PROMPTS, default_prompt_name="passage")
    (silent,) = with_default.render(EmbeddingRequest(inputs=["yes"]))
    (document,) = with_default.render(EmbeddingRequest(inputs=["yes"], input_type=InputType.DOCUMENT))
    assert _text(tiny, silent) == "p: yes<|endoftext|>"
    assert _text(tiny, document) == "yes<|endoftext|>"


def test_a_default_prompt_that_does_not_exist_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"'passages'.*'query', 'document', 'passage'"):
        EmbeddingPrompts(tiny, max_tokens=512, prompts=PROMPTS, default_prompt_name="passages")


def test_an_unknown_prompt_name_lists_those_there_are(prompts):
    with pytest.raises(InvalidRequestError, match=r"'web'.*'query', 'document', 'passage'"):
        prompts.render(EmbeddingRequest(inputs=["yes"], prompt_name="web"))


def test_equal_inputs_get_equal_prompts_in_their_places(tiny, prompts):
    rendered = prompts.render(EmbeddingRequest(inputs=["no", [1, 2], "yes", "no"]))
    assert [_text(tiny, prompt) for prompt in rendered] == [
        "no<|endoftext|>",
        '"#<|endoftext|>',
        "yes<|endoftext|>",
        "no<|endoftext|>",
    ]


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_input_is_the_end_token_alone(prompts, empty):
    (prompt,) = prompts.render(EmbeddingRequest(inputs=[empty]))
    assert prompt.path == ((END_ID,),)
    assert prompt.num_tokens == 1


@pytest.mark.parametrize("given_ids", [[5, 6], [5, 6, END_ID]])
def test_ids_end_in_one_end_token_whether_or_not_they_bring_it(prompts, given_ids):
    (prompt,) = prompts.render(EmbeddingRequest(inputs=[given_ids]))
    assert prompt.path == ((5, 6, END_ID),)


def test_a_text_that_ends_in_the_end_token_gets_no_second_one(tiny, prompts):
    (prompt,) = prompts.render(EmbeddingRequest(inputs=["yes<|endoftext|>"]))
    assert _text(tiny, prompt) == "yes<|endoftext|>"


@pytest.mark.parametrize("wrong", [-1, VOCAB_SIZE, True, 1.0, "1", None])
def test_what_is_no_token_id_is_named_with_its_place_and_the_range(prompts, wrong):
    with pytest.raises(TokenIdRangeError, match=rf"input\[1\] holds {wrong!r}.*0 to {VOCAB_SIZE - 1}"):
        prompts.render(EmbeddingRequest(inputs=["text", [1, wrong, 2]]))


@pytest.mark.parametrize("options", [{"instruction": "Do"}, {"input_type": InputType.QUERY}, {"prompt_name": "query"}])
def test_ids_refuse_a_prompt(prompts, options):
    with pytest.raises(InvalidRequestError, match=r"input\[1\].*token ids"):
        prompts.render(EmbeddingRequest(inputs=["text", [1]], **options))


def test_ids_accept_the_empty_document_prompt(prompts):
    (prompt,) = prompts.render(EmbeddingRequest(inputs=[[1]], input_type=InputType.DOCUMENT))
    assert prompt.num_tokens == 2


def _limited(tiny, max_tokens):
    return EmbeddingPrompts(tiny, max_tokens=max_tokens, prompts=PROMPTS)


@pytest.mark.parametrize("item", ["abcd", [64, 65, 66, 67], [64, 65, 66, 67, END_ID], "abcd<|endoftext|>"])
def test_the_limit_counts_the_end_token(tiny, item):
    (prompt,) = _limited(tiny, 5).render(EmbeddingRequest(inputs=[item]))
    assert _text(tiny, prompt) == "abcd<|endoftext|>"
    assert not prompt.truncated
    with pytest.raises(InputTooLongError, match=r"input\[1\] has 5 tokens.*reads 4.*truncate"):
        _limited(tiny, 4).render(EmbeddingRequest(inputs=["a", item]))


@pytest.mark.parametrize("item", ["abcd", [64, 65, 66, 67], [64, 65, 66, 67, END_ID], "abcd<|endoftext|>"])
@pytest.mark.parametrize(("truncate", "kept"), [(Truncate.END, "ab"), (Truncate.START, "cd")])
def test_the_end_token_survives_every_cut(tiny, item, truncate, kept):
    (prompt,) = _limited(tiny, 3).render(EmbeddingRequest(inputs=[item], truncate=truncate))
    assert _text(tiny, prompt) == f"{kept}<|endoftext|>"
    assert prompt.truncated


@pytest.mark.parametrize("truncate", [Truncate.END, Truncate.START])
def test_a_model_of_one_token_reads_the_end_token(tiny, truncate):
    (prompt,) = _limited(tiny, 1).render(EmbeddingRequest(inputs=["abcd"], truncate=truncate))
    assert prompt.path == ((END_ID,),)


@pytest.mark.parametrize(("truncate", "kept"), [(Truncate.END, "12"), (Truncate.START, "89")])
def test_a_cut_query_keeps_its_instruction(tiny, truncate, kept):
    prefix = tiny.encode("Instruct: Do\nQuery:")
    limited = _limited(tiny, len(prefix) + 3)
    (prompt,) = limited.render(EmbeddingRequest(inputs=["123456789"], instruction="Do", truncate=truncate))
    (whole,) = limited.render(EmbeddingRequest(inputs=["1"], instruction="Do"))
    assert _text(tiny, prompt) == f"Instruct: Do\nQuery:{kept}<|endoftext|>"
    assert prompt.path[0] == whole.path[0]
    assert prompt.truncated


@pytest.mark.parametrize("truncate", list(Truncate))
def test_an_instruction_that_leaves_no_room_is_refused_whatever_truncate_says(tiny, truncate):
    prefix = tiny.encode("Instruct: Do\nQuery:")
    with pytest.raises(InputTooLongError, match="instruction alone") as caught:
        _limited(tiny, len(prefix) + 1).render(EmbeddingRequest(inputs=["yes"], instruction="Do", truncate=truncate))
    assert caught.value.param == "instruction"


@unhurried
@given(
    text=texts,
    instruction=st.none() | texts,
    max_tokens=st.integers(20, 60),
    truncate=st.sampled_from([Truncate.END, Truncate.START]),
)
def test_a_cut_prompt_keeps_the_limit_and_the_end_token(official, text, instruction, max_tokens, truncate):
    tokenizer = official("qwen3-embedding-0.6b")
    prefix = [] if instruction is None else tokenizer.encode(QUERY_PROMPT.format(instruction=instruction))
    assume(len(prefix) + 2 <= max_tokens)
    limited = EmbeddingPrompts(tokenizer, max_tokens=max_tokens, prompts=PROMPTS)
    (prompt,) = limited.render(EmbeddingRequest(inputs=[text * 3], instruction=instruction, truncate=truncate))
    assert prompt.num_tokens <= max_tokens
    assert prompt.path[-1][-1] == tokenizer.end_id
    assert all(prompt.path)


def test_text_that_is_not_unicode_is_refused(prompts):
    with pytest.raises(InvalidRequestError, match=r"U\+DFFF"):
        prompts.render(EmbeddingRequest(inputs=["fine", "\udfff"]))
