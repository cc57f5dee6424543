import json

import pytest

from quernel.errors import ConfigError, UnsupportedModelError
from quernel.model.config import Qwen3Config, load_json
from quernel.model.side_files import load_side_files
from quernel.types import ModelKind
from tests.support.checkpoints import DEFAULT_INSTRUCTION, edit_json, make_checkpoint, write_json


def read(folder):
    return load_side_files(folder, Qwen3Config.load(folder), load_json(folder / "config.json"))


@pytest.fixture
def embedding(tmp_path):
    return make_checkpoint(tmp_path / "model", layers=1)


def modules_of(folder):
    return json.loads((folder / "modules.json").read_text())


@pytest.fixture
def reranker(tmp_path):
    return make_checkpoint(tmp_path / "model", kind="reranker", layers=1)


@pytest.mark.parametrize("form", [4, 5])
def test_the_files_of_an_embedding_model_in_old_and_new_form(tmp_path, form):
    found = read(make_checkpoint(tmp_path / "model", config_form=form))
    assert found.kind is ModelKind.EMBEDDING
    assert found.prompts == {"query": f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:", "document": ""}
    assert found.default_prompt_name is None
    assert found.normalize
    assert found.instruction is None


def test_the_files_of_a_reranker(reranker):
    found = read(reranker)
    assert found.kind is ModelKind.RERANKER
    assert found.answer_ids == (257, 258)
    assert found.instruction == DEFAULT_INSTRUCTION


@pytest.mark.parametrize("kind", ModelKind)
def test_a_folder_without_side_files_gets_the_family_s_ways(tmp_path, kind):
    found = read(make_checkpoint(tmp_path / "model", kind=kind, side_files=False))
    assert found.normalize
    assert found.prompts == {}
    assert found.answer_ids is None
    assert found.max_tokens is None


def test_normalising_is_left_out_where_the_files_leave_it_out(embedding):
    write_json(embedding / "modules.json", modules_of(embedding)[:2])
    assert not read(embedding).normalize


@pytest.mark.parametrize(
    ("name", "changes", "kind"),
    [
        ("Qwen3-Reranker-copy", {}, ModelKind.RERANKER),
        ("my-embedder", {}, ModelKind.EMBEDDING),
        ("model", {"_name_or_path": "Qwen/Qwen3-Reranker-0.6B"}, ModelKind.RERANKER),
        ("model", {"architectures": ["Qwen3ForSequenceClassification"]}, ModelKind.RERANKER),
        ("model", {"architectures": ["Qwen3Model"]}, ModelKind.EMBEDDING),
        ("model", {}, None),
    ],
)
def test_without_side_files_names_and_architecture_tell_the_kind(tmp_path, name, changes, kind):
    folder = make_checkpoint(tmp_path / name, side_files=False)
    edit_json(folder / "config.json", **changes)
    assert read(folder).kind is kind


def test_in_the_cache_of_the_hub_the_repository_tells_the_kind(tmp_path):
    snapshots = tmp_path / "models--someone--Qwen3-Reranker-Tiny" / "snapshots"
    snapshots.mkdir(parents=True)
    assert read(make_checkpoint(snapshots / "0123abc", side_files=False)).kind is ModelKind.RERANKER


@pytest.mark.parametrize("in_file", [True, False])
def test_a_template_with_a_document_tells_a_reranker(tmp_path, in_file):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", side_files=False)
    if not in_file:
        template = folder / "chat_template.jinja"
        edit_json(folder / "tokenizer_config.json", chat_template=template.read_text())
        template.unlink()
    assert read(folder).kind is ModelKind.RERANKER


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}, "'mean'"),
        ({"pooling_mode_lasttoken": False}, "'mean'"),
        ({"pooling_mode_cls_token": True}, r"'cls' \+ 'lasttoken'"),
        ({"pooling_mode": "weightedmean"}, "'weightedmean'"),
        ({"pooling_mode": ["max", "lasttoken"]}, r"'max' \+ 'lasttoken'"),
        ({"include_prompt": False}, "include_prompt"),
    ],
)
def test_any_pooling_but_the_last_token_with_its_prompt_is_refused_by_name(embedding, pooling, named):
    edit_json(embedding / "1_Pooling/config.json", **pooling)
    with pytest.raises(UnsupportedModelError, match=named):
        read(embedding)


def test_pooling_of_another_width_is_refused(embedding):
    edit_json(embedding / "1_Pooling/config.json", word_embedding_dimension=1024)
    with pytest.raises(ConfigError, match="1024"):
        read(embedding)


@pytest.mark.parametrize("kind", ["Dense", "WeightedLayerPooling", "SpladePooling"])
def test_a_module_that_is_not_of_the_family_is_refused_by_name(embedding, kind):
    extra = {"idx": 3, "name": "3", "path": "3_Extra", "type": f"sentence_transformers.models.{kind}"}
    write_json(embedding / "modules.json", [*modules_of(embedding), extra])
    with pytest.raises(UnsupportedModelError, match=kind):
        read(embedding)


def test_a_transformer_in_a_folder_of_its_own_is_refused(embedding):
    modules = modules_of(embedding)
    modules[0]["path"] = "0_Transformer"
    write_json(embedding / "modules.json", modules)
    with pytest.raises(UnsupportedModelError, match="0_Transformer"):
        read(embedding)


def test_a_sparse_encoder_is_refused(embedding):
    (embedding / "modules.json").unlink()
    edit_json(embedding / "config_sentence_transformers.json", model_type="SparseEncoder")
    with pytest.raises(UnsupportedModelError, match="SparseEncoder"):
        read(embedding)


def test_a_reranker_that_scores_by_one_token_is_refused(reranker):
    edit_json(reranker / "1_LogitScore/config.json", false_token_id=None)
    with pytest.raises(UnsupportedModelError, match="false_token_id"):
        read(reranker)


@pytest.mark.parametrize("token_id", [9693, -1, "yes", None])
def test_an_answer_outside_the_vocabulary_is_refused(reranker, token_id):
    edit_json(reranker / "1_LogitScore/config.json", true_token_id=token_id)
    with pytest.raises(ConfigError, match="true_token_id"):
        read(reranker)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"idx": 0}]', "null"])
def test_a_broken_list_of_modules_is_refused(embedding, content):
    (embedding / "modules.json").write_text(content)
    with pytest.raises(ConfigError, match=r"modules\.json"):
        read(embedding)


@pytest.mark.parametrize(
    "settings", [{"prompts": ["query"]}, {"prompts": {"query": 3}}, {"default_prompt_name": "passage"}]
)
def test_prompts_that_make_no_sense_are_refused(embedding, settings):
    edit_json(embedding / "config_sentence_transformers.json", **settings)
    with pytest.raises(ConfigError):
        read(embedding)


def test_the_lower_limit_holds(embedding):
    assert read(embedding).max_tokens == 131072
    edit_json(embedding / "tokenizer_config.json", model_max_length=256)
    assert read(embedding).max_tokens == 256
    write_json(embedding / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    assert read(embedding).max_tokens == 128


def test_a_tokenizer_without_a_limit_limits_nothing(embedding):
    edit_json(embedding / "tokenizer_config.json", model_max_length=1000000000000000019884624838656)
    assert read(embedding).max_tokens > 10**20


def test_a_limit_that_is_no_number_is_refused(embedding):
    write_json(embedding / "sentence_bert_config.json", {"max_seq_length": "long"})
    with pytest.raises(ConfigError, match="long"):
        read(embedding)
