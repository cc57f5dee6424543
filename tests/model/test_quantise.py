"""Checkpoints in 8 bits: what is written is read again, and computes nearly what the original does."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quernel import Embedder, Reranker
from quernel.errors import CheckpointError, SettingsError, UnsupportedModelError
from quernel.model.config import INT8_CONFIG, Qwen3Config
from quernel.model.linear import Int8Linear, int8_works
from quernel.model.quantise import write_quantised
from quernel.model.weights import load_model, stored_dtype
from quernel.types import EmbeddingRequest, RerankRequest
from tests.support.checkpoints import edit_json, make_checkpoint

pytestmark = pytest.mark.skipif(not int8_works(), reason="this CPU does not multiply in 8 bits")

CPU = torch.device("cpu")
TEXTS = ["a", "two words", "a longer text with some more words in it, " * 8]


def embed(folder, **options):
    with Embedder(folder, **options) as embedder:
        return embedder.embed_sync(EmbeddingRequest(inputs=TEXTS)).vectors, embedder.info.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_in_8_bits_point_where_those_of_the_original_point(tmp_path, dtype):
    original = make_checkpoint(tmp_path / "model", dtype=dtype, hidden_size=256, heads=4, head_dim=64, mlp=512)
    write_quantised(original, tmp_path / "int8")
    expected, _ = embed(original, dtype="float32")
    vectors, computed_in = embed(tmp_path / "int8")
    assert computed_in == "int8"
    assert (vectors * expected).sum(axis=1).min() > 0.999
    on_the_fly, _ = embed(original, dtype="int8")
    assert (on_the_fly * expected).sum(axis=1).min() > (vectors * expected).sum(axis=1).min()
    assert (on_the_fly * expected).sum(axis=1).min() > 0.9995


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_in_8_bits_can_be_computed_in_other_types(tmp_path, dtype):
    original = make_checkpoint(tmp_path / "model", hidden_size=256, heads=4, head_dim=64, mlp=512)
    write_quantised(original, tmp_path / "int8")
    expected, _ = embed(original, dtype="float32")
    vectors, computed_in = embed(tmp_path / "int8", dtype=dtype)
    assert computed_in == dtype
    assert (vectors * expected).sum(axis=1).min() > 0.999


def test_a_reranker_keeps_its_head_and_its_template(tmp_path):
    original = make_checkpoint(tmp_path / "model", kind="reranker", tied=False, shards=2, hidden_size=256, head_dim=64)
    write_quantised(original, tmp_path / "int8")
    request = RerankRequest(query="which", documents=TEXTS)

    def logits(folder):
        with Reranker(folder, dtype="auto" if folder.name == "int8" else "float32") as reranker:
            by_place = sorted(reranker.rerank_sync(request).results, key=lambda result: result.index)
            return np.array([result.logit for result in by_place])

    np.testing.assert_allclose(logits(tmp_path / "int8"), logits(original), atol=0.1)


def test_only_the_matrices_of_the_layers_are_changed(tmp_path):
    original = make_checkpoint(tmp_path / "model", layers=1, dtype=torch.bfloat16)
    write_quantised(original, tmp_path / "int8")
    before, after = load_file(original / "model.safetensors"), load_file(tmp_path / "int8" / "model.safetensors")
    for name, tensor in before.items():
        if name.endswith("_proj.weight"):
            assert after[name].dtype is torch.int8
            assert after[name + "_scale"].shape == (len(tensor), 1)
        else:
            assert torch.equal(after[name], tensor)
    assert len(after) == len(before) + 7
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    assert config.pop("quantization_config") == INT8_CONFIG
    assert config == json.loads((original / "config.json").read_text())
    for file in original.rglob("*.json"):
        if file.name != "config.json" or file.parent != original:
            assert (tmp_path / "int8" / file.relative_to(original)).read_bytes() == file.read_bytes()


def test_a_matrix_that_would_lose_much_stays_as_it_is_and_is_computed_in_twice_8_bits(tmp_path):
    original = make_checkpoint(tmp_path / "model", layers=1, hidden_size=256, heads=4, head_dim=64, kv_heads=4)
    path = original / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = "layers.0.self_attn.v_proj"
    tensors[f"{name}.weight"] = torch.eye(256) + 0.02 * tensors[f"{name}.weight"]
    save_file(tensors, path)
    write_quantised(original, tmp_path / "int8")
    after = load_file(tmp_path / "int8" / "model.safetensors")
    assert torch.equal(after[f"{name}.weight"], tensors[f"{name}.weight"])
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    assert name in config["quantization_config"]["ignore"]
    expected, _ = embed(original, dtype="float32")
    vectors, computed_in = embed(tmp_path / "int8")
    assert computed_in == "int8"
    assert (vectors * expected).sum(axis=1).min() > 0.9995


def test_large_checkpoints_are_written_in_several_files(tmp_path, monkeypatch):
    original = make_checkpoint(tmp_path / "model", layers=3)
    monkeypatch.setattr("quernel.model.rewrite.SHARD_BYTES", 100_000)
    seen = []
    write_quantised(original, tmp_path / "int8", report=lambda done, total: seen.append((done, total)))
    files = sorted(file.name for file in (tmp_path / "int8").glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert stored_dtype(tmp_path / "int8") is torch.int8
    model = load_model(tmp_path / "int8", Qwen3Config.load(tmp_path / "int8"), dtype=torch.int8, device=CPU)
    assert isinstance(model.layers[2].mlp.down_proj, Int8Linear)


def test_nothing_is_overwritten_and_nothing_quantised_twice(tmp_path):
    original = make_checkpoint(tmp_path / "model", layers=1)
    write_quantised(original, tmp_path / "int8")
    with pytest.raises(SettingsError, match="exists"):
        write_quantised(original, tmp_path / "int8")
    with pytest.raises(SettingsError, match="already"):
        write_quantised(tmp_path / "int8", tmp_path / "again")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(SettingsError, match="GGUF"):
        write_quantised(tmp_path / "model.gguf", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_model_that_does_not_bear_8_bits_is_neither_written_nor_loaded_in_them(tmp_path):
    model = make_checkpoint(tmp_path / "model", layers=1)
    edit_json(model / "config.json", quantizable=False)
    with pytest.raises(SettingsError, match="not for this model"):
        write_quantised(model, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()
    with pytest.raises(SettingsError, match="not for this model"):
        Embedder(model, dtype="int8")


def test_scales_that_are_missing_or_of_another_length_are_refused(tmp_path):
    original = make_checkpoint(tmp_path / "model", layers=1)
    write_quantised(original, tmp_path / "int8")
    path = tmp_path / "int8" / "model.safetensors"
    tensors = load_file(path)
    name = "layers.0.mlp.up_proj.weight_scale"
    config = Qwen3Config.load(tmp_path / "int8")
    for broken in ({name: tensors[name][:-1].clone()}, {}):
        save_file({key: tensor.clone() for key, tensor in tensors.items() if key != name} | broken, path)
        with pytest.raises(CheckpointError, match=name):
            load_model(tmp_path / "int8", config, dtype=torch.int8, device=CPU)


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
        INT8_CONFIG | {"config_groups": {"group_0": {"weights": {"num_bits": 8}, "input_activations": None}}},
    ],
)
def test_other_quantisations_are_refused_by_name(tmp_path, said):
    folder = make_checkpoint(tmp_path / "model", layers=1)
    edit_json(folder / "config.json", quantization_config=said)
    with pytest.raises(UnsupportedModelError, match=said["quant_method"]):
        Embedder(folder)
