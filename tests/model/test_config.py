import json

import pytest

from quernel.errors import ConfigError, UnsupportedModelError
from quernel.model.config import Qwen3Config
from tests.support.checkpoints import edit_json, make_checkpoint


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "model")


def test_transformers_4_and_5_write_the_same_configuration(tmp_path):
    four, five = (Qwen3Config.load(make_checkpoint(tmp_path / str(form), config_form=form)) for form in (4, 5))
    assert four == five


@pytest.mark.parametrize("form", [4, 5])
def test_the_base_of_the_rotation_is_read_from_either_place(tmp_path, form):
    folder = make_checkpoint(tmp_path / "model", config_form=form)
    if form == 4:
        edit_json(folder / "config.json", rope_theta=5000)
    else:
        edit_json(folder / "config.json", rope_parameters={"rope_theta": 5000, "rope_type": "default"})
    assert Qwen3Config.load(folder).rope_theta == 5000.0


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "qwen2"},
        {"model_type": None},
        {"architectures": ["Qwen3MoeForCausalLM"]},
        {"architectures": ["Qwen3ForTokenClassification"]},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"use_sliding_window": True},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
    ],
)
def test_what_is_not_a_qwen3_decoder_of_the_family_is_refused(folder, change):
    edit_json(folder / "config.json", **change)
    with pytest.raises(UnsupportedModelError):
        Qwen3Config.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": "64"},
        {"num_hidden_layers": None},
        {"num_key_value_heads": 3},
        {"head_dim": 15},
        {"rms_norm_eps": "small"},
    ],
)
def test_a_number_that_cannot_be_is_refused(folder, change):
    edit_json(folder / "config.json", **change)
    with pytest.raises(ConfigError):
        Qwen3Config.load(folder)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00\xff"])
def test_a_missing_or_broken_file_is_refused_by_name(folder, content):
    path = folder / "config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.json"):
        Qwen3Config.load(folder)


def test_a_missing_number_is_named(folder):
    raw = json.loads((folder / "config.json").read_text())
    del raw["intermediate_size"]
    with pytest.raises(ConfigError, match="intermediate_size"):
        Qwen3Config.from_dict(raw)
