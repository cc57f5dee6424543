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


@pytest.mark.parametrize("name", ["Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding-0.6b"])
def test_a_model_is_shown_with_what_is_known_of_it(run: Run, name):
    result = run("models", "show", name)
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    page = next(card.page for card in load_cards() if card.name == "Qwen/Qwen3-Embedding-0.6B")
    for text in (
        page.title,
        page.summary,
        "Parameters 595,776,512",
        *page.about,
        page.faq[0].answer,
        page.links[0].url,
    ):
        assert text in shown
    assert "(Qwen/Qwen3-Reranker-0.6B)" in shown


def test_what_is_shown_is_json_too(run: Run):
    shown = json.loads(run("models", "show", "quernel/tiny-reranker", "--json").stdout)
    card = next(card for card in load_cards() if card.name == shown["name"])
    assert shown["num_layers"] == card.num_layers
    assert {"name": "Task", "value": "Text reranking"} in shown["specs"]
    assert shown["page"]["summary"] == card.page.summary
    assert shown["page"]["languages"]["names"] == list(card.page.languages.natural)


def test_the_list_has_facts_and_no_prose(run: Run):
    assert all("page" not in json.loads(line) for line in run("models", "--json").stdout.splitlines())


def test_only_models_that_are_known_are_shown(run: Run):
    result = run("models", "show", "none")
    assert result.exit_code == 2
    assert "quernel/tiny-embedding" in result.stderr
    assert "write it after" in run("models", "--json", "show", "none").stderr
