"""Models are opened as what they are."""

import json

import pytest

from quernel.cli.composition import LoadSettings, ModelChoice, open_model
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError
from quernel.types import ModelKind
from tests.cli.conftest import Run
from tests.support.checkpoints import make_checkpoint

LOAD = LoadSettings(device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for kind in ModelKind:
        make_checkpoint(root / f"a-{kind}", kind=kind)
    make_checkpoint(root / "mystery", kind="embedding", side_files=False)
    return root


@pytest.mark.parametrize("kind", ModelKind)
def test_the_files_say_what_it_is(folders, kind):
    with open_model(ModelChoice(str(folders / f"a-{kind}"), None, LOAD), EngineConfig()) as model:
        assert model.info.kind is kind
        assert model.info.device == "cpu"


def test_where_they_do_not_the_choice_must(folders):
    path = str(folders / "mystery")
    with pytest.raises(SettingsError) as caught:
        open_model(ModelChoice(path, None, LOAD), EngineConfig())
    assert f"-m reranker={path}" in str(caught.value)
    for kind in ModelKind:
        with open_model(ModelChoice.parse(f"{kind}={path}", LOAD), EngineConfig()) as model:
            assert model.info.kind is kind


def test_embed_and_rerank_with_real_engines(run: Run, folders):
    result = run("embed", "a", "b", "a", "-m", folders / "a-embedding", "--dimensions", 32)
    assert result.exit_code == 0, result.stderr
    vectors = [json.loads(line)["embedding"] for line in result.stdout.splitlines()]
    assert [len(vector) for vector in vectors] == [32, 32, 32]
    assert vectors[0] == vectors[2] != vectors[1]
    result = run("rerank", "a", "b", "c", "-m", folders / "a-reranker", "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(json.loads(line)["index"] for line in result.stdout.splitlines()) == [0, 1]


def test_a_model_of_the_other_kind_is_refused(run: Run, folders):
    result = run("embed", "a", "-m", folders / "a-reranker")
    assert result.exit_code == 1
    assert "is of kind reranker" in result.stderr
