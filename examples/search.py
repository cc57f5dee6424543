"""Search a collection, rerank what was found, fuse both orders, and say how good each is.

    python examples/search.py                                  # the bundled sample, the built-in models
    python examples/search.py --data path/to/cranfield         # any folder in BEIR layout
    python examples/search.py --embedder Qwen/Qwen3-Embedding-0.6B --reranker Qwen/Qwen3-Reranker-0.6B

Needs `pip install "quernel[evaluate]"` for the metric (ir-measures).
"""

import argparse
import csv
import json
from pathlib import Path

import ir_measures
import numpy as np

from quernel import Embedder, Reranker

RANK_CONSTANT = 60
"""Of reciprocal rank fusion. Source: Cormack, Clarke and Buettcher, SIGIR 2009."""

SAMPLE = Path(__file__).parent / "declaration"


def read_texts(path: Path) -> dict[str, str]:
    """Texts by id from a BEIR `corpus.jsonl` or `queries.jsonl`, title first."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in rows}


def search(data: Path, embedder: Embedder, reranker: Reranker, *, depth: int) -> dict[str, float]:
    """nDCG@10 by stage."""
    corpus, queries = read_texts(data / "corpus.jsonl"), read_texts(data / "queries.jsonl")
    with (data / "qrels" / "test.tsv").open(encoding="utf-8") as file:
        judged = list(csv.DictReader(file, delimiter="\t"))
    qrels = [ir_measures.Qrel(row["query-id"], row["corpus-id"], int(row["score"])) for row in judged]
    queries = {key: text for key, text in queries.items() if key in {qrel.query_id for qrel in qrels}}

    ids = list(corpus)
    documents = embedder.embed_documents(list(corpus.values()), truncate="end")
    asked = embedder.embed_queries(list(queries.values()))
    runs: dict[str, list[ir_measures.ScoredDoc]] = {"embeddings alone": [], "reranked": [], "both, by rank": []}
    for query_id, similarities in zip(queries, asked @ documents.T, strict=True):
        best = np.argsort(-similarities, kind="stable")[:depth]
        hits = reranker.rank(queries[query_id], [corpus[ids[i]] for i in best], truncate="end")
        place = {hit.index: rank for rank, hit in enumerate(hits)}
        for rank, i in enumerate(best):
            scores = similarities[i], -place[rank], 1 / (RANK_CONSTANT + rank) + 1 / (RANK_CONSTANT + place[rank])
            for run, score in zip(runs.values(), scores, strict=True):
                run.append(ir_measures.ScoredDoc(query_id, ids[i], float(score)))
    measure = ir_measures.parse_measure("nDCG@10")
    return {name: ir_measures.calc_aggregate([measure], qrels, run)[measure] for name, run in runs.items()}


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description="Search and rerank a collection; print nDCG@10.")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="folder in BEIR layout")
    parser.add_argument("--embedder", help="embedding model (default: the built-in one)")
    parser.add_argument("--reranker", help="reranker (default: the built-in one)")
    parser.add_argument("--depth", type=int, default=20, help="documents to rerank for each query")
    arguments = parser.parse_args()
    with Embedder(arguments.embedder) as embedder, Reranker(arguments.reranker) as reranker:
        quality = search(arguments.data, embedder, reranker, depth=arguments.depth)
        print(f"{arguments.data.name}: {embedder.info.name}, {reranker.info.name}")
    for stage, value in quality.items():
        print(f"  nDCG@10  {value:.3f}  {stage}")


if __name__ == "__main__":
    main()
