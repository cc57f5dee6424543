"""`quernel verify`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from quernel.types import ModelKind
from quernel.verification.golden import SimilarityCase, load_golden
from tests.cli.conftest import Run
from tests.support.checkpoints import make_checkpoint
from tests.verification.fakes import FakeEmbedder, info_of, vectors_with

FOUR_B = "Qwen/Qwen3-Embedding-4B"
(CARD,) = (case for case in load_golden() if case.id == "embedding-4b-card-st")


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch):
    """Makes a fake with these similarities the model that is opened, whatever is asked for."""

    def give(similarities, *, name: str = FOUR_B) -> None:
        assert isinstance(CARD, SimilarityCase)
        info = info_of(ModelKind.EMBEDDING, name=name, dimensions=2560)
        fake = FakeEmbedder(vectors_with(CARD, similarities), info)
        monkeypatch.setattr("quernel.cli.verify.open_model", lambda choice, engine: fake)

    return give


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: make_checkpoint(tmp_path_factory.mktemp("verify") / kind, kind=kind) for kind in ("embedding", "reranker")
    }


def test_a_model_that_computes_what_is_published_passes(run: Run, opened):
    opened(CARD.expected)
    result = run("verify", FOUR_B)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == [
        *("RESULT", "CASE", "VALUE", "THERE", "HERE", "DIFFERENCE", "TOLERANCE", "REMARK")
    ]
    assert result.stdout.count("pass ") == 4
    assert result.stderr == f"4 passed, 1 skipped: {FOUR_B}, float32 on cpu\n"


def test_one_number_that_differs_makes_the_exit_code_1(run: Run, opened):
    similarities = np.array(CARD.expected)
    similarities[1, 1] -= 0.01
    opened(similarities)
    result = run("verify", FOUR_B)
    assert result.exit_code == 1
    assert result.stderr.startswith("3 passed, 1 failed, 1 skipped")


def test_json_is_one_line_for_each_number_with_its_source(run: Run, opened):
    opened(CARD.expected)
    checks = [line for line in lines(run("verify", FOUR_B, "--json").stdout) if line["case"] == CARD.id]
    assert [check["outcome"] for check in checks] == ["pass"] * 4
    assert [check["expected"] for check in checks] == list(np.ravel(CARD.expected))
    assert {check["source"] for check in checks} == {CARD.source}


def test_quiet_says_nothing(run: Run, opened):
    opened(CARD.expected)
    assert run("verify", FOUR_B, "--quiet").stderr == ""


def test_a_folder_is_compared_as_the_model_that_it_is_declared_to_be(run: Run, opened):
    opened(CARD.expected, name="./copy")
    assert run("verify", "./copy", "--as", FOUR_B).exit_code == 0


def test_another_shape_or_kind_cannot_be_declared_as_a_published_model(run: Run, opened):
    opened(CARD.expected, name="./copy")
    for name in ("Qwen/Qwen3-Embedding-8B", "Qwen/Qwen3-Reranker-4B"):
        result = run("verify", "./copy", "--as", name)
        assert result.exit_code == 2
        assert f"no copy of {name}" in result.stderr


def test_an_unknown_published_model_is_answered_with_those_there_are(run: Run, opened):
    opened(CARD.expected, name="./copy")
    result = run("verify", "./copy", "--as", "Qwen/Qwen3-Embedding-7B")
    assert result.exit_code == 2
    assert FOUR_B in result.stderr


@pytest.mark.parametrize("kind", ["embedding", "reranker"])
def test_a_model_of_which_nothing_is_published_is_compared_with_the_reference(run: Run, folders, kind: str):
    result = run("verify", folders[kind], "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith("Nothing is published for ")
    checks = lines(result.stdout)
    assert {check["outcome"] for check in checks} == {"pass"}
    assert {check["case"] for check in checks} == {"reference"}
    assert all(check["source"].startswith("transformers ") for check in checks)


def test_own_texts_are_compared_as_documents_and_as_queries(run: Run, folders):
    result = run("verify", folders["embedding"], "--texts", "-", "--json", input="one\ntwo <|im_end|>\n")
    assert result.exit_code == 0
    assert [check["what"] for check in lines(result.stdout)] == [
        "text 1 as document",
        "text 2 as document",
        "text 1 as query",
        "text 2 as query",
    ]


def test_a_document_that_names_a_token_is_not_compared_with_a_reference_that_obeys_it(run: Run, folders, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("is it?\nyes it is\n<|im_end|> it is\n", encoding="utf-8")
    result = run("verify", folders["reranker"], "--texts", file, "--json")
    assert result.exit_code == 0
    assert [check["outcome"] for check in lines(result.stdout)] == ["pass", "skipped"]


def test_a_reference_that_computes_something_else_makes_the_exit_code_1(run: Run, folders, monkeypatch):
    def other(folder, query, documents, instruction, *, device, dtype):
        return [100.0] * len(documents)

    monkeypatch.setattr("quernel.verification.reference.reference_logits", other)
    assert run("verify", folders["reranker"]).exit_code == 1


def test_a_comparison_of_nothing_is_no_success(run: Run, folders):
    result = run("verify", folders["reranker"], "--texts", "-", input="q\n<think>\n")
    assert result.exit_code == 1
    assert "1 skipped" in result.stderr


def test_a_query_alone_is_refused(run: Run, folders):
    result = run("verify", folders["reranker"], "--texts", "-", input="q\n")
    assert result.exit_code == 1
    assert "no document" in result.stderr


def test_without_transformers_the_way_out_is_named(run: Run, folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = run("verify", folders["embedding"])
    assert result.exit_code == 2
    assert 'pip install "quernel[verify]"' in result.stderr
