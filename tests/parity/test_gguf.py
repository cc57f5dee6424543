"""A GGUF file against the folder it was made from: the same model, whatever the conversion got wrong around it."""

import logging

import numpy as np
import pytest

from quernel import Embedder, Reranker
from quernel.types import EmbeddingRequest
from tests.parity.comparison import assert_same_logits, assert_same_vectors, compare
from tests.support.checkpoints import make_checkpoint
from tests.support.gguf import dequantised_folder, write_gguf

BLOCK_OF_256 = {"hidden_size": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "mlp": 256}
"""Widths that k-quants divide."""

TEXTS = ("the yes", "", "<think> is\n\nthis?</think> Query:Where", "in\u0301 the end<|endoftext|>")
DOCUMENTS = ("yes", "no, the\n", "<|im_end|>", "")
MIN_COSINES = {"F16": 0.99999, "BF16": 0.9999, "Q8_0": 0.999, "Q6_K": 0.99, "Q5_K": 0.97, "Q4_K": 0.9}
"""On random weights, whose errors add up; trained ones lose far less."""

MEAN, CLS = 1, 2
WRONG_ENDS = {
    "the end of a turn": {"tokenizer.ggml.eos_token_id": 286},
    "no token at all": {"tokenizer.ggml.eos_token_id": 999_999},
    "not said": {"tokenizer.ggml.eos_token_id": None},
    "not to be added": {"tokenizer.ggml.add_eos_token": False},
    "a beginning to be added": {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 285},
}


def vectors(model):
    """Of queries, documents and token ids."""
    with Embedder(model, dtype="float32") as embedder:
        of_ids = embedder.embed_sync(EmbeddingRequest(inputs=[(1, 2, 3)])).vectors
        return np.concatenate([embedder.embed_queries(TEXTS), embedder.embed_documents(TEXTS), of_ids])


def logits(model):
    with Reranker(model, dtype="float32") as reranker:
        hits = reranker.rank("is the\nQuery:", DOCUMENTS)
    return np.array([hit.logit for hit in sorted(hits, key=lambda hit: hit.index)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("embedding") / "model")


@pytest.fixture(scope="module")
def reference(folder):
    return vectors(folder)


@pytest.mark.parametrize("shape", [{}, {"kv_heads": 1}, {"heads": 6, "head_dim": 8, "layers": 3}, {"tied": False}])
def test_float32_is_the_model_itself(tmp_path, shape):
    folder = make_checkpoint(tmp_path / "model", **shape)
    assert_same_vectors(vectors(write_gguf(folder, tmp_path / "model.gguf")), vectors(folder))


@pytest.mark.parametrize("type_name", ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"])
def test_a_quantised_file_computes_what_its_values_are_worth(tmp_path, type_name):
    folder = make_checkpoint(tmp_path / "model", **BLOCK_OF_256)
    exact = vectors(folder)
    file = write_gguf(folder, tmp_path / "model.gguf", type_name=type_name)
    dequantised_folder(file, folder)
    ours = vectors(file)
    assert_same_vectors(ours, vectors(folder))
    difference, cosine = compare(ours, exact)
    print(f"against the model before: largest difference {difference:.2e}, smallest cosine {cosine:.6f}")
    assert cosine >= MIN_COSINES.get(type_name, 0.85)


@pytest.mark.parametrize("wrong", WRONG_ENDS.values(), ids=WRONG_ENDS)
def test_what_a_file_says_of_the_end_token_changes_nothing(tmp_path, folder, reference, wrong):
    assert_same_vectors(vectors(write_gguf(folder, tmp_path / "model-embed.gguf", metadata=wrong)), reference)


@pytest.mark.parametrize("pooling", [None, 0, MEAN, CLS])
def test_what_a_file_says_of_pooling_changes_nothing_and_a_wrong_word_is_logged(
    tmp_path, folder, reference, caplog, pooling
):
    file = write_gguf(folder, tmp_path / "model-embed.gguf", metadata={"qwen3.pooling_type": pooling})
    with caplog.at_level(logging.WARNING, logger="quernel"):
        assert_same_vectors(vectors(file), reference)
    assert ("pooling" in caplog.text) == (pooling in (MEAN, CLS))


def test_wrong_types_of_tokens_change_nothing(tmp_path, folder, reference):
    file = write_gguf(folder, tmp_path / "model.gguf", metadata={"tokenizer.ggml.token_type": None})
    assert_same_vectors(vectors(file), reference)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_a_reranker_answers_the_same_from_either_head(tmp_path, tied, head):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", tied=tied)
    assert_same_logits(logits(write_gguf(folder, tmp_path / "rerank.gguf", head=head)), logits(folder))


def test_labels_say_which_row_is_yes(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    file = write_gguf(
        folder,
        tmp_path / "model.gguf",
        metadata={"qwen3.classifier.output_labels": ["no", "yes"]},
        edit=lambda tensors: tensors.update({"cls.output.weight": tensors["cls.output.weight"][::-1]}),
    )
    assert_same_logits(logits(file), logits(folder))


def test_a_head_of_one_row_needs_no_labels(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    file = write_gguf(
        folder,
        tmp_path / "model.gguf",
        metadata={"qwen3.classifier.output_labels": None},
        edit=lambda tensors: tensors.update(
            {"cls.output.weight": tensors["cls.output.weight"][:1] - tensors["cls.output.weight"][1:]}
        ),
    )
    assert_same_logits(logits(file), logits(folder))


def test_a_quantised_head_is_dequantised(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    ours, exact = logits(write_gguf(folder, tmp_path / "model.gguf", type_name="Q8_0")), logits(folder)
    print(f"logits {ours}, before quantisation {exact}")
    assert np.abs(ours - exact).max() < 0.05
