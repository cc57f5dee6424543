import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from quernel.errors import CheckpointError
from quernel.model.config import Qwen3Config
from quernel.model.heads import load_score_row, relevance, sigmoid, truncate_and_normalise
from tests.support.checkpoints import edit_json, make_checkpoint

YES, NO = 257, 258


def score_row(folder, yes_id=YES, no_id=NO):
    return load_score_row(folder, Qwen3Config.load(folder), yes_id, no_id)


def make_classifier(folder, score, **config):
    """A reranker converted to a classifier: `score.weight` in place of a language-model head."""
    make_checkpoint(folder, kind="reranker", layers=1)
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"score.weight": score}, path)
    edit_json(folder / "config.json", architectures=["Qwen3ForSequenceClassification"], **config)
    return folder


def test_a_tied_head_is_the_embedding_table(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(score_row(folder), table[YES] - table[NO])


@pytest.mark.parametrize("shards", [1, 3])
def test_a_stored_head_is_used(tmp_path, shards):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", tied=False, shards=shards)
    head = load_file(sorted(folder.glob("*.safetensors"))[-1])["lm_head.weight"]
    assert torch.equal(score_row(folder), head[YES] - head[NO])


def test_the_difference_of_half_precision_rows_is_taken_in_float32(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", dtype=torch.bfloat16)
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    row = score_row(folder)
    assert row.dtype is torch.float32
    assert torch.equal(row, table[YES].float() - table[NO].float())
    assert not torch.equal(row, (table[YES] - table[NO]).float())


def test_an_untied_model_without_a_head_cannot_rerank(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="embedding", tied=False)
    with pytest.raises(CheckpointError, match=r"no lm_head\.weight"):
        score_row(folder)


def test_a_misshapen_head_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", tied=False)
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": torch.zeros(5, 64)}, path)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is F32 \[5, 64\] in model\.safetensors"):
        score_row(folder)


@pytest.mark.parametrize(("yes_id", "no_id"), [(9693, 2152), (-1, 3), (5, 5)])
def test_answers_that_are_not_two_rows_of_the_head_are_refused(tmp_path, yes_id, no_id):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    with pytest.raises(CheckpointError, match="token ids"):
        score_row(folder, yes_id, no_id)


def test_a_classifier_with_one_row_is_used_as_it_is(tmp_path):
    score = torch.randn(1, 64)
    assert torch.equal(score_row(make_classifier(tmp_path / "model", score)), score[0])


@pytest.mark.parametrize(("labels", "sign"), [(("no", "yes"), 1), (("Yes", "No"), -1)])
def test_the_labels_of_a_classifier_say_which_row_is_yes(tmp_path, labels, sign):
    score = torch.randn(2, 64)
    folder = make_classifier(tmp_path / "model", score, id2label=dict(zip("01", labels, strict=True)))
    assert torch.equal(score_row(folder), sign * (score[1] - score[0]))


@pytest.mark.parametrize("labels", [None, {"0": "LABEL_0", "1": "LABEL_1"}, {"0": "yes", "1": "yes"}])
def test_a_classifier_whose_order_is_unknown_is_refused(tmp_path, labels):
    folder = make_classifier(tmp_path / "model", torch.randn(2, 64), id2label=labels)
    with pytest.raises(CheckpointError, match="id2label"):
        score_row(folder)


def test_a_classifier_of_many_classes_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"score\.weight is F32 \[3, 64\]"):
        score_row(make_classifier(tmp_path / "model", torch.randn(3, 64)))


def test_a_classifier_without_its_head_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    edit_json(folder / "config.json", architectures=["Qwen3ForSequenceClassification"])
    with pytest.raises(CheckpointError, match=r"no score\.weight"):
        score_row(folder)


finite = st.floats(-(2.0**60), 2.0**60, width=32)
rows = arrays.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 8)), elements=finite)


@given(hidden=rows, normalize=st.booleans(), data=st.data())
def test_vectors_are_cut_first_and_scaled_after(hidden, normalize, data):
    dimensions = data.draw(st.integers(1, hidden.shape[1]))
    vectors = truncate_and_normalise(hidden, dimensions, normalize)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert vectors.shape == (len(hidden), dimensions)
    if not normalize:
        np.testing.assert_array_equal(vectors, hidden[:, :dimensions])
        return
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    long_enough = np.linalg.norm(hidden[:, :dimensions].astype(np.float64), axis=1) >= 1e-12
    np.testing.assert_allclose(lengths[long_enough], 1, atol=1e-6)


def test_a_vector_of_zeros_stays_zero():
    np.testing.assert_array_equal(truncate_and_normalise(np.zeros((2, 4), np.float32), 3, True), np.zeros((2, 3)))


def test_the_input_of_normalising_is_left_alone():
    hidden = np.full((1, 4), 2, np.float32)
    truncate_and_normalise(hidden, 4, True)
    assert (hidden == 2).all()


def test_relevance_is_the_difference_of_two_logits():
    generator = np.random.default_rng(0)
    hidden = generator.standard_normal((5, 64), np.float32)
    yes, no = generator.standard_normal((2, 64), np.float32)
    logits = relevance(hidden, yes - no)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, hidden @ yes - hidden @ no, atol=1e-5)


def test_sigmoid_is_finite_ordered_and_symmetric():
    logits = np.array([-1e4, -90, -3, 0, 3, 90, 1e4], np.float32)
    scores = sigmoid(logits)
    np.testing.assert_allclose(scores + scores[::-1], 1, atol=1e-7)
    np.testing.assert_allclose(scores[2:5], [0.04742587, 0.5, 0.95257413], rtol=1e-6)
    assert (np.diff(scores) >= 0).all()
    assert scores[0] == 0
    assert scores[-1] == 1
