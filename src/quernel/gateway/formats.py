"""Wire formats by name: how a neutral request becomes a body, and what the reply comes to.

A format says what it can carry. What it cannot is done here where the result is the same: a query's prompt is put
before its text, a vector is cut, a limit that no text comes near is left out. The rest is refused with the reason, so
that a request goes to another provider rather than lose a part of itself.

The codecs of `quernel.protocols` write the bodies. Replies are read here, and more leniently: of what the vendors leave
out, add or count wrongly, only the vectors, scores and their places have to be right.

Source: as in `quernel.protocols`; https://openrouter.ai/docs/api-reference (`usage.cost`).
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from quernel.errors import InternalError, InvalidRequestError, NoRouteError, SettingsError
from quernel.gateway.transport import HttpReply
from quernel.instructions import find_instruction
from quernel.prompts.templates import CARD_TEMPLATE, DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.protocols import ai_gateway, cohere, tei
from quernel.protocols.body import decode_reply_body, encode_body
from quernel.protocols.cohere import CohereEmbedCall, CohereVectors
from quernel.protocols.fields import decode_tokens
from quernel.protocols.openai import EmbeddingBody, EmbeddingCall, EmbeddingType, encode_embedding_request
from quernel.protocols.rerank import RerankBody, RerankCall, encode_rerank_request, ranked_document
from quernel.protocols.tasks import JinaTask
from quernel.protocols.tei import TeiEmbedCall, TeiRank
from quernel.protocols.vectors import VectorEncoding, WireVector, decode_vectors
from quernel.types import (
    EmbeddingInput,
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelInfo,
    ModelKind,
    RerankRequest,
    RerankResult,
    Truncate,
)

R = TypeVar("R", EmbeddingResult, RerankResult)

Prompts: TypeAlias = Literal["fields", "text", "none"]
"""How an endpoint is told what a text is: in fields of the format, by the family's prompt around it, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[R]):
    """What a provider answered.

    Attributes:
        result: The vectors or scores. Where the provider only counts all tokens together, each text has its share.
        reported_tokens: Tokens that it says it read; `None` where it does not say.
        reported_cost: USD that it says it charges; `None` where it does not say.
    """

    result: R
    reported_tokens: int | None = None
    reported_cost: Decimal | None = None


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is particular about an endpoint, beyond its wire format.

    Attributes:
        prompts: How it is told what a text is; by default as is usual with its format.
        instruction_field: Whether it reads a field `instruction` that its format does not have, as vLLM does.
        token_ids: Whether it takes token ids, and means by them what the model does.
        base64: Whether it can write vectors as base64.
        cuts_dimensions: Whether it gives shorter vectors when asked. Otherwise they are cut here.
        matryoshka: Whether the model's vectors may be cut at all.
        scales: Whether vectors are scaled to length 1 here where the request leaves that open.
        cuts_long_texts: Whether it cuts texts that are too long at their end without being told to, or saying so.
        raw_scores: Whether its scores are logits.
        key_header: The header that has the key, alone; by default `authorization`, after `Bearer`.
    """

    prompts: Prompts | None = None
    instruction_field: bool = False
    token_ids: bool = False
    base64: bool = True
    cuts_dimensions: bool = True
    matryoshka: bool = True
    scales: bool = False
    cuts_long_texts: bool = False
    raw_scores: bool = False
    key_header: str | None = None


def parse_options(options: Mapping[str, object]) -> Options:
    """The options of an endpoint, from a table of the configuration.

    Raises:
        SettingsError: One that is not known, or has a wrong value.
    """
    for name in options:
        if name not in Options.__struct_fields__:
            near = get_close_matches(name, Options.__struct_fields__, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(Options.__struct_fields__)}."
            raise SettingsError(f"Unknown option {name!r}.", param="options", hint=hint)
    try:
        return msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise SettingsError(f"options: {error}.", param="options") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request is written for.

    Attributes:
        model: The provider's name of the model.
        info: What the model is. A `dimensions` or `max_tokens` of 0 is not known.
        options: What is particular about the endpoint.
    """

    model: str
    info: ModelInfo
    options: Options = Options()


CUTS = frozenset(Truncate)
REFUSES = frozenset({Truncate.ERROR})
CUTS_END = frozenset({Truncate.ERROR, Truncate.END})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFormat:
    """Embeddings in a wire format.

    Attributes:
        path: After the address of the provider.
        encode: The body for a request that `express_embedding` gave.
        decode: What a reply to it comes to; an `InternalError` where it cannot be read.
        headers: Besides the usual ones.
        prompts: How an endpoint is told what a text is, unless its options say otherwise.
        carries: Fields of `EmbeddingRequest` that it has; and `token_ids`.
        truncates: What it can be told to do with texts that are too long.
    """

    path: str
    encode: Callable[[EmbeddingRequest, Target], bytes]
    decode: Callable[[HttpReply, EmbeddingRequest, Target], Reply[EmbeddingResult]]
    headers: Callable[[Target], Mapping[str, str]] = lambda target: {}
    prompts: Prompts = "fields"
    carries: frozenset[str] = frozenset()
    truncates: frozenset[Truncate] = REFUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankFormat:
    """Reranking in a wire format.

    Attributes:
        path: After the address of the provider.
        encode: The body for a request that `express_rerank` gave.
        decode: What a reply to it comes to; an `InternalError` where it cannot be read.
        headers: Besides the usual ones.
        carries: Fields of `RerankRequest` that it has.
        truncates: What it can be told to do with texts that are too long.
    """

    path: str
    encode: Callable[[RerankRequest, Target], bytes]
    decode: Callable[[HttpReply, RerankRequest, Target], Reply[RerankResult]]
    headers: Callable[[Target], Mapping[str, str]] = lambda target: {}
    carries: frozenset[str] = frozenset()
    truncates: frozenset[Truncate] = REFUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """A way in which providers are spoken to.

    Attributes:
        name: Its name in the configuration.
        embed: Its embeddings; `None` where it has none.
        rerank: Its reranking.
    """

    name: str
    embed: EmbeddingFormat | None = None
    rerank: RerankFormat | None = None

    def refuses(self, request: EmbeddingRequest | RerankRequest, target: Target) -> str | None:
        """Why a request cannot be said in this format to this endpoint; `None` where it can."""
        try:
            if isinstance(request, EmbeddingRequest):
                if self.embed is None:
                    return f"its format ({self.name}) has no embeddings"
                express_embedding(request, self.embed, target)
            else:
                if self.rerank is None:
                    return f"its format ({self.name}) has no reranking"
                express_rerank(request, self.rerank, target)
        except InvalidRequestError as error:
            return error.message
        return None


# From here to the table: what a request comes to in a format that cannot say all of it.


def express_embedding(request: EmbeddingRequest, wire: EmbeddingFormat, target: Target) -> EmbeddingRequest:
    """A request of the same meaning that has only what the format can carry.

    Raises:
        NoRouteError: There is none; the message says why, as a clause.
    """
    options = target.options
    has_ids = not all(isinstance(text, str) for text in request.inputs)
    if has_ids and not (options.token_ids or "token_ids" in wire.carries):
        raise NoRouteError("it takes no token ids", param="input")
    request, is_rendered = _express_prompt(request, wire, target)
    if request.normalize is not None and "normalize" not in wire.carries:
        if request.normalize is False:
            raise NoRouteError("it has no field for normalize", param="normalize")
        request = replace(request, normalize=None)
    request = replace(request, dimensions=_expressed_dimensions(request, wire, target))
    # A cut at the start would take the prompt away.
    truncates = _truncates(wire, target) - ({Truncate.START} if is_rendered else set())
    if request.truncate in truncates:
        return request
    bounds = [_most_tokens(text) if isinstance(text, str) else len(text) for text in request.inputs]
    return replace(request, truncate=_unneeded_cut(request.truncate, max(bounds) + 1, truncates, target))


def _express_prompt(request: EmbeddingRequest, wire: EmbeddingFormat, target: Target) -> tuple[EmbeddingRequest, bool]:
    """The request that says what its texts are in the endpoint's own way, and whether that is a prompt before them."""
    prompts = target.options.prompts or wire.prompts
    if prompts == "fields":
        carries = wire.carries | ({"instruction"} if target.options.instruction_field else frozenset())
        for name in ("instruction", "input_type", "prompt_name"):
            if getattr(request, name) is not None and name not in carries:
                raise NoRouteError(f"it has no field for {name}", param=name)
        return request, False
    prompt = choose_prompt(request, target.info.prompts)
    if prompts == "none":
        if prompt not in ("", QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION)):
            raise NoRouteError("its model takes no instructions", param="instruction")
        prompt = ""
    inputs: Sequence[EmbeddingInput] = request.inputs
    if prompt:
        texts = [text for text in inputs if isinstance(text, str)]
        if len(texts) < len(inputs):
            raise NoRouteError("token ids carry their prompt themselves", param="input")
        inputs = [prompt + text for text in texts]
    return replace(request, inputs=inputs, instruction=None, input_type=None, prompt_name=None), bool(prompt)


def choose_prompt(request: EmbeddingRequest, names: Sequence[str] = ()) -> str:
    """What the family's models have in front of every text of a request, by the rules of `EmbeddingRequest`.

    Args:
        request: The request.
        names: Prompts of the model's own files. `query` and `document` are taken to be the family's.

    Raises:
        NoRouteError: A prompt of the model's own files, whose text is not known here, or one that nothing has.
    """
    if request.instruction is not None:
        return QUERY_PROMPT.format(instruction=request.instruction)
    name, input_type = request.prompt_name, request.input_type
    if name is not None and name not in (*names, *FAMILY_PROMPTS):
        task = find_instruction(name)
        if task is None:
            raise NoRouteError("it does not know the prompt of that name", param="prompt_name")
        sentence = task.document if input_type is InputType.DOCUMENT else task.query
        return "" if sentence is None else QUERY_PROMPT.format(instruction=sentence)
    if input_type is not None or name is None:
        return FAMILY_PROMPTS[input_type] if input_type is not None else ""
    if name not in FAMILY_PROMPTS:
        raise NoRouteError("it does not know the model's own prompts", param="prompt_name")
    return FAMILY_PROMPTS[name]


FAMILY_PROMPTS: Mapping[str, str] = {
    InputType.QUERY: QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION),
    InputType.DOCUMENT: "",
}
"""The prompts of the official models' files."""


def _expressed_dimensions(request: EmbeddingRequest, wire: EmbeddingFormat, target: Target) -> int | None:
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
    request = replace(request, top_n=None)
    is_rendered = target.options.prompts == "text"
    most = request.max_tokens_per_document
    if most is not None and (is_rendered or "max_tokens_per_document" not in wire.carries):
        if max(map(_most_tokens, request.documents)) > most:
            raise NoRouteError("it has no field for max_tokens_per_document", param="max_tokens_per_document")
        request = replace(request, max_tokens_per_document=None)
    # Whatever is cut from a rendered document, the end of the template goes first.
    truncates = REFUSES if is_rendered else _truncates(wire, target)
    if request.truncate not in truncates:
        rest = _most_tokens(request.query) + _most_tokens(request.instruction or DEFAULT_INSTRUCTION)
        bound = max(map(_most_tokens, request.documents)) + rest + TEMPLATE_BYTES
        request = replace(request, truncate=_unneeded_cut(request.truncate, bound, truncates, target))
    if is_rendered:
        return _render_pair(request)
    if request.instruction is not None and not (target.options.instruction_field or "instruction" in wire.carries):
        raise NoRouteError("it has no field for instruction", param="instruction")
    return request


def _render_pair(request: RerankRequest) -> RerankRequest:
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
    return replace(
        request,
        query=card.head + instruction + asked + line,
        documents=[label + card.document.format(document=text) + card.tail for text in request.documents],
        instruction=None,
    )


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


# What is written.


def _encode_openai(request: EmbeddingRequest, target: Target) -> bytes:
    encoding = VectorEncoding.BASE64 if target.options.base64 else VectorEncoding.FLOAT
    return encode_embedding_request(EmbeddingCall(request=request, model=target.model, encoding=encoding))


JINA_TASKS: Mapping[InputType | None, JinaTask | None] = {
    None: None,
    InputType.QUERY: JinaTask.RETRIEVAL_QUERY,
    InputType.DOCUMENT: JinaTask.RETRIEVAL_PASSAGE,
}


def _encode_jina(request: EmbeddingRequest, target: Target) -> bytes:
    inputs: list[Any] = list(request.inputs)
    return encode_body(
        EmbeddingBody(
            model=target.model,
            input=inputs,
            task=JINA_TASKS[request.input_type],
            instruction=request.instruction,
            dimensions=request.dimensions,
            normalized=request.normalize,
            truncate=True if request.truncate is Truncate.END else None,
            embedding_type=EmbeddingType.BASE64 if target.options.base64 else EmbeddingType.FLOAT,
        )
    )


def _encode_voyage(request: EmbeddingRequest, target: Target) -> bytes:
    inputs: list[Any] = list(request.inputs)
    return encode_body(
        EmbeddingBody(
            model=target.model,
            input=inputs,
            input_type=request.input_type,
            instruction=request.instruction,
            output_dimension=request.dimensions,
            truncation=request.truncate is Truncate.END,
            encoding_format=VectorEncoding.BASE64 if target.options.base64 else None,
        )
    )


def _encode_cohere(request: EmbeddingRequest, target: Target) -> bytes:
    # Cohere's own models demand an input type; the family's read a document as the text alone.
    input_type = request.input_type or (InputType.DOCUMENT if request.instruction is None else None)
    return cohere.encode_embed_request(
        CohereEmbedCall(request=replace(request, input_type=input_type), model=target.model)
    )


def _encode_tei(request: EmbeddingRequest, target: Target) -> bytes:
    return tei.encode_embed_request(TeiEmbedCall(request=request))


def _encode_gateway(request: EmbeddingRequest, target: Target) -> bytes:
    return ai_gateway.encode_embedding_call(request)


def _encode_quernel_rerank(request: RerankRequest, target: Target) -> bytes:
    return encode_rerank_request(RerankCall(request=request, model=target.model, raw_scores=True))


def _encode_jina_rerank(request: RerankRequest, target: Target) -> bytes:
    # Servers differ in how many they return, and whether with the texts, where they are not told.
    return encode_body(
        RerankBody(
            model=target.model,
            query=request.query,
            documents=list(request.documents),
            instruction=request.instruction,
            top_n=len(request.documents),
            return_documents=False,
        )
    )


def _encode_voyage_rerank(request: RerankRequest, target: Target) -> bytes:
    return encode_body(
        RerankBody(
            model=target.model,
            query=request.query,
            documents=list(request.documents),
            instruction=request.instruction,
            truncation=request.truncate is Truncate.END,
            return_documents=False,
        )
    )


def _encode_cohere_rerank(request: RerankRequest, target: Target) -> bytes:
    # Cohere cuts documents to 4096 tokens where it is not told otherwise.
    most = request.max_tokens_per_document or target.info.max_tokens or None
    request = replace(request, top_n=len(request.documents), max_tokens_per_document=most)
    return cohere.encode_rerank_request(RerankCall(request=request, model=target.model))


def _encode_tei_rerank(request: RerankRequest, target: Target) -> bytes:
    return tei.encode_rerank_request(RerankCall(request=request, raw_scores=True))


def _encode_gateway_rerank(request: RerankRequest, target: Target) -> bytes:
    return ai_gateway.encode_reranking_call(replace(request, top_n=len(request.documents)))


# What is read.


class _Vector(Struct):
    embedding: WireVector
    index: int | None = None


class _Rank(Struct):
    index: int
    relevance_score: float


class _Counted(Struct, kw_only=True):
    """What replies say of themselves. It is taken as it is: a wrong count must not cost the vectors."""

    usage: Any = None
    meta: Any = None
    num_tokens: Any = None
    truncated: Any = None


class _Vectors(_Counted, kw_only=True):
    data: list[_Vector]


class _Ranking(_Counted, kw_only=True):
    results: list[_Rank] | None = None
    data: list[_Rank] | None = None


class _CohereVectors(_Counted, kw_only=True):
    embeddings: CohereVectors


def _decode_openai(reply: HttpReply, request: EmbeddingRequest, target: Target) -> Reply[EmbeddingResult]:
    wire = decode_reply_body(reply.body, _Vectors)
    rows = wire.data
    if any(row.index is not None for row in rows):
        rows = sorted(rows, key=lambda row: -1 if row.index is None else row.index)
        _check_places([row.index for row in rows], len(request.inputs))
    return _vectors([row.embedding for row in rows], wire, request, target)


def _decode_cohere(reply: HttpReply, request: EmbeddingRequest, target: Target) -> Reply[EmbeddingResult]:
    wire = decode_reply_body(reply.body, _CohereVectors)
    return _vectors(wire.embeddings.float_ or [], wire, request, target)


def _decode_tei(reply: HttpReply, request: EmbeddingRequest, target: Target) -> Reply[EmbeddingResult]:
    rows: list[WireVector] = [*decode_reply_body(reply.body, list[list[float]])]
    return _vectors(rows, _counted_by_tei(reply), request, target)


def _decode_gateway(reply: HttpReply, request: EmbeddingRequest, target: Target) -> Reply[EmbeddingResult]:
    answer = ai_gateway.decode_embedding_reply(reply.body, model=target.info.name)
    return Reply(result=answer.result, reported_tokens=sum(answer.result.num_tokens) or None, reported_cost=answer.cost)


def _decode_rerank(reply: HttpReply, request: RerankRequest, target: Target, *, raw: bool) -> Reply[RerankResult]:
    wire = decode_reply_body(reply.body, _Ranking)
    rows = wire.results or wire.data or []
    return _ranking([(row.index, row.relevance_score) for row in rows], wire, request, target, raw=raw)


def _decode_quernel_rerank(reply: HttpReply, request: RerankRequest, target: Target) -> Reply[RerankResult]:
    return _decode_rerank(reply, request, target, raw=True)


def _decode_jina_rerank(reply: HttpReply, request: RerankRequest, target: Target) -> Reply[RerankResult]:
    return _decode_rerank(reply, request, target, raw=target.options.raw_scores)


def _decode_tei_rerank(reply: HttpReply, request: RerankRequest, target: Target) -> Reply[RerankResult]:
    rows = decode_reply_body(reply.body, list[TeiRank])
    return _ranking([(row.index, row.score) for row in rows], _counted_by_tei(reply), request, target, raw=True)


def _decode_gateway_rerank(reply: HttpReply, request: RerankRequest, target: Target) -> Reply[RerankResult]:
    answer = ai_gateway.decode_reranking_reply(reply.body, request, model=target.info.name)
    return Reply(result=answer.result, reported_tokens=sum(answer.result.num_tokens) or None, reported_cost=answer.cost)


def _counted_by_tei(reply: HttpReply) -> _Counted:
    """TEI's bodies are bare lists; how many tokens it read stands in a header."""
    told = reply.headers.get("x-compute-tokens", "")
    return _Counted(usage={"total_tokens": int(told)} if told.isdecimal() and len(told) < 16 else None)


def _check_places(indices: Sequence[int | None], count: int) -> None:
    """Refuse sorted places that are not each one of `count` texts once.

    Raises:
        InternalError: Places are missing, doubled or none.
    """
    if list(indices) != list(range(count)):
        raise InternalError(f"The reply does not have each of {count} texts once.")


def _vectors(
    rows: Sequence[WireVector], wire: _Counted, request: EmbeddingRequest, target: Target
) -> Reply[EmbeddingResult]:
    count = len(request.inputs)
    if len(rows) != count:
        raise InternalError(f"The reply has {len(rows)} vectors for {count} texts.")
    total = _total_tokens(wire)
    num_tokens, truncated = _tokens(wire, total, count)
    with np.errstate(over="ignore"):  # a number that is too large becomes infinite, which is found later
        vectors = decode_vectors(rows)
    result = EmbeddingResult(vectors=vectors, num_tokens=num_tokens, truncated=truncated, model=target.info.name)
    return Reply(result=result, reported_tokens=total, reported_cost=_cost(wire))


def _ranking(
    rows: Sequence[tuple[int, float]], wire: _Counted, request: RerankRequest, target: Target, *, raw: bool
) -> Reply[RerankResult]:
    count = len(request.documents)
    _check_places(sorted(index for index, _ in rows), count)
    if not raw and not all(0 <= score <= 1 for _, score in rows):
        raise InternalError("The reply has scores that are not between 0 and 1. If they are logits, set raw_scores.")
    call = RerankCall(request=request, raw_scores=raw)
    total = _total_tokens(wire)
    num_tokens, truncated = _tokens(wire, total, count)
    result = RerankResult(
        results=tuple(ranked_document(index, score, call) for index, score in rows),
        num_tokens=num_tokens,
        truncated=truncated,
        model=target.info.name,
    )
    return Reply(result=result, reported_tokens=total, reported_cost=_cost(wire))


def _tokens(wire: _Counted, total: int | None, count: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Tokens of each text, and whether each was cut, as far as the reply says."""
    each = wire.num_tokens if _are_counts(wire.num_tokens) and len(wire.num_tokens) == count else None
    return decode_tokens(total or 0, each, wire.truncated if _are_counts(wire.truncated) else (), count)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


TOKEN_PLACES = (
    ("usage", "total_tokens"),
    ("usage", "prompt_tokens"),
    ("meta", "tokens", "input_tokens"),
    ("meta", "billed_units", "input_tokens"),
)
"""Where replies count tokens: OpenAI's, Jina's and Voyage's, and Cohere's."""


def _total_tokens(wire: _Counted) -> int | None:
    """Tokens that a reply says were read. A text has one at least, so that none is as good as no word."""
    for place in TOKEN_PLACES:
        said = _at(wire, place)
        if isinstance(said, int | float) and 1 <= said < 2**53:
            return int(said)
    return None


def _cost(wire: _Counted) -> Decimal | None:
    """USD that a reply says were charged; what is no amount is as good as no word."""
    said = _at(wire, ("usage", "cost"))
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        cost = Decimal(str(said))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None


def _at(wire: _Counted, place: Sequence[str]) -> Any:
    found = getattr(wire, place[0])
    for name in place[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _gateway_headers(kind: ModelKind) -> Callable[[Target], Mapping[str, str]]:
    return lambda target: ai_gateway.request_headers(target.model, kind)


UNPACKED: Mapping[str, str] = {"accept-encoding": "identity"}
"""For replies in base64, which packing makes no fifth smaller and a good deal later."""

ALL_PROMPTS = frozenset({"instruction", "input_type", "prompt_name"})

FORMATS: Mapping[str, WireFormat] = {
    wire.name: wire
    for wire in (
        WireFormat(
            name="quernel",
            embed=EmbeddingFormat(
                path="/v1/embeddings",
                encode=_encode_openai,
                decode=_decode_openai,
                headers=lambda target: UNPACKED,
                carries=ALL_PROMPTS | {"dimensions", "normalize", "token_ids"},
                truncates=CUTS,
            ),
            rerank=RerankFormat(
                path="/v1/rerank",
                encode=_encode_quernel_rerank,
                decode=_decode_quernel_rerank,
                carries=frozenset({"instruction", "max_tokens_per_document"}),
                truncates=CUTS,
            ),
        ),
        WireFormat(
            name="openai",
            embed=EmbeddingFormat(
                path="/embeddings",
                encode=_encode_openai,
                decode=_decode_openai,
                headers=lambda target: UNPACKED if target.options.base64 else {},
                prompts="text",
                carries=frozenset({"dimensions"}),
            ),
        ),
        WireFormat(
            name="jina",
            embed=EmbeddingFormat(
                path="/embeddings",
                encode=_encode_jina,
                decode=_decode_openai,
                headers=lambda target: UNPACKED if target.options.base64 else {},
                carries=frozenset({"input_type", "dimensions", "normalize"}),
                truncates=CUTS_END,
            ),
            rerank=RerankFormat(path="/rerank", encode=_encode_jina_rerank, decode=_decode_jina_rerank),
        ),
        WireFormat(
            name="voyage",
            embed=EmbeddingFormat(
                path="/embeddings",
                encode=_encode_voyage,
                decode=_decode_openai,
                headers=lambda target: UNPACKED if target.options.base64 else {},
                carries=frozenset({"input_type", "dimensions"}),
                truncates=CUTS_END,
            ),
            rerank=RerankFormat(
                path="/rerank", encode=_encode_voyage_rerank, decode=_decode_jina_rerank, truncates=CUTS_END
            ),
        ),
        WireFormat(
            name="cohere",
            embed=EmbeddingFormat(
                path="/v2/embed",
                encode=_encode_cohere,
                decode=_decode_cohere,
                carries=frozenset({"input_type", "dimensions"}),
                truncates=CUTS,
            ),
            rerank=RerankFormat(
                path="/v2/rerank",
                encode=_encode_cohere_rerank,
                decode=_decode_jina_rerank,
                carries=frozenset({"max_tokens_per_document"}),
                truncates=frozenset({Truncate.END}),
            ),
        ),
        WireFormat(
            name="tei",
            embed=EmbeddingFormat(
                path="/embed",
                encode=_encode_tei,
                decode=_decode_tei,
                prompts="text",
                carries=frozenset({"prompt_name", "dimensions", "normalize"}),
                truncates=CUTS,
            ),
            rerank=RerankFormat(path="/rerank", encode=_encode_tei_rerank, decode=_decode_tei_rerank, truncates=CUTS),
        ),
        WireFormat(
            name="ai-gateway",
            embed=EmbeddingFormat(
                path="/v4/ai/embedding-model",
                encode=_encode_gateway,
                decode=_decode_gateway,
                headers=_gateway_headers(ModelKind.EMBEDDING),
                prompts="text",
                carries=frozenset({"dimensions"}),
                truncates=CUTS_END,
            ),
            rerank=RerankFormat(
                path="/v4/ai/reranking-model",
                encode=_encode_gateway_rerank,
                decode=_decode_gateway_rerank,
                headers=_gateway_headers(ModelKind.RERANKER),
                truncates=CUTS_END,
            ),
        ),
    )
}
"""The formats by name. Texts get the family's prompts where the vendor has no field for them; Jina's, Voyage's and
Cohere's own models have prompts of their own, which their fields choose."""
