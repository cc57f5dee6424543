import json
import subprocess
import sys
from pathlib import Path

import pytest

from quernel.errors import DownloadError, ModelLoadError, SettingsError, UnsupportedModelError
from quernel.model import files
from quernel.model.files import BUILTIN, locate
from tests.support.checkpoints import make_checkpoint
from tests.support.hub import COMMIT, serve_hub

HUB_ID = "someone/Qwen3-Embedding-Tiny"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local hub with one repository, that huggingface_hub uses, and an empty cache."""
    from huggingface_hub import constants

    folder = make_checkpoint(tmp_path / "repository", shards=2)
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"not wanted")
    with serve_hub(HUB_ID, folder) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        yield running


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_a_folder_is_itself(tmp_path):
    folder = make_checkpoint(tmp_path / "my-model")
    assert locate(str(folder)).folder == folder
    assert locate(str(folder)).name == str(folder)
    assert locate(folder).name == "my-model"
    assert locate(folder).revision is None


def test_a_folder_comes_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("owner/name").folder == Path("owner/name")


def test_a_built_in_name_is_the_folder_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    for folder in ("tiny-embedding", "tiny-reranker"):
        (tmp_path / "builtin" / folder).mkdir(parents=True)
        (tmp_path / "builtin" / folder / "config.json").touch()
    monkeypatch.chdir(tmp_path / "builtin")  # where folders of these names are, which must not matter
    for asked, name in BUILTIN.items():
        found = locate(asked)
        assert found.name == name
        assert found.folder == tmp_path / "builtin" / name.removeprefix("quernel/")


def test_a_built_in_model_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    with pytest.raises(ModelLoadError, match="not in this installation"):
        locate("tiny-embedding")


@pytest.mark.parametrize(
    "model", ["no-such-folder", "./no/such", "../no", "/no/such/folder", "a/b/c", "a b/c", "", Path("owner/name")]
)
def test_what_is_neither_folder_nor_hub_id_is_refused_with_examples(model):
    with pytest.raises(ModelLoadError, match="tiny-embedding") as caught:
        locate(model)
    assert not isinstance(caught.value, DownloadError)


def test_a_file_is_not_a_model_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnsupportedModelError, match="folder"):
        locate(tmp_path / "model.safetensors")


def test_a_gguf_file_is_a_model(tmp_path):
    file = tmp_path / "model-Q8_0.gguf"
    file.touch()
    assert locate(file).source == locate(str(file)).source == file
    assert locate(file).name == "model-Q8_0.gguf"
    assert locate(str(file)).name == str(file)


def test_a_gguf_file_that_does_not_exist_is_refused(tmp_path):
    for missing in (tmp_path / "model.gguf", "owner/name/model.gguf", "owner/name:model.gguf"):
        with pytest.raises(ModelLoadError, match=r"There is no file .*hf download"):
            locate(missing)


def test_in_a_folder_of_gguf_files_one_must_be_named(tmp_path):
    (tmp_path / "model-F16.gguf").touch()
    (tmp_path / "model-Q8_0.gguf").touch()
    with pytest.raises(ModelLoadError, match=r"Name the file: .*model-F16\.gguf"):
        locate(tmp_path)


def test_a_download_fetches_what_is_needed_and_nothing_else(hub, cache):
    found = locate(HUB_ID, cache_dir=cache)
    assert found.name == HUB_ID
    assert found.revision == COMMIT
    present = sorted(str(path.relative_to(found.folder)) for path in found.folder.rglob("*") if path.is_file())
    assert present == [name for name in hub.files if name not in ("pytorch_model.bin", "onnx/model.safetensors")]
    assert json.loads((found.folder / "1_Pooling/config.json").read_text())["pooling_mode_lasttoken"]


def test_what_was_downloaded_once_loads_offline(hub, cache):
    online = locate(HUB_ID, cache_dir=cache)
    hub.requests.clear()
    assert locate(HUB_ID, cache_dir=cache, offline=True) == online
    assert locate(f"{HUB_ID}@{COMMIT}", cache_dir=cache, offline=True) == online
    assert hub.requests == []


def test_what_was_downloaded_once_loads_while_the_hub_is_down(hub, cache, monkeypatch):
    online = locate(HUB_ID, cache_dir=cache)
    hub.refusal = (503, "Down")
    assert locate(HUB_ID, cache_dir=cache) == online


@pytest.mark.parametrize(("model", "revision"), [(f"{HUB_ID}@v1", None), (HUB_ID, "v1"), (f"{HUB_ID}@v1", "v1")])
def test_a_revision_is_asked_for(hub, cache, model, revision):
    found = locate(model, revision=revision, cache_dir=cache)
    assert found.name == HUB_ID
    assert found.revision == COMMIT
    assert any(request.endswith("/revision/v1") for request in hub.requests)


def test_two_different_revisions_are_refused():
    with pytest.raises(SettingsError, match="'v1' and revision for 'v2'"):
        locate(f"{HUB_ID}@v1", revision="v2")


def test_a_token_goes_to_the_hub(hub, cache):
    locate(HUB_ID, cache_dir=cache, token="hf_secret")
    assert "Bearer hf_secret" in hub.tokens


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((404, "RepoNotFound"), "has no model"),
        ((401, "RepoNotFound"), "has no model"),
        ((403, "GatedRepo"), "does not give .* to everyone.*terms"),
        ((404, "RevisionNotFound"), "has no revision"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(hub, cache, refusal, says):
    hub.refusal = refusal
    with pytest.raises(DownloadError, match=says):
        locate(HUB_ID, revision="v1", cache_dir=cache)


def test_a_model_that_is_not_in_the_cache_cannot_load_offline(cache):
    with pytest.raises(DownloadError, match="cache and the network is not to be used"):
        locate(HUB_ID, cache_dir=cache, offline=True)


def test_no_network_and_no_cache_say_so(hub, cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cache and the hub cannot be reached"):
        locate(HUB_ID, cache_dir=cache)


def test_importing_this_module_is_quick():
    code = "import sys, quernel.model.files; print({'torch', 'huggingface_hub'} & set(sys.modules) or 'neither')"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "neither\n"
    )
