"""How good the built-in pair is, next to BM25: the tables of their model cards.

    python benchmarks/builtin_quality.py --data DIR [--embedder DIR] [--reranker DIR] [--rerank-queries 50]

`--data` is a folder of test sets: retrieval sets in BEIR layout, `stsb/<language>.test.jsonl` and
`tatoeba/<language>-eng.jsonl`. Sets that are not there are left out. Every number is printed with what it is measured
on; nothing is tuned here. Documents are title and text with a space between them, as in BEIR.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import ir_measures
import numpy as np
from ir_measures import nDCG

from quernel.embedder import Embedder
from quernel.reranker import Reranker
from quernel.types import Truncate

BUILTIN = Path(__file__).resolve().parents[1] / "src" / "quernel" / "builtin"
RETRIEVAL_SETS = ("cranfield", "npl", "cacm", "cosqa", "cmrc2018-zh", "tldr-crosslingual")
STS_LANGUAGES = ("en", "de", "fr", "es", "ja", "zh")
TATOEBA_LANGUAGES = ("deu", "fra", "spa", "rus", "cmn", "jpn", "kor")
DIMENSIONS = (256, 128, 64, 32)
NUM_RERANKED = 100
RECIPROCAL_RANK_CONSTANT = 60  # Cormack et al., SIGIR 2009
MEASURE = nDCG @ 10

# Lower-case words, and pairs of characters for scripts that put no space between words.
WORD = re.compile(r"[^\W_]+")
UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class RetrievalSet:
    name: str
    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]

    @classmethod
    def load(cls, folder: Path) -> "RetrievalSet":
        corpus = read_lines(folder / "corpus.jsonl")
        qrels: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            query, document, grade = line.split("\t")
            if int(float(grade)) > 0:
                qrels.setdefault(query, {})[document] = int(float(grade))
        queries = {row["_id"]: row["text"] for row in read_lines(folder / "queries.jsonl") if row["_id"] in qrels}
        return cls(
            name=folder.name,
            document_ids=[row["_id"] for row in corpus],
            documents=[f"{row.get('title', '')} {row['text']}".strip() for row in corpus],
            query_ids=list(queries),
            queries=list(queries.values()),
            qrels={query: qrels[query] for query in queries},
        )

    def measure(self, run: Run) -> float:
        """nDCG@10 over the queries of the run."""
        qrels = {query: self.qrels[query] for query in run}
        return float(ir_measures.calc_aggregate([MEASURE], qrels, run)[MEASURE])

    def run(self, scores: np.ndarray, depth: int = NUM_RERANKED) -> Run:
        """The best documents of each row of `scores` `[queries, documents]`."""
        return {
            query: {self.document_ids[index]: float(row[index]) for index in np.argsort(-row, kind="stable")[:depth]}
            for query, row in zip(self.query_ids, scores, strict=True)
        }


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    found: list[str] = []
    for word in WORD.findall(text.lower()):
        unspaced = UNSPACED.search(word) is not None and len(word) > 1
        found.extend(word[i : i + 2] for i in range(len(word) - 1)) if unspaced else found.append(word)
    return found


def bm25_run(data: RetrievalSet) -> Run:
    """Lucene's variant with k1 0.9 and b 0.4."""
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index([words(text) for text in data.documents], show_progress=False)
    known = set(index.vocab_dict)
    rows = [[word for word in words(text) if word in known] for text in data.queries]
    empty = np.zeros(len(data.documents))
    return data.run(np.stack([index.get_scores(row) if row else empty for row in rows]))


def fuse(*runs: Run) -> Run:
    """Reciprocal rank fusion."""
    fused: Run = {query: {} for query in runs[0]}
    for run in runs:
        for query, scores in run.items():
            for rank, document in enumerate(sorted(scores, key=lambda key: -scores[key]), start=1):
                gain = 1 / (RECIPROCAL_RANK_CONSTANT + rank)
                fused[query][document] = fused[query].get(document, 0.0) + gain
    return fused


def rerank_run(reranker: Reranker, data: RetrievalSet, run: Run) -> Run:
    """The documents of `run` with the reranker's scores."""
    texts = dict(zip(data.document_ids, data.documents, strict=True))
    queries = dict(zip(data.query_ids, data.queries, strict=True))
    scored: Run = {}
    for query, candidates in run.items():
        ids = list(candidates)
        ranked = reranker.rank(queries[query], [texts[document] for document in ids], truncate=Truncate.END)
        scored[query] = {ids[hit.index]: hit.logit for hit in ranked}
    return scored


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse]


def sts(embedder: Embedder, path: Path) -> float:
    rows = read_lines(path)
    left, right = (embedder.embed_documents([row[key] for row in rows]) for key in ("sentence1", "sentence2"))
    return spearman((left * right).sum(axis=1), [row["score"] for row in rows])


def tatoeba(embedder: Embedder, path: Path, language: str) -> float:
    """Share of sentences whose translation is the nearest sentence of the other language, mean of both directions."""
    rows = read_lines(path)
    left, right = (embedder.embed_documents([row[key] for row in rows]) for key in (language, "eng"))
    scores, diagonal = left @ right.T, np.arange(len(rows))
    return float((scores.argmax(axis=1) == diagonal).mean() + (scores.argmax(axis=0) == diagonal).mean()) / 2


def cut(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    shorter = vectors[:, :dimensions]
    return shorter / np.linalg.norm(shorter, axis=1, keepdims=True)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n| --- |{' ---: |' * (len(header) - 1)}")
    for row in rows:
        print(
            "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |",
            flush=True,
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def sample(run: Run, limit: int) -> Run:
    """`limit` queries of a run at even distances, all of a smaller one."""
    queries = list(run)
    chosen = queries if len(queries) <= limit else [queries[len(queries) * i // limit] for i in range(limit)]
    return {query: run[query] for query in chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the test sets")
    parser.add_argument("--embedder", type=Path, default=BUILTIN / "tiny-embedding")
    parser.add_argument("--reranker", type=Path, default=BUILTIN / "tiny-reranker")
    parser.add_argument("--rerank-queries", type=int, default=50, help="queries a set whose top 100 are reranked")
    parser.add_argument("--dtype", default="auto", help="type to compute in: auto, float32, bfloat16")
    options = parser.parse_args()
    embedder = Embedder(options.embedder, dtype=options.dtype)

    sets = [RetrievalSet.load(options.data / name) for name in RETRIEVAL_SETS if (options.data / name).is_dir()]
    runs: dict[str, Mapping[str, Run]] = {}
    rows, dimension_rows = [], []
    for data in sets:
        started = time.monotonic()
        documents = embedder.embed_documents(data.documents, truncate=Truncate.END)
        queries = embedder.embed_queries(data.queries, truncate=Truncate.END)
        plain = embedder.embed_documents(data.queries, truncate=Truncate.END)  # no instruction
        dense, bm25 = data.run(queries @ documents.T), bm25_run(data)
        runs[data.name] = {"dense": dense, "bm25": bm25}
        hybrid = data.measure(fuse(bm25, dense))
        without = data.measure(data.run(plain @ documents.T))
        rows.append((data.name, data.measure(bm25), data.measure(dense), without, hybrid))
        scores = [data.measure(data.run(cut(queries, size) @ cut(documents, size).T)) for size in DIMENSIONS]
        dimension_rows.append((data.name, *scores))
        say(f"{data.name}: {time.monotonic() - started:.0f} s")
    header = ("set", "BM25", "tiny-embedding", "without instruction", "BM25 + tiny-embedding")
    table("Retrieval, nDCG@10", header, rows)
    table("Fewer dimensions, nDCG@10", ("set", *map(str, DIMENSIONS)), dimension_rows)

    languages = [name for name in STS_LANGUAGES if (options.data / "stsb" / f"{name}.test.jsonl").exists()]
    table(
        "STS benchmark, Spearman, no instruction",
        languages,
        [[sts(embedder, options.data / "stsb" / f"{name}.test.jsonl") for name in languages]],
    )
    languages = [name for name in TATOEBA_LANGUAGES if (options.data / "tatoeba" / f"{name}-eng.jsonl").exists()]
    table(
        "Tatoeba, accuracy to and from English, no instruction",
        languages,
        [[tatoeba(embedder, options.data / "tatoeba" / f"{name}-eng.jsonl", name) for name in languages]],
    )
    embedder.close()

    reranker = Reranker(options.reranker, dtype=options.dtype)
    rows = []
    for data in sets:
        started = time.monotonic()
        dense, bm25 = (sample(runs[data.name][name], options.rerank_queries) for name in ("dense", "bm25"))
        reranked = rerank_run(reranker, data, dense)
        rows.append(
            (
                data.name,
                len(dense),
                data.measure(bm25),
                data.measure(dense),
                data.measure(reranked),
                data.measure(fuse(dense, reranked)),
            )
        )
        say(f"{data.name} reranked: {time.monotonic() - started:.0f} s")
    table(
        f"Reranking the embedder's top {NUM_RERANKED}, nDCG@10",
        ("set", "queries", "BM25", "tiny-embedding", "+ tiny-reranker", "both, by rank"),
        rows,
    )
    reranker.close()


if __name__ == "__main__":
    main()
