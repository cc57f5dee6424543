import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quernel.model.config import Qwen3Config
from quernel.model.layout import Layout
from quernel.model.qwen3 import Qwen3
from quernel.model.weights import load_model
from tests.model.forests import layouts, path_rows
from tests.support.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint"), layers=3, heads=6, kv_heads=2)
    return load_model(folder, Qwen3Config.load(folder), dtype=torch.float32, device=torch.device("cpu"))


def random_ids(count, seed=0):
    return torch.randint(0, 280, (count,), generator=torch.Generator().manual_seed(seed))


def assert_same_vectors(ours, reference):
    """Largest difference of unit vectors, and cosine, as the project states them."""
    ours, reference = (torch.nn.functional.normalize(part.double(), dim=-1) for part in (ours, reference))
    difference = (ours - reference).abs().max().item()
    cosine = (ours * reference).sum(dim=-1).min().item()
    assert difference <= 2e-6, f"largest difference {difference:.2e}"
    assert cosine >= 0.999999, f"cosine {cosine:.8f}"


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_gives_the_vectors_of_single_texts(model, lengths, seed):
    token_ids = random_ids(sum(lengths), seed)
    with torch.inference_mode():
        batch = model(token_ids, Layout.from_lengths(lengths))
        single = [model(part, Layout.from_lengths([len(part)])) for part in token_ids.split(lengths)]
    assert_same_vectors(batch, torch.cat(single))


@given(layout=layouts(), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_forest_gives_the_vectors_of_its_whole_texts(model, layout, seed):
    token_ids = random_ids(layout.num_tokens, seed)
    with torch.inference_mode():
        shared = model(token_ids, layout)
        whole = [
            model(token_ids[rows], Layout.from_lengths([len(rows)]))
            for rows in (path_rows(layout, index) for index in layout.reads)
        ]
    assert_same_vectors(shared, torch.cat(whole))


def test_the_order_of_reads_is_the_order_of_results(model):
    token_ids = random_ids(12)
    forwards = Layout.from_lengths([3, 4, 5])
    backwards = Layout(forwards.segments, (2, 1, 0))
    with torch.inference_mode():
        assert_same_vectors(model(token_ids, forwards).flip(0), model(token_ids, backwards))


def test_the_vector_of_a_text_depends_on_every_token_before_its_end(model):
    token_ids = random_ids(9)
    with torch.inference_mode():
        before = model(token_ids, Layout.from_lengths([9]))
        for row in range(9):
            changed = token_ids.clone()
            changed[row] = (changed[row] + 1) % 280
            assert (model(changed, Layout.from_lengths([9])) - before).abs().max() > 1e-4


def test_shapes_flow_through_the_meta_device():
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    with torch.device("meta"):
        model = Qwen3(config)
        read = model(torch.zeros(7, dtype=torch.int64), Layout.from_lengths([3, 4]))
    assert read.shape == (2, 32)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_parameters
