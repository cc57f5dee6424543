import json

import pytest

from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel
from tests.evaluate.conftest import write_jsonl, write_qrels

TEXTS = ("the cat sleeps", "rain in spring", "how planes fly", "tax law of 1990")


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    write_jsonl(folder / "animals/corpus.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)])
    queries = [{"_id": "a", "text": "a sleeping cat"}, {"_id": "b", "text": "why do planes fly"}]
    write_jsonl(folder / "animals/queries.jsonl", queries)
    write_qrels(folder / "animals/qrels/test.tsv", [("a", 0, 1), ("b", 2, 1)])
    rows = [{"sentence1": text, "sentence2": other, "score": float(text == other)} for text in TEXTS for other in TEXTS]
    write_jsonl(folder / "alike.jsonl", rows)
    return folder


def test_built_in_models_on_own_data_with_report(run, tasks, tmp_path):
    result = run(
        "evaluate", tasks, "-r", "quernel/tiny-reranker", "--dimensions", "256,64", "--numbers", "float,binary",
        "-o", tmp_path / "report", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "| quernel/tiny-embedding | 64 | binary |" in result.stdout
    assert "quernel/tiny-embedding + quernel/tiny-reranker" in result.stdout
    data = json.loads((tmp_path / "report/results.json").read_text())
    by_name = {(one["task"], one["kind"], one["dimensions"], one["dtype"]): one for one in data["results"]}
    assert by_name["tasks/animals", "Retrieval", 256, "float"]["figures"][0]["value"] == 1.0
    assert by_name["tasks/alike", "Similarity", 64, "float"]["figures"][0]["value"] > 0.7


def test_an_address_is_a_model_too(run, tasks):
    with running(create_app([FakeEmbeddingModel()])) as url:
        result = run("evaluate", tasks / "animals", "-m", url, "-m", "quernel/tiny-embedding", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    models = [one["model"] for one in json.loads(result.stdout)["results"]]
    assert models == [url, "quernel/tiny-embedding"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dimensions", "many"), "dimensions is 'many'"),
        (("--dimensions", "0"), "Lengths are 1 or more"),
        (("--numbers", "float,int4"), "numbers holds 'int4'"),
        (("--split", "dev"), "no judgements for dev"),
        (("--measures", "nDCG@ten"), "measures holds 'nDCG@ten'"),
        (("--depth", "0"), "depth"),
    ],
)
def test_wrong_options_are_named_before_anything_is_read(run, tasks, arguments, message):
    result = run("evaluate", tasks / "animals", *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
