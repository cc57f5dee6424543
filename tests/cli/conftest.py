"""A model that computes nothing, in place of the ones that the commands would open."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pytest
from click.testing import CliRunner, Result

from quernel.cli.main import cli
from quernel.errors import InputTooLongError
from quernel.types import EmbeddingRequest, EmbeddingResult, RankedDocument, RerankRequest, RerankResult

DIMENSIONS = 8
MAX_CHARACTERS = 1000


def vector_of(text: str) -> np.ndarray:
    """Any two texts that differ get different vectors, with values that JSON must carry exactly."""
    seed = int.from_bytes(text.encode()[:16].ljust(16, b"\0"), "little") + len(text)
    return np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)


@dataclass
class FakeEmbedder:
    """Vectors by hash; remembers its requests."""

    requests: list[EmbeddingRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def embed_sync(self, request: EmbeddingRequest) -> EmbeddingResult:
        self.requests.append(request)
        for number, text in enumerate(request.inputs):
            if len(text) > MAX_CHARACTERS:
                raise InputTooLongError(f"input {number} has {len(text)} tokens.", hint="Set truncate.")
        vectors = np.stack([vector_of(text) for text in request.inputs])
        lengths = tuple(len(text) for text in request.inputs)
        return EmbeddingResult(
            vectors=vectors[:, : request.dimensions],
            num_tokens=lengths,
            truncated=(False,) * len(lengths),
            model="fake",
        )


@dataclass
class FakeReranker:
    """Relevant is what shares letters with the query; remembers its requests."""

    requests: list[RerankRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def rerank_sync(self, request: RerankRequest) -> RerankResult:
        self.requests.append(request)
        logits = [float(len(set(request.query) & set(text))) for text in request.documents]
        ranked = [RankedDocument(index, 1 / (1 + math.exp(-logit)), logit) for index, logit in enumerate(logits)]
        ranked.sort(key=lambda hit: -hit.logit)
        lengths = tuple(len(text) for text in request.documents)
        return RerankResult(
            results=tuple(ranked[: request.top_n]), num_tokens=lengths, truncated=(False,) * len(lengths), model="fake"
        )


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> FakeEmbedder:
    """The model that `quernel embed` opens."""
    fake = FakeEmbedder()
    monkeypatch.setattr("quernel.cli.embed.open_embedder", lambda model, load, engine: fake)
    return fake


@pytest.fixture
def reranker(monkeypatch: pytest.MonkeyPatch) -> FakeReranker:
    """The model that `quernel rerank` opens."""
    fake = FakeReranker()
    monkeypatch.setattr("quernel.cli.rerank.open_reranker", lambda model, load, engine: fake)
    return fake


Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Runs `quernel` with some arguments in this process."""

    def call(*arguments: object, input: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input, env=env)

    return call
