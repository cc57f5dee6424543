"""Haystack: components that embed texts and documents, and rank documents.

Source: https://docs.haystack.deepset.ai/docs/custom-components; the components of `haystack.components.embedders` and
`.rankers`, whose inputs and outputs these have.
"""

# Haystack passes settings by name, so their number is no matter.
# ruff: noqa: PLR0917

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from quernel.integrations.backend import EmbeddingBackend, RerankBackend, embedding_backend, rerank_backend
from quernel.types import Truncate


@component
class QuernelTextEmbedder:
    """The vector of a query, for a retriever.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        instruction: The task; the model's default where it is None.
        dimensions: Length of the vectors; all of it where it is None.
        options: Those of `quernel.Embedder` or `quernel.client.Client`, its key among them.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.options = options or {}
        self.instruction = instruction
        self.dimensions = dimensions
        self._backend: EmbeddingBackend | None = None

    def warm_up(self) -> None:
        """Open the model."""
        if self._backend is None:
            self._backend = embedding_backend(self.model, self.base_url, **self.options)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """The vector of a text that asks."""
        self.warm_up()
        assert self._backend is not None
        (vector,) = self._backend.embed_queries([text], instruction=self.instruction, dimensions=self.dimensions)
        return {"embedding": vector.tolist()}

    def to_dict(self) -> dict[str, Any]:
        """What a serialised pipeline keeps."""
        return default_to_dict(
            self,
            model=self.model,
            base_url=self.base_url,
            options=self.options,
            instruction=self.instruction,
            dimensions=self.dimensions,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "QuernelTextEmbedder":
        """The component of a serialised pipeline."""
        made: QuernelTextEmbedder = default_from_dict(cls, data)
        return made


@component
class QuernelDocumentEmbedder:
    """Documents with their vectors, for a document store.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        dimensions: Length of the vectors; all of it where it is None.
        meta_fields_to_embed: Fields of a document's `meta` that are put before its text, a line each.
        truncate: What happens to a document that is too long: `error`, `end` or `start`.
        options: Those of `quernel.Embedder` or `quernel.client.Client`, its key among them.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        truncate: str = Truncate.END.value,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.options = options or {}
        self.dimensions = dimensions
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.truncate = truncate
        self._backend: EmbeddingBackend | None = None

    def warm_up(self) -> None:
        """Open the model."""
        if self._backend is None:
            self._backend = embedding_backend(self.model, self.base_url, **self.options)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The same documents, with their embedding."""
        self.warm_up()
        assert self._backend is not None
        if not documents:
            return {"documents": []}
        texts = [
            "\n".join(
                [*(str(each.meta[name]) for name in self.meta_fields_to_embed if name in each.meta), each.content or ""]
            )
            for each in documents
        ]
        vectors = self._backend.embed_documents(texts, dimensions=self.dimensions, truncate=self.truncate)
        pairs = zip(documents, vectors.tolist(), strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}

    def to_dict(self) -> dict[str, Any]:
        """What a serialised pipeline keeps."""
        return default_to_dict(
            self,
            model=self.model,
            base_url=self.base_url,
            options=self.options,
            dimensions=self.dimensions,
            meta_fields_to_embed=self.meta_fields_to_embed,
            truncate=self.truncate,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "QuernelDocumentEmbedder":
        """The component of a serialised pipeline."""
        made: QuernelDocumentEmbedder = default_from_dict(cls, data)
        return made


@component
class QuernelRanker:
    """The most relevant documents, with the reranker's scores.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is; the model is loaded into this process where it is None.
        top_k: How many are kept.
        instruction: What counts as relevant.
        truncate: What happens to a document that is too long: `error`, `end` or `start`.
        options: Those of `quernel.Reranker` or `quernel.client.Client`, its key among them.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        top_k: int = 10,
        instruction: str | None = None,
        truncate: str = Truncate.END.value,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.options = options or {}
        self.top_k = top_k
        self.instruction = instruction
        self.truncate = truncate
        self._backend: RerankBackend | None = None

    def warm_up(self) -> None:
        """Open the model."""
        if self._backend is None:
            self._backend = rerank_backend(self.model, self.base_url, **self.options)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """The best documents, best first."""
        self.warm_up()
        assert self._backend is not None
        if not documents:
            return {"documents": []}
        ranked = self._backend.rank(
            query,
            [document.content or "" for document in documents],
            instruction=self.instruction,
            top_n=top_k or self.top_k,
            truncate=self.truncate,
        )
        return {"documents": [replace(documents[row.index], score=row.relevance_score) for row in ranked]}

    def to_dict(self) -> dict[str, Any]:
        """What a serialised pipeline keeps."""
        return default_to_dict(
            self,
            model=self.model,
            base_url=self.base_url,
            options=self.options,
            top_k=self.top_k,
            instruction=self.instruction,
            truncate=self.truncate,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "QuernelRanker":
        """The component of a serialised pipeline."""
        made: QuernelRanker = default_from_dict(cls, data)
        return made
