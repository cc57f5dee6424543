"""From a rerank request to prompts, in which the caller's text is data.

Instruction, query and documents are encoded as plain characters, so no text can hold `<|im_end|>`, close its turn and
answer for itself. For texts without token strings the ids are those of the reference.
"""

from quernel.errors import InputTooLongError, TokenizerError
from quernel.prompts.prompt import Prompt
from quernel.prompts.templates import ANSWERS, CARD_TEMPLATE, RerankTemplate
from quernel.prompts.tokenizer import TOKENIZER_FILE, Tokenizer
from quernel.types import RerankRequest, Truncate

_TEMPLATE_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
_PROBES = ("Is it so?", " (yes)\n", "\u0301é\r\n", "…《中文》")
"""Texts at whose edges a foreign pre-tokenizer would join what the family's keeps apart."""


class RerankPrompts:
    """Prompts of one reranker.

    Args:
        tokenizer: The model's tokenizer.
        max_tokens: Longest prompt the model reads, template included.
        default_instruction: Where a request has none; the template's own where this is None.
        template: The form of the prompt; another than the card's only to reproduce numbers published with it.

    Raises:
        TokenizerError: The tokenizer lacks a token of the template, or does not divide text as the family's does.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        default_instruction: str | None = None,
        template: RerankTemplate = CARD_TEMPLATE,
    ) -> None:
        for token in _TEMPLATE_TOKENS:
            tokenizer.token_id(token)
        _require_separable(tokenizer, template)
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._template = template
        self._default_instruction = template.default_instruction if default_instruction is None else default_instruction
        self._head = tuple(tokenizer.encode(template.head))
        self._tail = tuple(tokenizer.encode(template.tail))

    def answer_ids(self) -> tuple[int, int]:
        """The ids of `yes` and `no`.

        Raises:
            TokenizerError: One of them is not a single token.
        """
        yes, no = (self._single_id(answer) for answer in ANSWERS)
        return yes, no

    def render(self, request: RerankRequest) -> list[Prompt]:
        """One prompt for each document, in the order of the request.

        The first run holds the template's head and the instruction, and is that of every query with this instruction;
        the second holds the query, and is that of all its documents; the third holds the document and the tail. Only
        the document is ever cut.

        Raises:
            InputTooLongError: A prompt is too long and its document may not be cut, or instruction and query leave no
                room for a document.
            InvalidRequestError: A text is not valid Unicode.
        """
        template = self._template
        instruction = self._default_instruction if request.instruction is None else request.instruction
        documents = list(dict.fromkeys(request.documents))
        instruction_ids, query_ids, *document_ids = self._tokenizer.encode_plain_batch(
            [
                template.instruction.format(instruction=instruction),
                template.query.format(query=request.query),
                *(template.document.format(document=document) for document in documents),
            ]
        )
        shared = ((*self._head, *instruction_ids), tuple(query_ids))
        taken = sum(map(len, shared)) + len(self._tail)
        room = self._max_tokens - taken
        if room < 1:
            raise InputTooLongError(
                f"Template, instruction and query take {taken} of the {self._max_tokens} tokens that the model reads, "
                "which leaves no room for a document.",
                param="query",
                hint="Shorten the query or the instruction.",
            )
        ids_of = dict(zip(documents, document_ids, strict=True))
        prompts = []
        for index, document in enumerate(request.documents):
            ids = ids_of[document]
            kept = ids[: request.max_tokens_per_document]
            if len(kept) > room:
                if request.truncate is Truncate.ERROR:
                    raise InputTooLongError(
                        f"documents[{index}] makes a prompt of {taken + len(kept)} tokens, but the model reads "
                        f"{self._max_tokens}: {taken} of template, instruction and query leave {room} for a document.",
                        param="documents",
                        hint="Shorten it, or set truncate to 'end' or 'start' to have it cut there.",
                    )
                kept = kept[:room] if request.truncate is Truncate.END else kept[-room:]
            prompts.append(Prompt((*shared, (*kept, *self._tail)), truncated=len(kept) < len(ids)))
        return prompts

    def _single_id(self, answer: str) -> int:
        ids = self._tokenizer.encode_plain(answer)
        if len(ids) != 1:
            raise TokenizerError(
                f"The answer {answer!r} is {len(ids)} tokens, not one.",
                param=TOKENIZER_FILE,
                hint="Use the tokenizer.json of the Qwen3 reranker that this model was made from.",
            )
        return ids[0]


def _require_separable(tokenizer: Tokenizer, template: RerankTemplate) -> None:
    """Refuse a tokenizer with which the ids of the template's parts are not those of the whole."""
    for text in _PROBES:
        parts = [
            template.instruction.format(instruction=text),
            template.query.format(query=text),
            template.document.format(document=text),
        ]
        joined = [token for ids in tokenizer.encode_plain_batch(parts) for token in ids]
        if tokenizer.encode_plain("".join(parts)) != joined:
            raise TokenizerError(
                "The tokenizer joins the fields of the reranking prompt in a way that Qwen3's does not.",
                param=TOKENIZER_FILE,
                hint="Use the tokenizer.json of the Qwen3 reranker that this model was made from.",
            )
