"""Models whose answers are chosen: those that were published, or anything else."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    ModelInfo,
    ModelKind,
    RankedDocument,
    RerankRequest,
    RerankResult,
)
from quernel.verification.golden import SimilarityCase


def info_of(kind: ModelKind, dtype: str = "float32", name: str = "fake", dimensions: int = 1024) -> ModelInfo:
    return ModelInfo(
        name=name, kind=kind, dimensions=dimensions, max_tokens=512, dtype=dtype, device="cpu", num_parameters=0
    )


@dataclass
class FakeEmbedder:
    """Vectors by (instruction, text)."""

    vectors: Mapping[tuple[str | None, str], np.ndarray]
    info: ModelInfo

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        assert request.normalize is False
        rows = [self.vectors[request.instruction, text] for text in request.inputs]
        return EmbeddingResult(
            vectors=np.stack(rows).astype(np.float32),
            num_tokens=(1,) * len(rows),
            truncated=(False,) * len(rows),
            model=self.info.name,
        )


@dataclass
class FakeReranker:
    """Logits by document; answers best first, as rerankers do."""

    logits: Mapping[str, float]
    info: ModelInfo

    async def rerank(self, request: RerankRequest) -> RerankResult:
        ranked = [
            RankedDocument(index, float(1 / (1 + np.exp(-self.logits[text]))), self.logits[text])
            for index, text in enumerate(request.documents)
        ]
        return RerankResult(
            results=tuple(sorted(ranked, key=lambda document: -document.logit)),
            num_tokens=(1,) * len(ranked),
            truncated=(False,) * len(ranked),
            model=self.info.name,
        )


def vectors_with(case: SimilarityCase, similarities) -> dict[tuple[str | None, str], np.ndarray]:
    """Vectors whose cosines are `similarities`: queries along the axes, of length 2; documents of length 1."""
    similarities = np.asarray(similarities, float)
    num_queries = len(case.queries)
    vectors = {(case.instruction, query): 2 * np.eye(num_queries + 1)[row] for row, query in enumerate(case.queries)}
    for column, document in enumerate(case.documents):
        along = similarities[:, column]
        vectors[None, document] = np.append(along, np.sqrt(1 - along @ along))
    return vectors
