"""Models behind a server, as models: any Quernel, or anything that speaks OpenAI's embeddings.

A plain OpenAI endpoint has no fields for instructions and cuts. There the prompt is put before the text here, in the
family's form where it runs one of these models, and not at all for others.
"""

import asyncio
from dataclasses import replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from quernel.client import Client
from quernel.errors import ModelNotFoundError
from quernel.prompts.templates import DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    InputType,
    ModelInfo,
    ModelKind,
    RerankRequest,
    RerankResult,
    Truncate,
)

Prompts: TypeAlias = Literal["fields", "qwen3", "none"]
"""How an endpoint is told what a text is: in Quernel's fields, by the family's prompt before it, or not at all."""


class _Remote:
    """What is known of a model behind a server, and the way to it."""

    kind: ClassVar[ModelKind]

    def __init__(self, url: str, model: str | None, api_key: str | None) -> None:
        self._client = Client(url, model=model, api_key=api_key)
        self._info = ModelInfo(
            name=model or url, kind=self.kind, dimensions=0, max_tokens=0, dtype="", device="remote", num_parameters=0
        )

    @property
    def info(self) -> ModelInfo:
        """Its name; the rest a plain endpoint does not tell."""
        return self._info

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


class RemoteEmbeddingModel(_Remote):
    """An embedding model behind a server.

    Args:
        url: The server's address.
        model: The model's name there; None for its default.
        api_key: The server's key.
        prompts: How it is told what a text is.
    """

    kind = ModelKind.EMBEDDING

    def __init__(
        self, url: str, model: str | None = None, *, api_key: str | None = None, prompts: Prompts = "fields"
    ) -> None:
        super().__init__(url, model, api_key)
        self._prompts = prompts

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Vectors of length 1 for the request's texts. Errors as `quernel.client.Client.embed`."""
        if self._prompts != "fields":
            request = self._plain(request)
        result = await asyncio.to_thread(self._client.embed, request)
        lengths = np.linalg.norm(result.vectors, axis=1, keepdims=True)
        return replace(result, vectors=(result.vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32))

    def _plain(self, request: EmbeddingRequest) -> EmbeddingRequest:
        prompt = ""
        if self._prompts == "qwen3" and request.input_type is InputType.QUERY:
            prompt = QUERY_PROMPT.format(instruction=request.instruction or DEFAULT_INSTRUCTION)
        texts = [prompt + text for text in request.inputs if isinstance(text, str)]
        return EmbeddingRequest(inputs=texts, truncate=Truncate.ERROR)


class RemoteRerankModel(_Remote):
    """A reranker behind a server that speaks Jina's, Cohere's or our dialect.

    Args:
        url: The server's address.
        model: The model's name there; None for its default.
        api_key: The server's key.
    """

    kind = ModelKind.RERANKER

    def __init__(self, url: str, model: str | None = None, *, api_key: str | None = None) -> None:
        super().__init__(url, model, api_key)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """The request's documents, best first. Errors as `quernel.client.Client.rerank`."""
        return await asyncio.to_thread(self._client.rerank, request)


def is_endpoint(name: str) -> bool:
    """Whether a model's name is an address."""
    return name.startswith(("http://", "https://"))


def split_endpoint(text: str) -> tuple[str, str | None]:
    """Address and model of `http://host:port#model`.

    Raises:
        ModelNotFoundError: It is no address.
    """
    if not is_endpoint(text):
        raise ModelNotFoundError(
            f"{text!r} is no address.", param="model", hint="Write it like http://host:1234#model."
        )
    url, _, model = text.partition("#")
    return url, model or None
