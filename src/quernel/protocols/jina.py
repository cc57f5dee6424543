"""Requests to Jina's own service.

What a server of ours reads of its words is in `openai` and `rerank` beside this file.

Source: https://jina.ai/embeddings and https://jina.ai/reranker (API).
"""

from collections.abc import Mapping

from quernel.protocols.body import encode_body
from quernel.protocols.openai import EmbeddingBody, EmbeddingType
from quernel.protocols.rerank import RerankBody
from quernel.protocols.tasks import JinaTask
from quernel.protocols.vectors import VectorEncoding
from quernel.types import EmbeddingRequest, InputType, RerankRequest, Truncate

TASKS: Mapping[InputType | None, JinaTask | None] = {
    None: None,
    InputType.QUERY: JinaTask.RETRIEVAL_QUERY,
    InputType.DOCUMENT: JinaTask.RETRIEVAL_PASSAGE,
}

ENCODINGS: Mapping[VectorEncoding, EmbeddingType] = {
    VectorEncoding.FLOAT: EmbeddingType.FLOAT,
    VectorEncoding.BASE64: EmbeddingType.BASE64,
}


def encode_embed_request(request: EmbeddingRequest, *, model: str, encoding: VectorEncoding) -> bytes:
    """The body that asks for vectors."""
    return encode_body(
        EmbeddingBody(
            model=model,
            input=list(request.inputs),  # type: ignore[arg-type]  # a list of texts or one of token ids
            task=TASKS[request.input_type],
            instruction=request.instruction,
            dimensions=request.dimensions,
            normalized=request.normalize,
            truncate=True if request.truncate is Truncate.END else None,
            embedding_type=ENCODINGS[encoding],
        )
    )


def encode_rerank_request(request: RerankRequest, *, model: str) -> bytes:
    """The body that asks for an order of all documents.

    Other servers speak Jina's dialect too, and differ in how many documents they return, and whether with the texts,
    where they are not told.
    """
    return encode_body(
        RerankBody(
            model=model,
            query=request.query,
            documents=list(request.documents),
            instruction=request.instruction,
            top_n=len(request.documents),
            return_documents=False,
        )
    )
