"""What stays the same when a bag becomes a transformer, on tiny random models."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3
from quernel.train.bag import bag_hidden, slow_dimensions, start_bag
from quernel.train.batches import pack
from quernel.train.encode import Encoder
from quernel.train.grow import insert_layers

VOCABULARY, WIDTH, END = 200, 64, 199


def hidden_by_the_transformer(model, texts):
    bounds = texts.bounds.tolist()
    paths = [(tuple(texts.token_ids[start:stop].tolist()),) for start, stop in pairwise(bounds)]
    return Encoder(model)(paths)


@pytest.fixture
def config():
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )


@pytest.fixture
def bag(config):
    """A bag whose weights have moved, as if trained."""
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(VOCABULARY, WIDTH), dim=-1)
    model = start_bag(config, vectors, torch.rand(VOCABULARY) + 0.01, end_token=END)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name and not name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(1)
    lengths = [0, 1, 2, 7, 30, 120, 400]
    return pack([[*torch.randint(0, END, (size,), generator=generator).tolist(), END] for size in lengths])


def assert_same_vectors(left: torch.Tensor, right: torch.Tensor, at_least: float) -> None:
    cosine, difference = F.cosine_similarity(left, right, dim=-1).min(), (left - right).abs().max()
    assert cosine >= at_least, f"cosine {cosine:.6f}, largest difference {difference:.2e}"


def test_the_bag_is_the_model_read_at_its_end_token(bag, texts):
    with torch.no_grad():
        expected = hidden_by_the_transformer(bag, texts)
        actual = bag_hidden(bag, texts.token_ids, texts.bounds, end_token=END, with_mlp=True)
    assert_same_vectors(actual, expected, at_least=0.999)


def test_the_bag_begins_as_the_weighted_mean_of_its_token_vectors(config):
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(VOCABULARY, WIDTH), dim=-1)
    weights = torch.rand(VOCABULARY) + 0.2
    bag = start_bag(config, vectors, weights, end_token=END)
    tokens = [3, 5, 5, 8, 13]
    kept = vectors[tokens].clone()
    kept[:, -2:] = 0  # the two coordinates that hold the weight
    expected = (kept * weights[tokens].unsqueeze(1)).sum(dim=0, keepdim=True)
    with torch.no_grad():
        batch = pack([[*tokens, END]])
        actual = bag_hidden(bag, batch.token_ids, batch.bounds, end_token=END)
    assert_same_vectors(actual[:, :-2], expected[:, :-2], at_least=0.99)


def test_texts_of_a_batch_do_not_touch_each_other(bag):
    one, other = [4, 9, END], [9, 9, 2, 40, END]
    both, alone = pack([one, other]), pack([one])
    with torch.no_grad():
        together = bag_hidden(bag, both.token_ids, both.bounds, end_token=END)[:1]
        single = bag_hidden(bag, alone.token_ids, alone.bounds, end_token=END)
    torch.testing.assert_close(together, single)


def test_inserted_layers_keep_the_function(bag, texts):
    with torch.no_grad():
        before = hidden_by_the_transformer(bag, texts)
        after = hidden_by_the_transformer(insert_layers(bag, 2, seed=0), texts)
    # Not to the bit: beside a larger stream, the norms' eps is smaller.
    assert F.cosine_similarity(after, before).min() > 0.9999


def test_inserted_layers_receive_gradients_at_once(bag, texts):
    grown = insert_layers(bag, 1, seed=0)
    hidden_by_the_transformer(grown, texts).square().sum().backward()
    assert grown.layers[0].self_attn.o_proj.weight.grad.abs().max() > 0
    assert grown.layers[0].mlp.down_proj.weight.grad.abs().max() > 0


def test_growth_keeps_the_number_of_every_old_layer(config):
    torch.manual_seed(0)
    model = Qwen3(Qwen3Config(**{**_fields(config), "num_hidden_layers": 3}))
    grown = insert_layers(model, 1, seed=0)
    assert torch.equal(grown.layers[1].mlp.up_proj.weight, model.layers[1].mlp.up_proj.weight)
    assert torch.equal(grown.layers[3].mlp.up_proj.weight, model.layers[2].mlp.up_proj.weight)


def test_slow_dimensions_are_rotary_pairs():
    assert slow_dimensions(16) == [6, 7, 14, 15]


def _fields(config: Qwen3Config) -> dict:
    return {name: getattr(config, name) for name in Qwen3Config.__dataclass_fields__}
