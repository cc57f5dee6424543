"""The cards say what the official files say."""

import json
from pathlib import Path

import pytest

from quernel.catalog.card import count_parameters
from quernel.catalog.catalog import BUILTIN, load_builtin_cards, load_cards, load_official_cards
from quernel.types import ModelKind

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


@pytest.mark.parametrize("card", load_official_cards(), ids=lambda card: card.name)
def test_a_card_agrees_with_the_configuration(card):
    config = json.loads((CONFIGS / card.name.partition("/")[2] / "config.json").read_text())
    assert (card.dimensions, card.num_layers) == (config["hidden_size"], config["num_hidden_layers"])
    assert card.max_tokens <= config["max_position_embeddings"]
    stores_head = card.kind is ModelKind.RERANKER and not config["tie_word_embeddings"]
    assert card.num_parameters == count_parameters(config, head_is_stored=stores_head)


@pytest.mark.parametrize("card", load_official_cards(), ids=lambda card: card.name)
def test_weights_are_two_bytes_a_parameter_plus_names(card):
    assert 0 < card.weights_bytes - 2 * card.num_parameters < 100_000


def test_there_are_six_by_kind_and_size():
    names = [card.name.removeprefix("Qwen/Qwen3-") for card in load_official_cards()]
    assert names == [f"{kind}-{size}" for kind in ("Embedding", "Reranker") for size in ("0.6B", "4B", "8B")]


def test_built_in_models_come_first():
    cards = load_cards()
    num_builtin = len(load_builtin_cards())
    assert all(card.is_builtin and card.name in BUILTIN for card in cards[:num_builtin])
    assert not any(card.is_builtin for card in cards[num_builtin:])
