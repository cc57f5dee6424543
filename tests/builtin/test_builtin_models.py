"""The shipped pair: folders of the promised size that load like official checkpoints and tell relevant from not."""

import re
import runpy
from pathlib import Path

import ir_measures
import numpy as np
import pytest

import quernel.embedder
from quernel.embedder import Embedder
from quernel.reranker import Reranker

FOLDER = Path(quernel.embedder.__file__).parent / "builtin"
ROOT = Path(__file__).parents[2]
CRANFIELD = ROOT.parent / "shared" / "data" / "cranfield"
CARD = FOLDER / "tiny-embedding" / "README.md"
LIMIT_BYTES = 25_000_000
QUERY = "how does a wing produce lift"
ANSWER = "A wing produces lift because the air that flows over it is turned downwards."
OTHERS = [
    "Bake the apple pie for forty minutes.",
    "The bank raised its interest rate in March.",
    "def add(a, b): return a + b",
]


@pytest.mark.parametrize("name", ["tiny-embedding", "tiny-reranker"])
def test_a_folder_is_at_most_25_megabytes_and_has_a_card(name):
    files = [path for path in (FOLDER / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    assert "Apache-2.0" in (FOLDER / name / "README.md").read_text(encoding="utf-8")


def test_the_embedding_model_puts_the_answer_nearest():
    with Embedder(FOLDER / "tiny-embedding") as embedder:
        scores = embedder.embed_queries([QUERY]) @ embedder.embed_documents([ANSWER, *OTHERS]).T
    assert scores[0].argmax() == 0


def test_fewer_dimensions_put_the_answer_nearest_too():
    with Embedder(FOLDER / "tiny-embedding") as embedder:
        query = embedder.embed_queries([QUERY], dimensions=64)
        scores = query @ embedder.embed_documents([ANSWER, *OTHERS], dimensions=64).T
    assert scores[0].argmax() == 0


def test_a_translation_is_nearer_than_another_sentence():
    with Embedder(FOLDER / "tiny-embedding") as embedder:
        english, german, other = embedder.embed_documents(
            ["Where is the station?", "Wo ist der Bahnhof?", "Der Käse schmeckt gut."]
        )
    assert english @ german > english @ other


def test_the_reranker_puts_the_answer_first_and_nonsense_below_a_half():
    with Reranker(FOLDER / "tiny-reranker") as reranker:
        best, *rest = reranker.rank(QUERY, [*OTHERS, ANSWER])
    assert best.index == len(OTHERS)
    assert all(hit.relevance_score < 0.5 for hit in rest)
    assert best.relevance_score > max(hit.relevance_score for hit in rest) + 0.2


@pytest.mark.skipif(not CRANFIELD.exists(), reason="the shared evaluation data is not beside the project")
def test_cranfield_is_found_as_well_as_the_card_says():
    read_texts = runpy.run_path(str(ROOT / "examples" / "search.py"))["read_texts"]
    corpus, queries = (read_texts(CRANFIELD / f"{name}.jsonl") for name in ("corpus", "queries"))
    qrels = list(ir_measures.read_trec_qrels(_trec(CRANFIELD / "qrels" / "test.tsv")))
    with Embedder(dtype="float32") as embedder:
        scores = embedder.embed_queries(list(queries.values())) @ embedder.embed_documents(list(corpus.values())).T
    ids = list(corpus)
    run = [
        ir_measures.ScoredDoc(query_id, ids[index], float(row[index]))
        for query_id, row in zip(queries, scores, strict=True)
        for index in np.argsort(-row)[:100]
    ]
    measure = ir_measures.parse_measure("nDCG@10")
    said = re.search(
        r"^\| cranfield \| [\d.]+ \| [\d.]+ \| ([\d.]+) \(", CARD.read_text(encoding="utf-8"), re.MULTILINE
    )[1]
    assert ir_measures.calc_aggregate([measure], qrels, run)[measure] == pytest.approx(float(said), abs=0.003)


def _trec(path):
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:])
    return "".join(f"{query_id} 0 {document_id} {score}\n" for query_id, document_id, score in rows)
