import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from quernel.errors import CheckpointError
from quernel.model.config import Qwen3Config
from quernel.model.layout import Layout
from quernel.model.weights import load_model, stored_dtype
from tests.support.checkpoints import edit_json, make_checkpoint, random_tensors

CPU = torch.device("cpu")


def load(folder, dtype=torch.float32):
    return load_model(folder, Qwen3Config.load(folder), dtype=dtype, device=CPU)


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "model", layers=1)


@pytest.mark.parametrize("kind", ["embedding", "reranker"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_official_form_loads_the_same_weights(tmp_path, kind, tied, shards, prefix):
    model = load(make_checkpoint(tmp_path / "model", kind=kind, tied=tied, shards=shards, prefix=prefix))
    expected = random_tensors(
        hidden_size=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96, vocab=model.config.vocab_size
    )
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
def test_any_stored_type_loads_into_any_type(tmp_path, stored, wanted):
    folder = make_checkpoint(tmp_path / "model", layers=1, dtype=stored)
    model = load(folder, wanted)
    assert stored_dtype(folder) is stored
    in_file = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        is_left = name == "embed_tokens.weight" and stored.itemsize <= wanted.itemsize
        assert parameter.dtype is (stored if is_left else wanted)
        assert torch.equal(parameter, in_file[name].to(parameter.dtype))


def test_a_loaded_model_is_for_inference(folder):
    model = load(folder)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model(torch.arange(5), Layout.from_lengths([5])).shape == (1, 64)


def test_shards_without_an_index_load(tmp_path):
    folder = make_checkpoint(tmp_path / "model", shards=3)
    before = load(folder).state_dict()
    (folder / "model.safetensors.index.json").unlink()
    after = load(folder).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_head_that_is_stored_though_it_is_tied_is_ignored(folder):
    def add_heads(tensors):
        tensors["lm_head.weight"] = tensors["embed_tokens.weight"].clone()
        tensors["score.weight"] = torch.zeros(1, 64)

    edit_tensors(folder, add_heads)
    assert "lm_head.weight" not in load(folder).state_dict()


def test_missing_unexpected_and_misshapen_tensors_are_named_with_file_and_shapes(folder):
    def break_it(tensors):
        del tensors["norm.weight"]
        tensors["layers.7.extra.weight"] = torch.zeros(2)
        tensors["layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
        tensors["layers.0.mlp.up_proj.weight"] = torch.zeros(3, 64)

    edit_tensors(folder, break_it)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "1 missing: norm.weight [64]" in message
    assert "2 unexpected" in message
    assert "layers.7.extra.weight [2] in model.safetensors" in message
    assert "layers.0.mlp.up_proj.weight [3, 64] in model.safetensors, not [96, 64]" in message


def test_a_long_list_of_faults_is_cut(folder):
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"22 missing: .* and 18 more"):
        load(folder)


def test_a_tensor_of_an_integer_type_is_refused(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"norm.weight": torch.ones(64, dtype=torch.int32)}))
    with pytest.raises(CheckpointError, match=r"cannot be loaded: norm\.weight I32 in model\.safetensors"):
        load(folder)


def test_a_tensor_of_eight_bits_is_refused(folder):
    eight = torch.float8_e4m3fn
    edit_tensors(folder, lambda tensors: tensors.update({n: t.to(eight) for n, t in tensors.items()}))
    assert stored_dtype(folder) is None
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        load(folder)


def test_a_tensor_stored_twice_is_refused(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight is in model\.safetensors and"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, 5_000, -1])
def test_a_truncated_file_is_refused_by_name_and_size(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors \({path.stat().st_size:,} bytes\).*download it again"
    ):
        load(folder)


@pytest.mark.parametrize("content", [b"<html>Not found</html>" * 99, b"\x00" * 64, b"\xff" * 4096])
def test_garbage_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)


def test_a_git_lfs_pointer_is_called_so(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load(folder)


def test_a_folder_without_weights_says_what_it_has_instead(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no weights in the safetensors format \(only pytorch_model\.bin\)"):
        load(folder)


def test_an_adapter_alone_is_not_a_model(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="adapters must be merged"):
        load(folder)


def test_an_index_that_names_a_missing_file_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "model", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors cannot be found"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}'])
def test_a_broken_index_is_refused(tmp_path, content):
    folder = make_checkpoint(tmp_path / "model", shards=2)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        load(folder)


def test_an_index_does_not_reach_outside_its_folder(tmp_path):
    folder = make_checkpoint(tmp_path / "model", shards=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=dict.fromkeys(weight_map, "../elsewhere.safetensors"))
    with pytest.raises(CheckpointError, match="outside its folder"):
        load(folder)


def test_a_shard_of_another_model_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "model", shards=2)
    other = make_checkpoint(tmp_path / "other", shards=2, hidden_size=32)
    file = "model-00002-of-00002.safetensors"
    (folder / file).write_bytes((other / file).read_bytes())
    with pytest.raises(CheckpointError, match=rf"misshapen: .* in {file}"):
        load(folder)
