"""A request as a wire format can say it: another of the same meaning, or the reason why there is none.

What a format cannot say is done here where the result is the same: a query's prompt is put before its text, a vector is
cut afterwards, a limit that no text comes near is left out. The rest is refused, so that a request goes to another
provider rather than lose a part of itself.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quernel.errors import InvalidRequestError, NoRouteError
from quernel.gateway.wire import REFUSES, EmbeddingFormat, RerankFormat, Target
from quernel.prompts.choice import FAMILY_PROMPTS, choose_prompt
from quernel.prompts.templates import CARD_TEMPLATE, DEFAULT_INSTRUCTION
from quernel.types import EmbeddingRequest, RerankRequest, Truncate

PROMPT_FIELDS = ("instruction", "input_type", "prompt_name")
"""Fields of a request that say what its texts are."""


def express_embedding(request: EmbeddingRequest, wire: EmbeddingFormat, target: Target) -> EmbeddingRequest:
    """A request of the same meaning that has only what the format can carry.

    Raises:
        NoRouteError: There is none; the message says why, as a clause.
    """
    has_ids = not all(isinstance(text, str) for text in request.inputs)
    if has_ids and not (target.options.token_ids or "token_ids" in wire.carries):
        raise NoRouteError("it takes no token ids", param="input")
    changes = _express_prompt(request, wire, target)
    if request.normalize is not None and "normalize" not in wire.carries:
        if request.normalize is False:
            raise NoRouteError("it has no field for normalize", param="normalize")
        changes["normalize"] = None
    dimensions = _express_dimensions(request, wire, target)
    if dimensions != request.dimensions:
        changes["dimensions"] = dimensions
    truncates = _truncates(wire, target)
    if "inputs" in changes:
        # A cut at the start would take the prompt away.
        truncates -= {Truncate.START}
    if request.truncate not in truncates:
        texts = changes.get("inputs", request.inputs)
        most = max(_most_tokens(text) if isinstance(text, str) else len(text) for text in texts)
        changes["truncate"] = _unneeded_cut(request.truncate, most + 1, truncates, target)
    return replace(request, **changes) if changes else request


def _express_prompt(request: EmbeddingRequest, wire: EmbeddingFormat, target: Target) -> dict[str, Any]:
    """What of a request changes to say what its texts are in the endpoint's own way."""
    said = [name for name in PROMPT_FIELDS if getattr(request, name) is not None]
    if not said:
        return {}
    prompts = target.options.prompts or wire.prompts
    if prompts == "fields":
        for name in said:
            if name not in wire.carries and not (name == "instruction" and target.options.instruction_field):
                raise NoRouteError(f"it has no field for {name}", param=name)
        return {}
    prompt = _known_prompt(request, target)
    unsaid: dict[str, Any] = dict.fromkeys(said)
    if prompts == "none":
        if prompt not in FAMILY_PROMPTS.values():
            raise NoRouteError("its model takes no instructions", param="instruction")
        return unsaid
    if not prompt:
        return unsaid
    texts = [text for text in request.inputs if isinstance(text, str)]
    if len(texts) < len(request.inputs):
        raise NoRouteError("token ids carry their prompt themselves", param="input")
    return unsaid | {"inputs": [prompt + text for text in texts]}


def _known_prompt(request: EmbeddingRequest, target: Target) -> str:
    """What the family's models have in front of every text of a request."""
    # Of the model's own prompts only names are known; `query` and `document` are taken to be the family's.
    prompts: Mapping[str, str | None] = {**dict.fromkeys(target.info.prompts), **FAMILY_PROMPTS}
    try:
        prompt = choose_prompt(request, prompts)
    except InvalidRequestError:
        raise NoRouteError("it does not know the prompt of that name", param="prompt_name") from None
    if prompt is None:
        raise NoRouteError("it does not know the model's own prompts", param="prompt_name")
    return prompt


def _express_dimensions(request: EmbeddingRequest, wire: EmbeddingFormat, target: Target) -> int | None:
    """The length to ask for; `None` for the model's own, of which `quernel.gateway.upstream` cuts what is too much."""
    if request.dimensions in (None, target.info.dimensions):
        return None
    if not target.options.matryoshka:
        raise NoRouteError("its vectors cannot be cut", param="dimensions")
    if target.options.cuts_dimensions and "dimensions" in wire.carries:
        return request.dimensions
    if request.normalize is False:
        raise NoRouteError("its vectors are cut here, and then have length 1", param="normalize")
    return None


def express_rerank(request: RerankRequest, wire: RerankFormat, target: Target) -> RerankRequest:
    """A request of the same meaning that has only what the format can carry. `top_n` is for afterwards.

    Raises:
        NoRouteError: There is none; the message says why, as a clause.
    """
    changes: dict[str, Any] = {} if request.top_n is None else {"top_n": None}
    is_rendered = (target.options.prompts or wire.prompts) == "text"
    most = request.max_tokens_per_document
    if most is not None and (is_rendered or "max_tokens_per_document" not in wire.carries):
        if max(map(_most_tokens, request.documents)) > most:
            raise NoRouteError("it has no field for max_tokens_per_document", param="max_tokens_per_document")
        changes["max_tokens_per_document"] = None
    # Whatever is cut from a rendered document, the end of the template goes first.
    truncates = REFUSES if is_rendered else _truncates(wire, target)
    if request.truncate not in truncates:
        rest = _most_tokens(request.query) + _most_tokens(request.instruction or DEFAULT_INSTRUCTION)
        bound = max(map(_most_tokens, request.documents)) + rest + TEMPLATE_BYTES
        changes["truncate"] = _unneeded_cut(request.truncate, bound, truncates, target)
    if is_rendered:
        changes |= _render_pair(request)
    elif request.instruction is not None and not (target.options.instruction_field or "instruction" in wire.carries):
        raise NoRouteError("it has no field for instruction", param="instruction")
    return replace(request, **changes) if changes else request


def _render_pair(request: RerankRequest) -> dict[str, Any]:
    """The family's template around query and documents, for a server that joins the two as they are.

    Such a server reads a special token in a text as one, so that a document could close its turn and answer for the
    model.
    """
    given = (request.query, request.instruction or "", *request.documents)
    if any(SPECIAL.search(text) for text in given):
        raise NoRouteError("it would read a special token of the text as one", param="documents")
    card = CARD_TEMPLATE
    instruction = card.instruction.format(instruction=request.instruction or card.default_instruction)
    asked, line, label = card.query.format(query=request.query).rpartition("\n")
    return {
        "query": card.head + instruction + asked + line,
        "documents": [label + card.document.format(document=text) + card.tail for text in request.documents],
        "instruction": None,
    }


SPECIAL = re.compile(r"<\|[a-z_]+\|>|</?(?:think|tool_call|tool_response)>")
"""How the added tokens of the family's tokenizer are spelled.

Source: `tokenizer_config.json` of Qwen/Qwen3-Reranker-0.6B, revision e61197ed45024b0ed8a2d74b80b4d909f1255473."""

TEMPLATE_BYTES = len(
    CARD_TEMPLATE.head + CARD_TEMPLATE.instruction + CARD_TEMPLATE.query + CARD_TEMPLATE.document + CARD_TEMPLATE.tail
)


def _truncates(wire: EmbeddingFormat | RerankFormat, target: Target) -> frozenset[Truncate]:
    return frozenset({Truncate.END}) if target.options.cuts_long_texts else wire.truncates


def _unneeded_cut(asked: Truncate, bound: int, truncates: frozenset[Truncate], target: Target) -> Truncate:
    """Something that the format can say of long texts, where there are none.

    Raises:
        NoRouteError: There may be one.
    """
    if not bound <= target.info.max_tokens:
        raise NoRouteError(f"it cannot be told what to do with long texts (truncate: {asked})", param="truncate")
    return Truncate.ERROR if Truncate.ERROR in truncates else Truncate.END


def _most_tokens(text: str) -> int:
    """More tokens than this a text does not have: the family's tokenizer starts from the bytes of its NFC form."""
    return len(text) if text.isascii() else len(unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass"))
