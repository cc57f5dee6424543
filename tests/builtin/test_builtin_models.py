"""The shipped pair: folders of the promised size that load like official checkpoints and tell relevant from not."""

from pathlib import Path

import pytest

import quernel.embedder
from quernel.embedder import Embedder
from quernel.reranker import Reranker

FOLDER = Path(quernel.embedder.__file__).parent / "builtin"
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
