"""`quernel models`."""

import json

import pytest

from quernel.catalog.catalog import load_cards
from quernel.cli.models import availability
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QUERNEL_CACHE_DIR", str(tmp_path))


def test_the_table_has_a_line_for_each_model(run: Run):
    result = run("models")
    assert result.exit_code == 0, result.stderr
    header, *rows = result.stdout.splitlines()
    assert header.split()[0] == "MODEL"
    assert [row.split()[0] for row in rows] == [card.name for card in load_cards()]


def test_json_has_the_facts(run: Run):
    found = {line["name"]: line for line in map(json.loads, run("models", "--json").stdout.splitlines())}
    assert found["Qwen/Qwen3-Embedding-0.6B"]["dimensions"] == 1024
    assert found["Qwen/Qwen3-Reranker-8B"]["kind"] == "reranker"
    assert found["Qwen/Qwen3-Reranker-8B"]["availability"] == "absent"


def test_a_model_is_here_when_all_of_it_is():
    card = next(card for card in load_cards() if not card.is_builtin)
    assert availability(card, {}) == "absent"
    assert availability(card, {card.name: 1000}) == "partial"
    assert availability(card, {card.name: card.weights_bytes + 1000}) == "cached"


def test_published_results_come_with_their_commands(run):
    result = run("models", "--results", "Qwen/Qwen3-Reranker-4B")
    assert result.exit_code == 0
    assert (
        "$ python -m quernel.integrations.mteb Qwen/Qwen3-Embedding-0.6B --reranker Qwen/Qwen3-Reranker-4B"
        in result.stdout
    )
    lines = run("models", "--results", "Qwen/Qwen3-Embedding-8B", "--json").stdout.splitlines()
    assert any('"measure":"mean_task"' in line for line in lines)
    assert run("models", "--results", "quernel/tiny-embedding").exit_code == 2
