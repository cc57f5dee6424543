import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.checkpoints import make_checkpoint

from quernel import Embedder
from quernel.errors import CheckpointError, SettingsError
from quernel.train.merge import Method, linear, merge_adapter, merge_checkpoints, slerp, slerp_all


def test_slerp_by_hand():
    a, b = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    root = math.sqrt(0.5)
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor([2 * root, root], dtype=torch.float64))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-12, rtol=0)


def test_slerp_of_unit_vectors_has_unit_length_and_goes_evenly():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(9, generator=generator), dim=0) for _ in range(2))
    angle = math.acos(float(a @ b))
    for share in (0.1, 0.4, 0.9):
        point = slerp(a, b, share)
        assert float(point.norm()) == pytest.approx(1, abs=1e-6)
        assert math.acos(float(a @ point)) == pytest.approx(share * angle, abs=1e-3)


def test_where_there_is_no_arc_it_is_the_line():
    a = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    torch.testing.assert_close(slerp(torch.zeros(2), torch.ones(2), 0.25), torch.full((2,), 0.25))


def test_several_and_weights():
    tensors = [torch.randn(5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    torch.testing.assert_close(slerp_all(tensors[:1], [2.0]), tensors[0])
    torch.testing.assert_close(slerp_all(tensors[:2], [1.0, 3.0]), slerp(tensors[0], tensors[1], 0.75))
    expected = slerp(slerp(tensors[0], tensors[1], 0.5), tensors[2], 1 / 3)
    torch.testing.assert_close(slerp_all(tensors, [1.0, 1.0, 1.0]), expected)
    torch.testing.assert_close(linear(tensors[:2], [1.0, 3.0]), 0.25 * tensors[0] + 0.75 * tensors[1])


@pytest.fixture
def models(tmp_path):
    return [make_checkpoint(tmp_path / f"model-{seed}", seed=seed, shards=seed) for seed in (1, 2)]


@pytest.mark.parametrize("method", list(Method))
def test_files_are_merged_whatever_their_shards(models, tmp_path, method):
    merge_checkpoints(models, tmp_path / "out", method=method, weights=(3.0, 1.0))
    with Embedder(tmp_path / "out") as merged, Embedder(models[0]) as first:
        assert merged.embed_documents(["a"]).shape == first.embed_documents(["a"]).shape
    name = "norm.weight"
    parts = [next(t[name] for f in sorted(m.glob("*.safetensors")) if name in (t := load_file(f))) for m in models]
    expected = slerp(*parts, 0.25) if method is Method.SLERP else linear(parts, (3.0, 1.0))
    torch.testing.assert_close(load_file(tmp_path / "out/model.safetensors")[name], expected)


def test_what_cannot_be_merged_is_refused(models, tmp_path):
    other = make_checkpoint(tmp_path / "larger", hidden_size=80)
    with pytest.raises(CheckpointError, match="Only models of one shape"):
        merge_checkpoints([models[0], other], tmp_path / "a")
    with pytest.raises(SettingsError, match="1 models"):
        merge_checkpoints(models[:1], tmp_path / "b")
    with pytest.raises(SettingsError, match=r"weights are 0.0, 1.0"):
        merge_checkpoints(models, tmp_path / "c", weights=(0.0, 1.0))
    with pytest.raises(SettingsError, match="exists"):
        merge_checkpoints(models, models[1])


def adapter(folder, tensors, **config):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def test_an_adapter_is_added_to_its_matrices(models, tmp_path):
    a, b = torch.randn(2, 64), torch.randn(64, 2)
    place = "base_model.model.layers.0.self_attn.q_proj"
    made = adapter(tmp_path / "adapter", {f"{place}.lora_A.weight": a, f"{place}.lora_B.weight": b})
    merge_adapter(models[0], made, tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (models[0], tmp_path / "out"))
    name = "layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(after[name], before[name] + 2 * (b @ a), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[key], after[key]) for key in before if key != name)


def test_adapters_that_are_more_or_of_another_model_are_refused(models, tmp_path):
    place = "base_model.model.layers.7.self_attn.q_proj"
    tensors = {f"{place}.lora_A.weight": torch.zeros(2, 64), f"{place}.lora_B.weight": torch.zeros(64, 2)}
    with pytest.raises(CheckpointError, match="does not have"):
        merge_adapter(models[0], adapter(tmp_path / "a", tensors), tmp_path / "x")
    with pytest.raises(CheckpointError, match="use_dora"):
        merge_adapter(models[0], adapter(tmp_path / "b", tensors, use_dora=True), tmp_path / "x")
    half = {name: tensor for name, tensor in tensors.items() if "lora_A" in name}
    with pytest.raises(CheckpointError, match="no half of a product"):
        merge_adapter(models[0], adapter(tmp_path / "c", half), tmp_path / "x")
    with pytest.raises(CheckpointError, match="holds no adapter"):
        merge_adapter(models[0], models[1], tmp_path / "x")
    shutil.rmtree(tmp_path / "a")
