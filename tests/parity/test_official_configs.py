"""The six official configurations, without their weights: names, shapes and counts on the meta device."""

import json
from pathlib import Path

import pytest
import torch

from quernel.model.config import Qwen3Config, load_json
from quernel.model.qwen3 import Qwen3
from quernel.model.side_files import load_side_files
from quernel.types import ModelKind

CONFIGS = Path(__file__).parents[1] / "data" / "configs"

PARAMETERS = {
    "Qwen3-Embedding-0.6B": (595_776_512, 310),
    "Qwen3-Embedding-4B": (4_021_774_336, 398),
    "Qwen3-Embedding-8B": (7_567_295_488, 398),
    "Qwen3-Reranker-0.6B": (595_776_512, 310),
    "Qwen3-Reranker-4B": (4_021_784_576, 398),
    "Qwen3-Reranker-8B": (8_188_548_096, 399),
}
"""Parameters and tensors in the published files; those of Reranker-8B include its head."""

models = pytest.mark.parametrize("name", PARAMETERS)


def build(name):
    config = Qwen3Config.load(CONFIGS / name)
    with torch.device("meta"):
        return config, Qwen3(config)


@models
def test_an_official_configuration_builds_with_the_published_parameters(name):
    config, model = build(name)
    head = config.vocab_size * config.hidden_size if name == "Qwen3-Reranker-8B" else 0
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (sum(sizes) + head, len(sizes) + (head > 0)) == PARAMETERS[name]
    assert config.num_parameters == sum(sizes)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "0.6B" not in name])
def test_our_names_are_those_of_the_official_index(name):
    _, model = build(name)
    index = json.loads((CONFIGS / name / "model.safetensors.index.json").read_text())
    official = {stored.removeprefix("model.") for stored in index["weight_map"]} - {"lm_head.weight"}
    assert official == set(model.state_dict())


@models
def test_official_side_files_are_understood(name):
    folder = CONFIGS / name
    found = load_side_files(folder, Qwen3Config.load(folder), load_json(folder / "config.json"))
    if "Embedding" in name:
        assert found.kind is ModelKind.EMBEDDING
        assert found.normalize
        assert set(found.prompts) == {"query", "document"}
    else:
        assert found.kind is ModelKind.RERANKER
        assert found.answer_ids == (9693, 2152)
        assert found.instruction == "Given a web search query, retrieve relevant passages that answer the query"
