"""Requests to Voyage's own service.

What a server of ours reads of its words is in `openai` and `rerank` beside this file.

Source: https://docs.voyageai.com/reference/embeddings-api and .../reranker-api.
"""

from quernel.protocols.body import encode_body
from quernel.protocols.openai import EmbeddingBody
from quernel.protocols.rerank import RerankBody
from quernel.protocols.vectors import VectorEncoding
from quernel.types import EmbeddingRequest, RerankRequest, Truncate


def encode_embed_request(request: EmbeddingRequest, *, model: str, encoding: VectorEncoding) -> bytes:
    """The body that asks for vectors."""
    return encode_body(
        EmbeddingBody(
            model=model,
            input=list(request.inputs),  # type: ignore[arg-type]  # a list of texts or one of token ids
            input_type=request.input_type,
            instruction=request.instruction,
            output_dimension=request.dimensions,
            truncation=request.truncate is Truncate.END,
            encoding_format=encoding if encoding is VectorEncoding.BASE64 else None,
        )
    )


def encode_rerank_request(request: RerankRequest, *, model: str) -> bytes:
    """The body that asks for an order of all documents."""
    return encode_body(
        RerankBody(
            model=model,
            query=request.query,
            documents=list(request.documents),
            instruction=request.instruction,
            truncation=request.truncate is Truncate.END,
            return_documents=False,
        )
    )
