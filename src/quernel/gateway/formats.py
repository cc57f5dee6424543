"""The wire formats that providers are spoken to in, by name.

A format says what it can carry; what becomes of the rest is in `quernel.gateway.expression`. The codecs of
`quernel.protocols` write the bodies and read the replies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from quernel.errors import InvalidRequestError
from quernel.gateway.expression import express_embedding, express_rerank
from quernel.gateway.transport import HttpReply
from quernel.gateway.wire import CUTS, CUTS_END, EmbeddingFormat, Operation, RerankFormat, Target
from quernel.protocols import ai_gateway, cohere, jina, provider_replies, tei, voyage
from quernel.protocols.openai import EmbeddingCall, encode_embedding_request
from quernel.protocols.provider_replies import Reply
from quernel.protocols.rerank import RerankCall, encode_rerank_request
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelKind,
    RerankRequest,
    RerankResult,
    Truncate,
)


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


def _encode_openai(request: EmbeddingRequest, target: Target) -> bytes:
    return encode_embedding_request(EmbeddingCall(request=request, model=target.model, encoding=target.encoding))


def _encode_cohere(request: EmbeddingRequest, target: Target) -> bytes:
    # Cohere's own models demand an input type; the family's read a document as the text alone.
    input_type = request.input_type or (InputType.DOCUMENT if request.instruction is None else None)
    return cohere.encode_embed_request(
        cohere.CohereEmbedCall(request=replace(request, input_type=input_type), model=target.model)
    )


def _encode_cohere_rerank(request: RerankRequest, target: Target) -> bytes:
    # Cohere cuts documents to 4096 tokens where it is not told otherwise.
    most = request.max_tokens_per_document or target.info.max_tokens or None
    request = replace(request, top_n=len(request.documents), max_tokens_per_document=most)
    return cohere.encode_rerank_request(RerankCall(request=request, model=target.model))


def _decode_openai(reply: HttpReply, request: EmbeddingRequest, target: Target) -> Reply[EmbeddingResult]:
    return provider_replies.decode_embeddings(reply.body, request, model=target.info.name)


def _decode_rerank(reply: HttpReply, request: RerankRequest, target: Target) -> Reply[RerankResult]:
    raw_scores = target.options.raw_scores
    return provider_replies.decode_ranking(reply.body, request, model=target.info.name, raw_scores=raw_scores)


def _decode_gateway(reply: HttpReply, request: EmbeddingRequest, target: Target) -> Reply[EmbeddingResult]:
    answer = ai_gateway.decode_embedding_reply(reply.body, model=target.info.name)
    return Reply(result=answer.result, reported_tokens=sum(answer.result.num_tokens) or None, reported_cost=answer.cost)


def _decode_gateway_rerank(reply: HttpReply, request: RerankRequest, target: Target) -> Reply[RerankResult]:
    answer = ai_gateway.decode_reranking_reply(reply.body, request, model=target.info.name)
    return Reply(result=answer.result, reported_tokens=sum(answer.result.num_tokens) or None, reported_cost=answer.cost)


def _gateway_headers(kind: ModelKind) -> Callable[[Target], Mapping[str, str]]:
    return lambda target: ai_gateway.request_headers(target.model, kind)


UNPACKED: Mapping[str, str] = {"accept-encoding": "identity"}
"""For replies in base64, which packing makes no fifth smaller and a good deal later."""


def _unpacked_if_base64(target: Target) -> Mapping[str, str]:
    return UNPACKED if target.options.base64 else {}


ALL_PROMPTS = frozenset({"instruction", "input_type", "prompt_name"})

QUERNEL = WireFormat(
    name="quernel",
    embed=Operation(
        path="/v1/embeddings",
        encode=_encode_openai,
        decode=_decode_openai,
        headers=lambda target: UNPACKED,
        carries=ALL_PROMPTS | {"dimensions", "normalize", "token_ids"},
        truncates=CUTS,
    ),
    rerank=Operation(
        path="/v1/rerank",
        encode=lambda request, target: encode_rerank_request(
            RerankCall(request=request, model=target.model, raw_scores=True)
        ),
        decode=lambda reply, request, target: provider_replies.decode_ranking(
            reply.body, request, model=target.info.name, raw_scores=True
        ),
        carries=frozenset({"instruction", "max_tokens_per_document"}),
        truncates=CUTS,
    ),
)

OPENAI = WireFormat(
    name="openai",
    embed=Operation(
        path="/embeddings",
        encode=_encode_openai,
        decode=_decode_openai,
        headers=_unpacked_if_base64,
        prompts="text",
        carries=frozenset({"dimensions"}),
    ),
)

JINA = WireFormat(
    name="jina",
    embed=Operation(
        path="/embeddings",
        encode=lambda request, target: jina.encode_embed_request(request, model=target.model, encoding=target.encoding),
        decode=_decode_openai,
        headers=_unpacked_if_base64,
        carries=frozenset({"input_type", "dimensions", "normalize"}),
        truncates=CUTS_END,
    ),
    rerank=Operation(
        path="/rerank",
        encode=lambda request, target: jina.encode_rerank_request(request, model=target.model),
        decode=_decode_rerank,
    ),
)

VOYAGE = WireFormat(
    name="voyage",
    embed=Operation(
        path="/embeddings",
        encode=lambda request, target: voyage.encode_embed_request(
            request, model=target.model, encoding=target.encoding
        ),
        decode=_decode_openai,
        headers=_unpacked_if_base64,
        carries=frozenset({"input_type", "dimensions"}),
        truncates=CUTS_END,
    ),
    rerank=Operation(
        path="/rerank",
        encode=lambda request, target: voyage.encode_rerank_request(request, model=target.model),
        decode=_decode_rerank,
        truncates=CUTS_END,
    ),
)

COHERE = WireFormat(
    name="cohere",
    embed=Operation(
        path="/v2/embed",
        encode=_encode_cohere,
        decode=lambda reply, request, target: provider_replies.decode_cohere_embeddings(
            reply.body, request, model=target.info.name
        ),
        carries=frozenset({"input_type", "dimensions"}),
        truncates=CUTS,
    ),
    rerank=Operation(
        path="/v2/rerank",
        encode=_encode_cohere_rerank,
        decode=_decode_rerank,
        carries=frozenset({"max_tokens_per_document"}),
        truncates=frozenset({Truncate.END}),
    ),
)

TEI = WireFormat(
    name="tei",
    embed=Operation(
        path="/embed",
        encode=lambda request, target: tei.encode_embed_request(tei.TeiEmbedCall(request=request)),
        decode=lambda reply, request, target: provider_replies.decode_tei_embeddings(
            reply.body, request, reply.headers, model=target.info.name
        ),
        prompts="text",
        carries=frozenset({"prompt_name", "dimensions", "normalize"}),
        truncates=CUTS,
    ),
    rerank=Operation(
        path="/rerank",
        encode=lambda request, target: tei.encode_rerank_request(RerankCall(request=request, raw_scores=True)),
        decode=lambda reply, request, target: provider_replies.decode_tei_ranking(
            reply.body, request, reply.headers, model=target.info.name
        ),
        truncates=CUTS,
    ),
)

AI_GATEWAY = WireFormat(
    name="ai-gateway",
    embed=Operation(
        path="/v4/ai/embedding-model",
        encode=lambda request, target: ai_gateway.encode_embedding_call(request),
        decode=_decode_gateway,
        headers=_gateway_headers(ModelKind.EMBEDDING),
        prompts="text",
        carries=frozenset({"dimensions"}),
        truncates=CUTS_END,
    ),
    rerank=Operation(
        path="/v4/ai/reranking-model",
        encode=lambda request, target: ai_gateway.encode_reranking_call(replace(request, top_n=len(request.documents))),
        decode=_decode_gateway_rerank,
        headers=_gateway_headers(ModelKind.RERANKER),
        truncates=CUTS_END,
    ),
)

FORMATS: Mapping[str, WireFormat] = {
    wire.name: wire for wire in (QUERNEL, OPENAI, JINA, VOYAGE, COHERE, TEI, AI_GATEWAY)
}
"""The formats by name. Texts get the family's prompts where the vendor has no field for them; Jina's, Voyage's and
Cohere's own models have prompts of their own, which their fields choose."""
