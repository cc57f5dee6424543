import pytest

from quernel.errors import ConfigError
from quernel.evaluate.tasks import (
    Classification,
    Clustering,
    Following,
    Place,
    Retrieval,
    Similarity,
    Translations,
    find_tasks,
    read_task,
)
from tests.evaluate.conftest import write_jsonl, write_qrels


def read(path, **options):
    [place] = find_tasks(path)
    return read_task(place, **options)


def test_retrieval_in_beir_layout(retrieval):
    task = read(retrieval)
    assert isinstance(task, Retrieval)
    assert task.documents["2"] == "fish sun"
    assert dict(task.queries) == {"a": "cat", "b": "sun"}  # one without a judgement has no figure
    assert task.qrels["b"] == {"2": 1, "3": 0}
    assert dict(read(retrieval, split="dev").queries) == {"a": "cat"}


def test_titles_stand_before_texts(tmp_path):
    write_jsonl(tmp_path / "t/corpus.jsonl", [{"_id": "1", "title": "Cats", "text": "purr"}])
    write_jsonl(tmp_path / "t/queries.jsonl", [{"_id": "q", "text": "x"}])
    write_qrels(tmp_path / "t/qrels/test.tsv", [("q", 1, 1)])
    assert read(tmp_path / "t").documents == {"1": "Cats purr"}


def test_forms_of_single_files(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"sentence1": "x", "sentence2": "y", "score": 2.5, "split": "test"}])
    write_jsonl(tmp_path / "b.jsonl", [{"text": "x", "label": 3}])
    write_jsonl(tmp_path / "c.jsonl", [{"id": 7, "deu": "Katze", "eng": "cat"}])
    for part in ("train", "test"):
        write_jsonl(tmp_path / f"d/{part}.jsonl", [{"text": part, "label": "l"}])
    similarity, clustering, translations, classification = map(read_task, find_tasks(tmp_path))
    assert isinstance(similarity, Similarity)
    assert similarity.scores == [2.5]
    assert isinstance(clustering, Clustering)
    assert clustering.labels == ["3"]
    assert isinstance(translations, Translations)
    assert (translations.left, translations.right) == (["Katze"], ["cat"])
    assert isinstance(classification, Classification)
    assert classification.train == ["train"]


def test_following_instructions(tmp_path):
    folder = tmp_path / "f"
    write_jsonl(folder / "corpus.jsonl", [{"_id": "1", "text": "cat"}])
    row = {"_id": "q", "text": "pets", "instruction": "any", "changed_instruction": "not cat"}
    write_jsonl(folder / "queries.jsonl", [row])
    write_jsonl(folder / "candidates.jsonl", [{"_id": "q", "documents": [1]}])
    write_qrels(folder / "qrels/original.tsv", [("q", 1, 1)])
    write_qrels(folder / "qrels/changed.tsv", [("q", 1, 0)])
    task = read(folder)
    assert isinstance(task, Following)
    assert task.instructions == {"q": ("any", "not cat")}
    assert task.candidates == {"q": ["1"]}


def test_a_folder_of_tasks_is_searched_and_other_files_left_alone(retrieval):
    collection = retrieval.parent
    (collection / "README.md").write_text("about")
    write_jsonl(collection / "more/sts.jsonl", [{"sentence1": "x", "sentence2": "y", "score": 1}])
    names = [place.name for place in find_tasks(collection)]
    assert names == [f"{collection.name}/more/sts", f"{collection.name}/pets"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"one": "x"}], "no known task"),
        ([{"text": "x", "label": "a"}, {"text": "y"}], "row 2 has no label"),
        ([[1]], "line 1 is no object"),
        ([], "is empty"),
    ],
)
def test_broken_files_are_named(tmp_path, rows, message):
    write_jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "t.jsonl")


def test_what_is_missing_is_said(retrieval, tmp_path):
    with pytest.raises(ConfigError, match=r"no judgements for train.*dev, test"):
        read(retrieval, split="train")
    with pytest.raises(ConfigError, match="holds no task"):
        find_tasks(tmp_path / "nowhere")
    write_qrels(retrieval / "qrels/test.tsv", [("a", 0, "many")])
    with pytest.raises(ConfigError, match="cannot be read as judgements"):
        read(retrieval)
    write_qrels(retrieval / "qrels/test.tsv", [("a", 0, 0)])
    with pytest.raises(ConfigError, match="no query has a positive judgement"):
        read(retrieval)
    (retrieval / "corpus.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"corpus\.jsonl"):
        read_task(Place("t", retrieval))
