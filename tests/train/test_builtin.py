"""The whole pipeline on generated data: from rows to two folders that load like official checkpoints."""

import json

import pytest
import torch

from quernel.embedder import Embedder
from quernel.errors import SettingsError
from quernel.reranker import Reranker
from quernel.train.builtin import STAGES, build, main
from quernel.train.settings import BuiltinSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("builtin")
    threads = torch.get_num_threads()
    main(["--smoke", "--out", str(out)])
    torch.set_num_threads(threads)
    return out


def test_the_embedding_model_loads_and_embeds(made):
    with Embedder(made / "tiny-embedding") as embedder:
        assert embedder.info.dimensions == 256
        assert embedder.embed_queries(["gandor mis"]).shape == (1, 256)


def test_the_reranker_loads_and_finds_the_words_of_the_query(made):
    with Reranker(made / "tiny-reranker") as reranker:
        ranked = reranker.rank("bado kilu", ["meno rasi tuve", "wozy bado kilu pel"])
    assert [hit.index for hit in ranked] == [1, 0]


def test_tensor_names_and_side_files_are_those_of_the_official_folders(made):
    files = {path.relative_to(made).as_posix() for path in made.glob("tiny-*/**/*") if path.is_file()}
    common = {"config.json", "generation_config.json", "model.safetensors", "modules.json", "tokenizer.json"}
    common |= {"tokenizer_config.json", "config_sentence_transformers.json"}
    assert files == {
        *(f"tiny-embedding/{name}" for name in {*common, "1_Pooling/config.json"}),
        *(
            f"tiny-reranker/{name}"
            for name in {*common, "1_LogitScore/config.json", "chat_template.jinja", "sentence_bert_config.json"}
        ),
    }
    header = (made / "tiny-reranker/model.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert all(name == "__metadata__" or name.startswith("model.") for name in names)


def test_a_stage_without_what_it_needs_says_which_stage_to_run(tmp_path):
    with pytest.raises(SettingsError, match="Run the stage vocabulary first"):
        main(["--data", str(tmp_path), "--out", str(tmp_path), "--stage", "export"])


def test_the_settings_of_the_shipped_edition_are_complete():
    settings = BuiltinSettings.load()
    assert len(settings.bag) >= 1
    assert list(STAGES)[-1] == "export"
    assert callable(build)


def test_an_unknown_setting_is_refused(tmp_path):
    (tmp_path / "own.toml").write_text("[model]\nvocab_size = 1\nwidth = 3\n")
    with pytest.raises(SettingsError, match="width"):
        BuiltinSettings.load(tmp_path / "own.toml")
