"""From an embedding request to token ids: its prompt with each text, how that is cut, and the end token.

Exact by construction: a text is encoded together with its prompt, as the reference does, and divided afterwards.
"""

from collections.abc import Mapping, Sequence

from quernel.errors import ConfigError, InputTooLongError, InvalidRequestError
from quernel.prompts.choice import choose_prompt
from quernel.prompts.prompt import Prompt
from quernel.prompts.templates import QUERY_PROMPT_END, SHARED_PROMPT_END
from quernel.prompts.tokenizer import Tokenizer
from quernel.types import EmbeddingRequest, TokenPath, Truncate


class EmbeddingPrompts:
    """Prompts of one embedding model.

    Args:
        tokenizer: The model's tokenizer.
        max_tokens: Longest input the model reads, prompt and end token included.
        prompts: Those of the model's `config_sentence_transformers.json`, by name. `query` and `document` are used for
            the input types of those names; without them queries get the family's prompt and documents none.
        default_prompt_name: The prompt for texts of which the request says nothing.

    Raises:
        TokenizerError: The tokenizer has no `<|endoftext|>`.
        ConfigError: `default_prompt_name` is not among `prompts`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        prompts: Mapping[str, str],
        default_prompt_name: str | None = None,
    ) -> None:
        if default_prompt_name is not None and default_prompt_name not in prompts:
            raise ConfigError(
                f"default_prompt_name is {default_prompt_name!r}, but the model's prompts are {_names(prompts)}.",
                param="default_prompt_name",
                hint="Correct config_sentence_transformers.json.",
            )
        self._tokenizer = tokenizer
        self._end_id = tokenizer.end_id
        self._max_tokens = max_tokens
        self._prompts = dict(prompts)
        self._default_prompt = self._prompts[default_prompt_name] if default_prompt_name is not None else ""

    def render(self, request: EmbeddingRequest) -> list[Prompt]:
        """One prompt for each input, in the order of the request.

        Token strings inside a text are parsed as the reference tokenizer does. The end token closes every prompt
        once: it is appended after any cut, unless the input ends in it already.

        Raises:
            InputTooLongError: An input is too long and may not be cut, or its instruction alone is too long.
            TokenIdRangeError: An input holds something that is not a token id of the model.
            InvalidRequestError: No prompt of that name; token ids together with a prompt; text that is not Unicode.
        """
        prompt = self._prompt_of(request)
        token_inputs = {index: tuple(item) for index, item in enumerate(request.inputs) if not isinstance(item, str)}
        if token_inputs and prompt:
            raise InvalidRequestError(
                f"input[{min(token_inputs)}] is a list of token ids, and those carry their prompt themselves.",
                param="input",
                hint="Send the text, or token ids of prompt and text with input_type 'document'.",
            )
        for index, ids in token_inputs.items():
            self._tokenizer.check_ids(ids, f"input[{index}]")
        texts = list(dict.fromkeys(item for item in request.inputs if isinstance(item, str)))
        paths = dict(zip(texts, self._encode(prompt, texts), strict=True))
        return [
            self._fit(index, paths[item] if isinstance(item, str) else (tuple(item),), item, prompt, request.truncate)
            for index, item in enumerate(request.inputs)
        ]

    def named_prompt(self, name: str | None) -> str:
        """The prompt of that name; nothing for none.

        Raises:
            InvalidRequestError: No prompt of that name.
        """
        return "" if name is None else self._prompt_of(EmbeddingRequest(inputs=[""], prompt_name=name))

    def _prompt_of(self, request: EmbeddingRequest) -> str:
        return choose_prompt(request, self._prompts, default=self._default_prompt)

    def _encode(self, prompt: str, texts: Sequence[str]) -> list[TokenPath]:
        """Ids of prompt and text together, divided where queries of one instruction may share what they compute."""
        whole = [prompt + text for text in texts]
        if prompt.endswith(QUERY_PROMPT_END):
            return self._tokenizer.encode_split_batch(whole, at=len(prompt) - len(SHARED_PROMPT_END))
        return [(tuple(ids),) if ids else () for ids in self._tokenizer.encode_batch(whole)]

    def _fit(self, index: int, path: TokenPath, item: str | Sequence[int], prompt: str, truncate: Truncate) -> Prompt:
        """The path closed by the end token, cut to the limit if it must and may be."""
        whole = Prompt(self._close(path), truncated=False)
        if whole.num_tokens <= self._max_tokens:
            return whole
        (prompt_path,) = self._encode(prompt, [""])
        prompt_length = sum(map(len, prompt_path))
        room = self._max_tokens - 1 - prompt_length
        if room < 1 and prompt:
            raise InputTooLongError(
                f"The instruction alone takes {prompt_length} of the {self._max_tokens} tokens that the model reads.",
                param="instruction",
                hint="Shorten it.",
            )
        if truncate is Truncate.ERROR:
            raise InputTooLongError(
                f"input[{index}] has {whole.num_tokens} tokens, but the model reads {self._max_tokens}, prompt and end "
                "token included.",
                param="input",
                hint="Shorten it, or set truncate to 'end' or 'start' to have it cut there.",
            )
        if truncate is Truncate.END:
            *shared, last = path
            return Prompt(self._close((*shared, last[: self._max_tokens - 1 - sum(map(len, shared))])), truncated=True)
        ids = self._tokenizer.encode(item) if isinstance(item, str) else list(item)
        if ids and ids[-1] == self._end_id:
            ids.pop()
        kept = tuple(ids[max(len(ids) - room, 0) :])
        *shared, last = prompt_path or ((),)
        return Prompt(self._close((*shared, last + kept)), truncated=True)

    def _close(self, path: TokenPath) -> TokenPath:
        *shared, last = path or ((),)
        return path if last and last[-1] == self._end_id else (*shared, (*last, self._end_id))


def _names(prompts: Mapping[str, str]) -> str:
    return ", ".join(repr(name) for name in prompts) or "none"
