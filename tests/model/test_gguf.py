import builtins
import logging
import random
import struct

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader

from quernel import Embedder, Reranker
from quernel.cli.composition import LoadSettings, ModelChoice, find_kind
from quernel.errors import (
    CheckpointError,
    ConfigError,
    ModelLoadError,
    SettingsError,
    TokenizerError,
    UnsupportedModelError,
)
from quernel.model import gguf, gguf_format
from quernel.model.config import Qwen3Config, load_json
from quernel.model.dtypes import resolve_dtype
from quernel.model.gguf import GGUFModel, load_raw_config, read_metadata
from quernel.model.gguf_format import QUANTISED
from quernel.model.heads import load_score_row
from quernel.model.side_files import load_side_files
from quernel.model.weights import STORED_DTYPES, load_model, stored_dtype
from quernel.types import ModelKind
from tests.support.checkpoints import make_checkpoint
from tests.support.gguf import (
    LAST,
    RANK,
    RERANK_TEMPLATE,
    dequantise,
    quantise,
    write_file,
    write_gguf,
)

CPU = torch.device("cpu")
HEAD = "qwen3.classifier.output_labels"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("embedding") / "model")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("reranker") / "model", kind="reranker")


@pytest.fixture(scope="module")
def intact(folder, tmp_path_factory):
    return write_gguf(folder, tmp_path_factory.mktemp("intact") / "model.gguf")


def load(file):
    return load_model(file, Qwen3Config.from_dict(load_raw_config(file)), dtype=torch.float32, device=CPU)


def side_files(file):
    raw = load_raw_config(file)
    return load_side_files(file, Qwen3Config.from_dict(raw), raw)


def without(*names):
    return lambda tensors: [tensors.pop(name) for name in names]


# What a file says


def test_the_metadata_are_the_configuration(folder, intact):
    ours = Qwen3Config.from_dict(load_raw_config(intact))
    original = Qwen3Config.from_dict(load_json(folder / "config.json"))
    for name in Qwen3Config.__slots__:
        if name not in ("tie_word_embeddings", "dtype"):
            assert getattr(ours, name) == pytest.approx(getattr(original, name), rel=1e-7), name


def test_metadata_are_read_as_the_gguf_package_reads_them(tmp_path, folder):
    file = write_gguf(folder, tmp_path / "model.gguf", metadata={"quernel.floats": [1.5, 2.0], "quernel.flags": [True]})
    theirs = {key: field.contents() for key, field in GGUFReader(file).fields.items() if not key.startswith("GGUF.")}
    assert dict(read_metadata(file)) == theirs


def test_unused_rows_of_the_table_have_no_token(tmp_path):
    folder = make_checkpoint(tmp_path / "model", vocab=300)
    with Embedder(write_gguf(folder, tmp_path / "model.gguf")) as embedder:
        ids = embedder._prompts._tokenizer.encode("[PAD289]")
    assert max(ids) < 289


@pytest.mark.parametrize(
    ("name", "said", "kind"),
    [
        ("model.gguf", {"qwen3.pooling_type": LAST}, ModelKind.EMBEDDING),
        ("model.gguf", {"qwen3.pooling_type": RANK}, ModelKind.RERANKER),
        ("model.gguf", {"qwen3.pooling_type": LAST, HEAD: ["yes", "no"]}, ModelKind.RERANKER),
        ("model.gguf", {"tokenizer.chat_template.rerank": RERANK_TEMPLATE}, ModelKind.RERANKER),
        ("Qwen3-Embedding-0.6B-Q8_0.gguf", {}, ModelKind.EMBEDDING),
        ("Qwen3-Reranker-0.6B-Q8_0.gguf", {"qwen3.pooling_type": LAST}, ModelKind.RERANKER),
        ("model.gguf", {"general.name": "Qwen3 Reranker 0.6B"}, ModelKind.RERANKER),
        ("model.gguf", {"general.basename": "qwen3-embedding"}, ModelKind.EMBEDDING),
        ("model.gguf", {}, None),
    ],
)
def test_head_metadata_and_names_tell_the_kind(tmp_path, reranker, name, said, kind):
    assert side_files(write_gguf(reranker, tmp_path / name, metadata=said, head=HEAD in said)).kind is kind


def test_the_command_line_finds_the_kind(intact):
    assert find_kind(ModelChoice.parse(str(intact), LoadSettings())) == "embedding"


def test_a_model_of_the_other_kind_is_refused(intact):
    with pytest.raises(UnsupportedModelError, match="of kind embedding, not reranker"):
        Reranker(intact)


def test_the_instruction_in_the_template_is_the_default(tmp_path, reranker):
    template = RERANK_TEMPLATE.replace(
        "Given a web search query, retrieve relevant passages that answer the query", "Cite."
    )
    file = write_gguf(reranker, tmp_path / "model.gguf", metadata={"tokenizer.chat_template.rerank": template})
    assert side_files(file).instruction == "Cite."


def test_another_template_is_not_used_and_that_is_logged(tmp_path, reranker, caplog):
    file = write_gguf(
        reranker, tmp_path / "model.gguf", metadata={"tokenizer.chat_template.rerank": "{query}{document}"}
    )
    with caplog.at_level(logging.WARNING, logger="quernel"):
        assert side_files(file).instruction is None
    assert "template" in caplog.text


# Tensors


@pytest.mark.parametrize("type_name", ["Q4_K", "Q5_K", "Q6_K"])
def test_our_k_quants_are_those_of_the_gguf_package(type_name):
    kind = GGMLQuantizationType[type_name]
    values = np.random.default_rng(0).standard_normal((8, 512), dtype=np.float32)
    error = np.abs(dequantise(quantise(values, kind), kind) - values).max()
    print(f"largest error {error:.3f} of values up to {np.abs(values).max():.2f}")
    assert error < {"Q4_K": 0.3, "Q5_K": 0.15, "Q6_K": 0.08}[type_name]


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", *QUANTISED])
def test_tensors_are_read_as_the_gguf_package_reads_them_in_slices_too(tmp_path, monkeypatch, type_name):
    values = np.random.default_rng(0).standard_normal((37, 256), dtype=np.float32)
    file = tmp_path / "file.gguf"
    write_file(file, {"general.architecture": "qwen3"}, {"output.weight": values}, type_name=type_name)
    (theirs,) = GGUFReader(file).tensors
    expected = torch.from_numpy(dequantise(theirs.data, theirs.tensor_type))
    for slice_bytes in (1, 1000, gguf_format.SLICE_BYTES):
        monkeypatch.setattr(gguf_format, "SLICE_BYTES", slice_bytes)
        opened = GGUFModel.open(file)
        assert torch.equal(opened.get_tensor("lm_head.weight").float(), expected)
        assert torch.equal(opened.get_slice("lm_head.weight")[5:7].float(), expected[5:7])


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_what_is_not_quantised_stays_in_the_file_s_pages(tmp_path, folder, type_name):
    opened = GGUFModel.open(write_gguf(folder, tmp_path / "model.gguf", type_name=type_name))
    stored = opened.tensors["embed_tokens.weight"]
    tensor = opened.get_tensor("embed_tokens.weight")
    assert tensor.dtype is STORED_DTYPES[type_name]
    assert tensor.data_ptr() == stored.data.ctypes.data + stored.offset


def test_quantised_files_count_as_half_precision(tmp_path, folder):
    file = write_gguf(folder, tmp_path / "model.gguf", type_name="Q8_0")
    assert stored_dtype(file) is torch.bfloat16
    assert resolve_dtype("auto", CPU, stored_dtype(file)) in (torch.bfloat16, torch.float32)


def test_a_type_that_cannot_be_loaded_is_refused_by_name(tmp_path, folder):
    file = write_gguf(folder, tmp_path / "model.gguf", type_name="Q8_0")
    data = bytearray(file.read_bytes())
    for name, number in ((b"blk.0.ffn_up.weight", 20), (b"blk.0.ffn_down.weight", 999)):
        place = data.index(name) + len(name) + 4 + 2 * 8  # after the number of dimensions and the dimensions
        data[place : place + 4] = struct.pack("<I", number)
    file.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded: .*up_proj\.weight IQ4_NL in .*down_proj\.weight type 999 in"
    ):
        load(file)


# What is refused


def test_without_the_gguf_package_it_says_what_to_install(intact, monkeypatch):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "gguf":
            raise ModuleNotFoundError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r'pip install "quernel\[gguf\]"'):
        Embedder(intact)


@pytest.mark.parametrize("keep", [0, 3, 8, 24, 1000, 5_000, 20_000, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, intact, keep):
    file = tmp_path / "model.gguf"
    file.write_bytes(intact.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.gguf is not a readable GGUF file.*download it again"):
        Embedder(file)


@pytest.mark.parametrize(
    "content", [b"<html>Not found</html>" * 99, b"\x00" * 64, b"\xff" * 4096, b"GGUF\x01\x00\x00\x00" * 9, b"GGUF" * 99]
)
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.gguf"):
        Embedder(tmp_path / "model.gguf")


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    (tmp_path / "model.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        Embedder(tmp_path / "model.gguf")


def test_a_damaged_header_is_refused_or_harmless(tmp_path, intact):
    """Nothing but our errors, and no hang, whatever byte is wrong."""
    content, file = intact.read_bytes(), tmp_path / "model.gguf"
    generator = random.Random(0)
    end = content.index(b"blk.1.ffn_up.weight")
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.randrange(end)] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            dict(read_metadata(file))
            load(file)
        except ModelLoadError:
            pass


def test_one_part_of_several_is_refused_with_the_way_to_join_them(tmp_path, folder):
    file = write_gguf(folder, tmp_path / "model-00001-of-00003.gguf", metadata={"split.count": 3})
    with pytest.raises(UnsupportedModelError, match=r"one of 3 parts.*llama-gguf-split --merge"):
        Embedder(file)


@pytest.mark.parametrize(
    ("metadata", "error", "match"),
    [
        ({"general.architecture": "bert"}, UnsupportedModelError, "architecture 'bert'"),
        ({"general.architecture": None}, UnsupportedModelError, "architecture None"),
        ({"qwen3.rope.freq_base": None}, ConfigError, r"lack qwen3\.rope\.freq_base"),
        ({"qwen3.attention.key_length": None, "qwen3.block_count": None}, ConfigError, r"block_count, qwen3\.att"),
        ({"qwen3.embedding_length": "wide"}, ConfigError, "hidden_size is 'wide'"),
        ({"qwen3.rope.scaling.type": "yarn"}, UnsupportedModelError, "rope scaling 'yarn'"),
        ({"qwen3.rope.dimension_count": 8}, UnsupportedModelError, "a part of each head"),
        ({"qwen3.attention.value_length": 8}, UnsupportedModelError, "another width"),
        ({"qwen3.attention.sliding_window": 64}, UnsupportedModelError, "sliding window"),
        ({"qwen3.attention.causal": False}, UnsupportedModelError, "both directions"),
        ({"qwen3.block_count": 3}, CheckpointError, "11 missing: layers.2"),
        ({"qwen3.feed_forward_length": 64}, CheckpointError, r"\[96, 64\] in model\.gguf, not \[64, 64\]"),
        ({"tokenizer.ggml.merges": None}, TokenizerError, r"lack tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.model": "llama"}, TokenizerError, "'llama'"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, TokenizerError, "'llama-bpe'"),
    ],
)
def test_metadata_of_something_else_are_refused(tmp_path, folder, metadata, error, match):
    with pytest.raises(error, match=match):
        Embedder(write_gguf(folder, tmp_path / "model.gguf", metadata=metadata))


def test_missing_and_unexpected_tensors_are_named(tmp_path, folder):
    def break_it(tensors):
        del tensors["output_norm.weight"]
        tensors["blk.0.attn_q.bias"] = np.zeros(64, np.float32)

    with pytest.raises(CheckpointError) as caught:
        Embedder(write_gguf(folder, tmp_path / "model.gguf", edit=break_it))
    assert "do not fit the metadata" in str(caught.value)
    assert "1 missing: norm.weight [64]" in str(caught.value)
    assert "1 unexpected: layers.0.self_attn.q_proj.bias [64]" in str(caught.value)


def test_a_file_without_an_embedding_table_is_refused(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"no token_embd\.weight"):
        Embedder(write_gguf(folder, tmp_path / "model.gguf", edit=without("token_embd.weight")))


def test_a_file_that_has_no_head_and_does_not_claim_one_cannot_rerank(tmp_path, reranker):
    with pytest.raises(CheckpointError, match=r"no cls\.output\.weight and no output\.weight.*cannot rerank"):
        Reranker(write_gguf(reranker, tmp_path / "model.gguf", head=False))


def test_a_file_of_the_size_that_has_its_own_head_cannot_rerank_without_it(tmp_path, reranker, monkeypatch):
    file = write_gguf(reranker, tmp_path / "reranker.gguf", head=False)
    Reranker(file).close()
    monkeypatch.setattr(gguf, "UNTIED_SIZE", 64)
    with pytest.raises(CheckpointError, match="cannot rerank"):
        Reranker(file)


@pytest.mark.parametrize("labels", [None, ["relevant", "irrelevant"]])
def test_two_rows_without_their_labels_are_refused(tmp_path, reranker, labels):
    file = write_gguf(reranker, tmp_path / "model.gguf", metadata={"qwen3.classifier.output_labels": labels})
    with pytest.raises(CheckpointError, match=r"qwen3\.classifier\.output_labels in the metadata"):
        Reranker(file)


def test_a_head_of_three_rows_is_refused(tmp_path, reranker):
    file = write_gguf(
        reranker,
        tmp_path / "model.gguf",
        edit=lambda tensors: tensors.update({"cls.output.weight": tensors["token_embd.weight"][:3]}),
    )
    config = Qwen3Config.from_dict(load_raw_config(file))
    with pytest.raises(CheckpointError, match=r"score\.weight is F32 \[3, 64\] in model\.gguf"):
        load_score_row(file, config, 1, 2)
