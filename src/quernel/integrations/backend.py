"""What every adapter stands on: a model in this process, or a server."""

from typing import Any, Protocol

from quernel.types import RankedDocument, Truncate, Vectors


class EmbeddingBackend(Protocol):
    """`Embedder` and `Client`, as far as adapters use them."""

    def embed_queries(
        self,
        texts: list[str],
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> Vectors:
        """Vectors of texts that ask."""
        ...

    def embed_documents(
        self, texts: list[str], *, dimensions: int | None = None, truncate: Truncate | str = Truncate.ERROR
    ) -> Vectors:
        """Vectors of texts that answer."""
        ...


class RerankBackend(Protocol):
    """`Reranker` and `Client`, as far as adapters use them."""

    def rank(
        self,
        query: str,
        documents: list[str],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        truncate: Truncate | str = Truncate.ERROR,
    ) -> tuple[RankedDocument, ...]:
        """Documents by their relevance, best first."""
        ...


def embedding_backend(
    model: str | None, base_url: str | None, api_key: str | None = None, **options: Any
) -> EmbeddingBackend:
    """A server's embedding model where there is a `base_url`, else the model in this process.

    Args:
        model: The model; the built-in one, or the server's default, where it is None.
        base_url: Where a server is.
        api_key: Its key.
        options: Those of `Client` or of `Embedder`.
    """
    if base_url is not None:
        from quernel.client import Client

        return Client(base_url, model=model, api_key=api_key, **options)
    from quernel.embedder import Embedder

    return Embedder(model, **options)


def rerank_backend(
    model: str | None, base_url: str | None, api_key: str | None = None, **options: Any
) -> RerankBackend:
    """The same for a reranker."""
    if base_url is not None:
        from quernel.client import Client

        return Client(base_url, model=model, api_key=api_key, **options)
    from quernel.reranker import Reranker

    return Reranker(model, **options)
