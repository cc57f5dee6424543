"""LangChain: `QuernelEmbeddings` for any vector store, `QuernelReranker` for `ContextualCompressionRetriever`.

Source: `langchain_core.embeddings.Embeddings`, `langchain_core.documents.compressor.BaseDocumentCompressor`.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from pydantic import PrivateAttr

from quernel.integrations.backend import RerankBackend, embedding_backend, rerank_backend
from quernel.types import Truncate


class QuernelEmbeddings(Embeddings):
    """Vectors for LangChain: queries with the instruction, documents without.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        api_key: The server's key.
        instruction: The task of queries; the model's default where it is None.
        dimensions: Length of the vectors; all of it where it is None.
        truncate: What happens to a text that is too long: `error`, `end` or `start`.
        options: Those of `quernel.Embedder` or `quernel.client.Client`.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
        **options: Any,
    ) -> None:
        self._backend = embedding_backend(model, base_url, api_key, **options)
        self._instruction = instruction
        self._dimensions = dimensions
        self._truncate = truncate

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each document."""
        if not texts:
            return []
        vectors = self._backend.embed_documents(texts, dimensions=self._dimensions, truncate=self._truncate)
        rows: list[list[float]] = vectors.tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        (vector,) = self._backend.embed_queries(
            [text], instruction=self._instruction, dimensions=self._dimensions, truncate=self._truncate
        )
        row: list[float] = vector.tolist()
        return row


class QuernelReranker(BaseDocumentCompressor):
    """Keeps the most relevant documents, with `relevance_score` in their metadata.

    Attributes:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        api_key: The server's key.
        instruction: What counts as relevant.
        top_n: How many are kept; all where it is None.
        truncate: What happens to a document that is too long: `error`, `end` or `start`.
        options: Those of `quernel.Reranker` or `quernel.client.Client`.
    """

    model: str | None = None
    base_url: str | None = None
    api_key: str | None = None
    instruction: str | None = None
    top_n: int | None = 3
    truncate: str = Truncate.END.value
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it

    _backend: RerankBackend = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Open the model or the connection."""
        super().model_post_init(context)
        self._backend = rerank_backend(self.model, self.base_url, self.api_key, **self.options)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first."""
        if not documents:
            return []
        ranked = self._backend.rank(
            query,
            [document.page_content for document in documents],
            instruction=self.instruction,
            top_n=self.top_n,
            truncate=self.truncate,
        )
        kept = []
        for row in ranked:
            document = documents[row.index]
            metadata = {**document.metadata, "relevance_score": row.relevance_score}
            kept.append(document.model_copy(update={"metadata": metadata}))
        return kept
