"""LlamaIndex: `QuernelEmbedding` for indexes, `QuernelRerank` as a node postprocessor.

Source: `llama_index.core.base.embeddings.base.BaseEmbedding`,
`llama_index.core.postprocessor.types.BaseNodePostprocessor`.
"""

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from quernel.errors import InvalidRequestError
from quernel.integrations.backend import EmbeddingBackend, RerankBackend, embedding_backend, rerank_backend
from quernel.types import Truncate


class QuernelEmbedding(BaseEmbedding):
    """Vectors for LlamaIndex: queries with the instruction, nodes without.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        api_key: The server's key.
        options: Those of `quernel.Embedder` or `quernel.client.Client`.
        fields: Those of `BaseEmbedding`, and the attributes below.

    Attributes:
        instruction: The task of queries; the model's default where it is None.
        dimensions: Length of the vectors; all of it where it is None.
        truncate: What happens to a text that is too long: `error`, `end` or `start`.
    """

    instruction: str | None = Field(default=None, description="The task of queries.")
    dimensions: int | None = Field(default=None, description="Length of the vectors.")
    truncate: str = Field(default=Truncate.END.value, description="What happens to a text that is too long.")

    _backend: EmbeddingBackend = PrivateAttr()

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        settings: dict[str, Any] = {"model_name": model or "quernel", "embed_batch_size": 256}
        super().__init__(**settings | fields)
        self._backend = embedding_backend(model, base_url, api_key, **(options or {}))

    @classmethod
    def class_name(cls) -> str:
        """What serialised settings call it."""
        return "QuernelEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        (vector,) = self._backend.embed_queries(
            [query], instruction=self.instruction, dimensions=self.dimensions, truncate=self.truncate
        )
        row: list[float] = vector.tolist()
        return row

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors = self._backend.embed_documents(texts, dimensions=self.dimensions, truncate=self.truncate)
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class QuernelRerank(BaseNodePostprocessor):
    """Keeps the most relevant nodes, with the reranker's scores.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        api_key: The server's key.
        options: Those of `quernel.Reranker` or `quernel.client.Client`.
        fields: The attributes below.

    Attributes:
        top_n: How many are kept.
        instruction: What counts as relevant.
        truncate: What happens to a node that is too long: `error`, `end` or `start`.
    """

    top_n: int = Field(default=3, description="How many nodes are kept.")
    instruction: str | None = Field(default=None, description="What counts as relevant.")
    truncate: str = Field(default=Truncate.END.value, description="What happens to a node that is too long.")

    _backend: RerankBackend = PrivateAttr()

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        self._backend = rerank_backend(model, base_url, api_key, **(options or {}))

    @classmethod
    def class_name(cls) -> str:
        """What serialised settings call it."""
        return "QuernelRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InvalidRequestError("A reranker needs the query.", param="query_bundle")
        if not nodes:
            return []
        ranked = self._backend.rank(
            query_bundle.query_str,
            [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes],
            instruction=self.instruction,
            top_n=self.top_n,
            truncate=self.truncate,
        )
        return [NodeWithScore(node=nodes[row.index].node, score=row.relevance_score) for row in ranked]
