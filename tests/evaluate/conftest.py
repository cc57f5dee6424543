"""Small tasks on disk, and a model whose vectors are known."""

import json

import numpy as np
import pytest

from quernel.types import EmbeddingResult, ModelInfo, ModelKind, RankedDocument, RerankResult

WORDS = ("cat", "dog", "fish", "sun", "moon", "star", "red", "blue", "katze", "hund", "fisch", "sonne", "not")
SAME = {"katze": "cat", "hund": "dog", "fisch": "fish", "sonne": "sun"}


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_qrels(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class WordModel:
    """Counts known words, so that every cosine can be checked by hand. `name` is the first word of its report."""

    def __init__(self, name="words", weight=1.0):
        self.info = ModelInfo(
            name=name,
            kind=ModelKind.EMBEDDING,
            dimensions=16,
            max_tokens=100,
            dtype="float32",
            device="cpu",
            num_parameters=0,
        )
        self.weight = weight
        self.requests = []

    async def embed(self, request):
        self.requests.append(request)
        rows = np.zeros((len(request.inputs), 16), dtype=np.float32)
        for row, text in zip(rows, request.inputs, strict=True):
            row[15] = 0.01 * self.weight
            for word in text.lower().split():
                if word in WORDS:
                    row[WORDS.index(SAME.get(word, word))] += 1
            if request.instruction and "not " in request.instruction:
                row[WORDS.index(request.instruction.split("not ")[1])] -= 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        counts = tuple(len(text.split()) for text in request.inputs)
        return EmbeddingResult(vectors=rows, model=self.info.name, num_tokens=counts, truncated=(False,) * len(counts))


class LengthReranker:
    """Prefers short documents."""

    info = ModelInfo(
        name="short",
        kind=ModelKind.RERANKER,
        dimensions=1,
        max_tokens=100,
        dtype="float32",
        device="cpu",
        num_parameters=0,
    )

    async def rerank(self, request):
        ranked = sorted(range(len(request.documents)), key=lambda index: len(request.documents[index]))
        results = tuple(
            RankedDocument(index=index, relevance_score=1 / (2 + rank), logit=0.0) for rank, index in enumerate(ranked)
        )
        count = len(request.documents)
        return RerankResult(results=results, model="short", num_tokens=(1,) * count, truncated=(False,) * count)


@pytest.fixture
def model():
    return WordModel()


@pytest.fixture
def retrieval(tmp_path):
    """Two queries; the first has its answer first, the second at rank two."""
    folder = tmp_path / "pets"
    documents = ["cat cat", "dog", "fish sun", "moon", "sun sun sun fish"]
    write_jsonl(
        folder / "corpus.jsonl", [{"_id": str(i), "title": "", "text": text} for i, text in enumerate(documents)]
    )
    queries = [("a", "cat"), ("b", "sun"), ("unjudged", "moon")]
    write_jsonl(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in queries])
    write_qrels(folder / "qrels/test.tsv", [("a", 0, 1), ("b", 2, 1), ("b", 3, 0)])
    write_qrels(folder / "qrels/dev.tsv", [("a", 1, 1)])
    return folder
