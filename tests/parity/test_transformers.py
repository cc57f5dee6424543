"""Our decoder against transformers' Qwen3 on the same random checkpoints, token ids in, hidden states out."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from quernel.model.config import Qwen3Config
from quernel.model.heads import load_score_row, relevance
from quernel.model.layout import Layout
from quernel.model.weights import load_model
from tests.model.forests import build_layout, path_rows
from tests.parity.comparison import (
    assert_as_near,
    assert_same_direction,
    assert_same_logits,
    assert_same_vectors,
)
from tests.support.checkpoints import edit_json, make_checkpoint

logging.disable_progress_bar()

YES, NO = 257, 258
LENGTHS = (1, 2, 17, 90)

SHAPES = {
    "ratio 2": {"hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 96},
    "ratio 3": {"hidden_size": 48, "layers": 3, "heads": 6, "kv_heads": 2, "head_dim": 8, "mlp": 64},
    "one key head": {"hidden_size": 56, "layers": 2, "heads": 7, "kv_heads": 1, "head_dim": 16, "mlp": 40},
    "no sharing, one layer": {"hidden_size": 40, "layers": 1, "heads": 5, "kv_heads": 5, "head_dim": 8, "mlp": 48},
    "official head": {"hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 1, "head_dim": 128, "mlp": 64},
    "thirty layers": {"hidden_size": 32, "layers": 30, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 48},
}

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def random_texts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 289, (length,), generator=generator) for length in LENGTHS]


def our_states(folder, dtype=torch.float32):
    """Hidden states of the last tokens, all texts in one packed batch: `[N, C]`."""
    texts = random_texts()
    model = load_model(folder, Qwen3Config.load(folder), dtype=dtype, device=torch.device("cpu"))
    with torch.inference_mode():
        return model(torch.cat(texts), Layout.from_lengths([len(text) for text in texts])).float().numpy()


def their_states(folder, dtype=torch.float32):
    """Hidden states of the last tokens, one text at a time: `[N, C]`."""
    model = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return torch.cat([model(text[None]).last_hidden_state[:, -1] for text in random_texts()]).float().numpy()


def their_logits(folder):
    """Logits of all tokens after the last token, `[N, V]`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return torch.cat([model(text[None]).logits[:, -1] for text in random_texts()])


@shapes
def test_float32_vectors_are_those_of_transformers(tmp_path, shape):
    folder = make_checkpoint(tmp_path / "model", **shape)
    assert_same_vectors(our_states(folder), their_states(folder))


@shapes
def test_bfloat16_vectors_point_where_those_of_transformers_point(tmp_path, shape):
    folder = make_checkpoint(tmp_path / "model", dtype=torch.bfloat16, **shape)
    ours, theirs = our_states(folder, torch.bfloat16), their_states(folder, torch.bfloat16)
    if shape is not SHAPES["thirty layers"]:  # there the reference's own vectors turn by more than the bound
        assert_same_direction(ours, theirs)
    assert_as_near(ours, theirs, their_states(folder, torch.float32))


@shapes
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_reranker_logits_are_those_of_transformers(tmp_path, shape, tied):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", tied=tied, **shape)
    logits = their_logits(folder)
    row = load_score_row(folder, Qwen3Config.load(folder), YES, NO).numpy()
    assert_same_logits(relevance(our_states(folder), row), (logits[:, YES] - logits[:, NO]).numpy())


@shapes
def test_texts_that_share_their_beginning_get_the_vectors_of_transformers(tmp_path, shape):
    ours, theirs = shared_and_whole_states(make_checkpoint(tmp_path / "model", **shape), torch.float32)
    assert_same_vectors(ours, theirs)


# Not with thirty layers of width 32: there bfloat16 turns the reference's own vectors by more than the bound.
@pytest.mark.parametrize("shape", list(SHAPES.values())[:-1], ids=list(SHAPES)[:-1])
def test_texts_that_share_their_beginning_point_where_transformers_points_in_bfloat16(tmp_path, shape):
    folder = make_checkpoint(tmp_path / "model", dtype=torch.bfloat16, **shape)
    assert_same_direction(*shared_and_whole_states(folder, torch.bfloat16))


def shared_and_whole_states(folder, dtype):
    """Hidden states of texts that share their beginnings: ours from one forest, theirs from whole texts."""
    lengths, parents = [19, 5, 1, 30, 8, 8], [None, 0, 0, 1, 1, None]
    layout = build_layout(lengths, parents, reads=[2, 3, 4, 5])
    token_ids = torch.randint(0, 289, (layout.num_tokens,), generator=torch.Generator().manual_seed(1))
    ours = load_model(folder, Qwen3Config.load(folder), dtype=dtype, device=torch.device("cpu"))
    theirs = AutoModel.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        shared = ours(token_ids, layout)
        whole = [theirs(token_ids[path_rows(layout, index)][None]).last_hidden_state[:, -1] for index in layout.reads]
    return shared.float().numpy(), torch.cat(whole).float().numpy()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_files_computed_in_float32_give_the_vectors_of_transformers(tmp_path, stored):
    folder = make_checkpoint(tmp_path / "model", dtype=stored)
    assert_same_vectors(our_states(folder), their_states(folder))


@pytest.mark.parametrize("config_form", [4, 5])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_shards_and_both_forms_of_configuration_give_the_vectors_of_transformers(tmp_path, config_form, tied):
    folder = make_checkpoint(tmp_path / "model", shards=3, tied=tied, config_form=config_form)
    assert_same_vectors(our_states(folder), their_states(folder))


def test_another_base_of_the_rotation_gives_the_vectors_of_transformers(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    usual = our_states(folder)
    edit_json(folder / "config.json", rope_theta=500, rms_norm_eps=1e-3)
    assert abs(our_states(folder) - usual).max() > 1e-3
    assert_same_vectors(our_states(folder), their_states(folder))


@pytest.mark.parametrize("kind", ["embedding", "reranker"])
def test_what_transformers_saves_again_loads_with_the_same_vectors(tmp_path, kind):
    folder = make_checkpoint(tmp_path / "model", kind=kind, tied=False)
    load = AutoModel if kind == "embedding" else AutoModelForCausalLM
    load.from_pretrained(folder, dtype=torch.float32).save_pretrained(tmp_path / "again")
    assert_same_vectors(our_states(tmp_path / "again"), our_states(folder))


def test_a_classifier_scores_as_in_transformers(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker")
    end_id = Qwen3Config.load(folder).vocab_size  # pads that are in no text, so that the last token is the last
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, id2label={0: "no", 1: "yes"}, pad_token_id=end_id - 1, dtype=torch.float32
    ).eval()
    classifier.save_pretrained(tmp_path / "classifier")
    with torch.inference_mode():
        logits = torch.cat([classifier(text[None]).logits for text in random_texts()])
    row = load_score_row(tmp_path / "classifier", Qwen3Config.load(tmp_path / "classifier"), YES, NO).numpy()
    assert_same_logits(relevance(our_states(tmp_path / "classifier"), row), (logits[:, 1] - logits[:, 0]).numpy())
