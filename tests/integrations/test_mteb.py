"""mteb's own run on a local task, with our models in it."""

from types import SimpleNamespace

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from quernel.integrations.mteb import (  # noqa: E402
    RERANKING,
    RETRIEVAL,
    QuernelCrossEncoder,
    QuernelEncoder,
    instruction_of,
    main,
    run,
    table,
)

DOCUMENTS = ["the cat sleeps on the roof", "planes fly with wings", "tax law of 1990", "rain falls in spring"]
QUERIES = ["a sleeping cat", "how do planes fly", "rain"]
ANSWERS = [0, 1, 3]


def metadata(name, kind, score):
    return TaskMetadata(
        name=name,
        description="A local task.",
        dataset={"path": "local", "revision": "1"},
        type=kind,
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class Pets(AbsTaskRetrieval):
    metadata = metadata("LocalPets", "Retrieval", "ndcg_at_10")

    def load_data(self, **kwargs):
        split = RetrievalSplitData(
            corpus=Dataset.from_list([{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(DOCUMENTS)]),
            queries=Dataset.from_list([{"id": f"q{i}", "text": text} for i, text in enumerate(QUERIES)]),
            relevant_docs={f"q{i}": {f"d{answer}": 1} for i, answer in enumerate(ANSWERS)},
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class Alike(AbsTaskSTS):
    metadata = metadata("LocalAlike", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def load_data(self, **kwargs):
        pairs = [(text, other, 5.0 * (text == other)) for text in DOCUMENTS for other in DOCUMENTS]
        columns = dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*pairs, strict=True)), strict=True))
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


@pytest.fixture(scope="module")
def encoder():
    return QuernelEncoder("quernel/tiny-embedding")


def main_scores(model, *tasks):
    found = mteb.evaluate(model, list(tasks), cache=None, show_progress_bar=False)
    return {result.task_name: result.get_score() for result in found.task_results}


def test_mteb_runs_our_encoder(encoder):
    assert isinstance(encoder, EncoderProtocol)
    scores = main_scores(encoder, Pets(), Alike())
    assert scores["LocalPets"] == pytest.approx(1.0)
    assert scores["LocalAlike"] > 0.7


def test_mteb_runs_our_reranker():
    reranker = QuernelCrossEncoder("quernel/tiny-reranker")
    assert isinstance(reranker, CrossEncoderProtocol)
    batches = [{"text": ["a sleeping cat"] * 3 + ["rain"]}]
    documents = [{"text": [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1], DOCUMENTS[3]]}]
    scores = reranker.predict(batches, documents, task_metadata=Pets.metadata, hf_split="test", hf_subset="default")
    assert scores.shape == (4,)
    assert scores[0] == max(scores[:3])
    assert scores[3] > scores[1]


def test_vectors_are_cut_and_compared(encoder):
    short = QuernelEncoder("quernel/tiny-embedding", dimensions=64)
    vectors = short.encode([{"text": DOCUMENTS}], task_metadata=Pets.metadata, hf_split="", hf_subset="")
    assert vectors.shape == (4, 64)
    np.testing.assert_allclose(short.similarity(vectors, vectors).diagonal(), 1, atol=1e-5)
    np.testing.assert_allclose(short.similarity_pairwise(vectors, vectors), 1, atol=1e-5)


def test_an_embedder_is_evaluated_and_its_best_are_reranked(encoder, tmp_path):
    scores = run(encoder, [Pets(), Alike()], output=tmp_path)
    assert scores["LocalPets"] == ("Retrieval", pytest.approx(100.0))
    shown = table(scores)
    assert shown.splitlines()[-1].split()[:2] == ["mean", "(task)"]
    reranker = QuernelCrossEncoder("quernel/tiny-reranker")
    again = run(encoder, [Pets()], reranker=reranker, output=tmp_path / "again")
    assert again["LocalPets"][1] > 60


def test_the_command_refuses_to_guess(capsys):
    with pytest.raises(SystemExit):
        main(["quernel/tiny-embedding"])
    assert "give --benchmark or --tasks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "kind", "prompt", "side", "expected"),
    [
        ("AFQMC", "STS", None, None, "Retrieve semantically similar text"),
        ("Unknown", "STS", "x", None, "Retrieve semantically similar text"),
        ("Unknown", "BitextMining", None, None, "Retrieve parallel sentences."),
        ("Unknown", "Retrieval", None, PromptType.query, RETRIEVAL),
        ("Unknown", "Retrieval", {"query": "Find it"}, PromptType.query, "Find it"),
        ("Unknown", "Retrieval", {"query": "Find it"}, PromptType.document, None),
        ("AILAStatutes", "Retrieval", None, PromptType.document, None),
        ("Unknown", "Summarization", None, None, None),
        ("Unknown", "Clustering", "Name the topic", None, "Name the topic"),
    ],
)
def test_instructions_are_those_of_the_family(task, kind, prompt, side, expected):
    said = SimpleNamespace(name=task, type=kind, prompt=prompt)
    assert instruction_of(said, side) == expected


def test_rerankers_have_a_default_of_their_own():
    said = SimpleNamespace(name="Unknown", type="Reranking", prompt=None)
    assert instruction_of(said, PromptType.query, default=RERANKING) == RERANKING
