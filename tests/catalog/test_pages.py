"""Pages are whole, parsed strictly, and say nothing that facts and published numbers contradict."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from quernel.catalog.benchmarks import benchmark_tables
from quernel.catalog.card import ModelCard, WrittenCard
from quernel.catalog.catalog import load_cards
from quernel.catalog.page import ModelPage, Point, language_families
from quernel.catalog.published import published_tables
from quernel.catalog.specs import build_specs, card_specs
from quernel.catalog.tables import parse_table, read_table
from quernel.errors import SettingsError
from quernel.types import MIN_DIMENSIONS, ModelKind

CARDS = {card.name: card for card in load_cards()}
OFFICIAL = [card for card in CARDS.values() if not card.is_builtin]
CONFIGS = Path(__file__).parents[1] / "data" / "configs"

every_card = pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)

EVALUATED_TOKENS = 8_192
"""Where texts were cut for the published scores."""

SIZE = re.compile(r"(?<![\d.])(0\.6|4|8)B\b")
"""How prose names a size of the family; an embedding model or a reranker, as the context has it."""

LANGUAGES = 119
MILLION = 10**6


# What pages hold


@every_card
def test_every_page_is_whole(card):
    page = card.page
    assert page.title
    assert page.summary.endswith(".")
    assert page.architecture
    assert page.tasks
    assert 2 <= len(page.about) <= 4
    assert 3 <= len(page.best_for) <= 4
    assert 2 <= len(page.alternatives) <= 3
    assert 2 <= len(page.providers) <= 3
    assert 5 <= len(page.faq) <= 7
    assert page.languages.natural
    assert page.languages.note
    assert None not in [getattr(page.instructions, field.name) for field in fields(page.instructions)]
    assert any("arxiv.org/abs/2506.05176" in link.url for link in page.links)
    if not card.is_builtin:
        assert page.released == "2025-06-05"
        assert card.source in [link.url for link in page.links]
        assert len(page.languages.natural) == LANGUAGES


@every_card
def test_samples_suit_the_model(card):
    samples = card.page.samples
    assert samples.query
    assert (3 if card.kind is ModelKind.EMBEDDING else 4) <= len(samples.texts) <= 5
    assert len({text.language for text in samples.texts}) > 1
    assert len({text.text for text in samples.texts}) == len(samples.texts)


@every_card
def test_a_pair_is_an_embedding_model_and_a_reranker(card):
    other = CARDS[card.page.pair]
    assert other.page.pair == card.name
    assert {card.kind, other.kind} == set(ModelKind)


@every_card
def test_every_alternative_is_another_model_that_there_is(card):
    named = [one.model for one in card.page.alternatives if one.model is not None]
    assert named
    assert set(named) <= set(CARDS) - {card.name}


def test_the_languages_of_the_family_are_those_of_its_list():
    text = (Path(__file__).parents[2] / "src/quernel/catalog/languages.json").read_text(encoding="utf-8")
    listed = json.loads(text)["qwen3"]
    names = language_families()["qwen3"]
    assert len(set(names)) == len(names) == listed["total"] == LANGUAGES
    assert all(len(group["languages"]) == group["count"] for group in listed["families"].values())


# What pages must not say


def texts_of(page: ModelPage) -> Iterator[str]:
    """What a page says, one text for each thing that is said; samples and links apart."""
    yield from (page.summary, *page.about, page.architecture or "", page.languages.note or "")
    points = (*page.best_for, *page.alternatives, *page.providers)
    yield from (" ".join((point.title, point.text, getattr(point, "model", None) or "")) for point in points)
    yield from (f"{one.question} {one.answer}" for one in page.faq)
    if page.instructions is not None:
        yield " ".join(getattr(page.instructions, field.name) or "" for field in fields(page.instructions)[1:])


def named_in(text: str, card: ModelCard) -> list[ModelCard]:
    """The models that a text is about: the page's own, and those it names by name or size."""
    sizes = {f"{size}B" for size in SIZE.findall(text)}
    names = (card.name, *text.split())
    return [one for one in CARDS.values() if one.name in names or one.name.rpartition("-")[2] in sizes]


def numbers(pattern: str, text: str) -> set[int]:
    return {int(number.replace(",", "")) for number in re.findall(pattern, text)}


def wrong_facts(card: ModelCard) -> Iterator[str]:
    """Sizes of a page that are not those of the models that it speaks of."""
    for text in texts_of(card.page):
        about = named_in(text, card)
        dimensions = {one.dimensions for one in about} | {MIN_DIMENSIONS}
        shortened = "cut" in text.lower() or "go down to" in text
        allowed = {
            r"(\d[\d,]*)[ -]dimension": dimensions,
            r"(\d[\d,]*) tokens": {one.max_tokens for one in about} | {EVALUATED_TOKENS},
            r"(\d+) layers": {one.num_layers for one in about},
            r"hidden size (\d+)": {card.dimensions},
            r"takes (\d[\d,]*) bytes as float32": {4 * one for one in dimensions},
            r"(\d+) (?:natural )?languages": {len(one.page.languages.natural) for one in about},
            r"(\d{1,3}(?:,\d{3}){2,}) parameters": {one.num_parameters for one in about},
        }
        for pattern, known in allowed.items():
            for number in numbers(pattern, text) - known:
                if not ("dimension" in pattern and shortened and number < card.dimensions):
                    yield f"{number} in: {text}"
        weights = {f"{one.weights_bytes / 1e9:.2f}" for one in about}
        indexes = {f"{4 * one * MILLION / 1e9:.2f}" for one in dimensions}
        for number in set(re.findall(r"(\d+\.\d\d) GB", text)) - weights - indexes:
            yield f"{number} GB in: {text}"


def scores_of(names: set[str]) -> set[str]:
    rows = [row for table in published_tables() for row in table["rows"] if row.get("model") in names]
    return {f"{score:.2f}" for row in rows for score in row.values() if isinstance(score, float)}


def differences() -> set[str]:
    """By how much one model of the family is ahead of another in some measure."""
    found = set()
    for table in published_tables():
        rows = [row for row in table["rows"] if str(row.get("model")).startswith("Qwen3")]
        for row in rows:
            for other in rows:
                for measure, score in row.items():
                    if isinstance(score, float) and isinstance(other.get(measure), float):
                        found.add(f"{abs(score - other[measure]):.2f}")
    return found


def wrong_scores(card: ModelCard) -> Iterator[str]:
    """Scores of a page that were not published for the models that it speaks of."""
    rivals = {str(row.get("model")) for table in published_tables() for row in table["rows"]}
    for text in texts_of(card.page):
        names = {one.name.rpartition("/")[2] for one in named_in(text, card)}
        names |= {name for name in rivals if name in text}
        if "first stage" in text or "multilingual retrieval" in text:
            names.add("Qwen3-Embedding-0.6B")
        for number in set(re.findall(r"(?<![\d.,])(\d{1,2}\.\d\d)(?![\d%])(?! GB| billion)", text)):
            if number not in scores_of(names) | differences():
                yield f"{number} in: {text}"


@every_card
def test_no_page_contradicts_the_facts(card):
    assert list(wrong_facts(card)) == []


@every_card
def test_every_score_of_a_page_was_published(card):
    assert list(wrong_scores(card)) == []


@pytest.mark.parametrize(
    "claim",
    [
        "Vectors of 1,025 dimensions.",
        "Vectors of 2,560 dimensions.",
        "It reads 40,960 tokens.",
        "It has 36 layers.",
        "The weights take 1.20 GB in bfloat16.",
        "595,776,513 parameters are stored.",
        "A vector takes 4,097 bytes as float32.",
        "It reads 118 languages.",
    ],
)
def test_a_wrong_fact_would_be_found(claim):
    card = CARDS["Qwen/Qwen3-Embedding-0.6B"]
    said = replace(card, page=replace(card.page, best_for=(Point(title="Claim", text=claim),)))
    assert len(list(wrong_facts(said))) == 1


@pytest.mark.parametrize("claim", ["It has 64.34.", "It has 69.45.", "It is ahead by 3.33 points."])
def test_a_wrong_score_would_be_found(claim):
    card = CARDS["Qwen/Qwen3-Embedding-0.6B"]
    said = replace(card, page=replace(card.page, best_for=(Point(title="Claim", text=claim),)))
    assert len(list(wrong_scores(said))) == 1


@pytest.mark.parametrize("card", OFFICIAL, ids=lambda card: card.name)
def test_heads_and_sizes_are_those_of_the_configuration(card):
    config = json.loads((CONFIGS / card.name.partition("/")[2] / "config.json").read_text(encoding="utf-8"))
    heads, groups, size = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    assert f"{heads} query and {groups} key/value heads of {size}" in card.page.architecture
    assert ("tied embeddings" in card.page.architecture) == config["tie_word_embeddings"]
    assert set(numbers(r"(\d[\d,]*) bytes of keys and values", " ".join(texts_of(card.page)))) <= {
        2 * 2 * config["num_hidden_layers"] * groups * size
    }


# Facts


def test_facts_stand_in_the_order_in_which_they_are_read():
    specs = card_specs(CARDS["Qwen/Qwen3-Embedding-4B"])
    assert [spec.name for spec in specs] == [
        *("Task", "Architecture", "Parameters", "Layers", "Context", "Dimensions", "Weights", "Languages"),
        *("Licence", "Revision"),
    ]
    assert {spec.name: spec.value for spec in specs}.items() >= {
        "Task": "Text embedding",
        "Parameters": "4,021,774,336",
        "Context": "32,768 tokens",
        "Dimensions": "2,560, or any number from 32 up (MRL)",
        "Weights": "8.04 GB",
    }.items()


def test_what_nobody_wrote_down_is_no_fact():
    specs = build_specs(None, kind="embedding", max_tokens=512, dimensions=64, min_dimensions=64)
    assert [(spec.name, spec.value) for spec in specs] == [
        ("Task", "Text embedding"),
        ("Context", "512 tokens"),
        ("Dimensions", "64"),
    ]
    assert "Dimensions" not in {spec.name for spec in card_specs(CARDS["Qwen/Qwen3-Reranker-8B"])}


# Reading


def page(**more):
    return {"name": "acme/small", "page": {"title": "Small", "summary": "A model.", **more}}


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"page": {"title": "Small", "summary": "A model."}}, "name"),
        (page() | {"licence": "MIT"}, "licence"),
        (page() | {"num_parameters": "many"}, "num_parameters"),
        (page() | {"num_parameters": True}, "num_parameters"),
        (page() | {"num_layers": 0}, "num_layers"),
        (page(colour="green"), "colour"),
        (page(summary=""), "summary"),
        (page(about="One paragraph."), "about"),
        (page(about=["One", 2]), "about[1]"),
        (page(tasks=["cooking"]), "tasks[0]"),
        (page(tasks=[["sts"]]), "tasks[0]"),
        (page(released="June"), "released"),
        (page(released="2025-06"), "released"),
        (page(updated="2025-13"), "updated"),
        (page(faq=[{"question": "Why?"}]), "answer"),
        (page(faq=[{"question": "Why?", "answer": "So.", "by": "me"}]), "by"),
        (page(links=[{"title": "Home", "url": "http://acme.example"}]), "url"),
        (page(languages={"family": "latin"}), "family"),
        (page(languages={"family": "qwen3", "names": ["Latin"]}), "family"),
        (page(instructions={"supported": "yes"}), "supported"),
        (page(samples={"texts": [{"text": "one"}]}), "language"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_file_and_key(raw, key):
    with pytest.raises(SettingsError) as refused:
        parse_table(raw, WrittenCard, place="cards/small.toml")
    assert refused.value.param == key
    assert "cards/small.toml" in refused.value.message
    assert key in refused.value.message


def test_a_table_that_is_none_is_refused():
    with pytest.raises(SettingsError, match="no table"):
        parse_table({"name": "acme/small", "page": "title"}, WrittenCard, place="small.toml")


def test_days_may_be_written_as_toml_has_them(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(
        'name = "acme/small"\n[page]\ntitle = "Small"\nsummary = "One."\nreleased = 2025-06-05\nupdated = "2026-04"\n',
        encoding="utf-8",
    )
    read = read_table(file, WrittenCard).page
    assert (read.released, read.updated) == ("2025-06-05", "2026-04")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"broken\.toml cannot be read"):
        read_table(file, WrittenCard)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"gone\.toml cannot be read"):
        read_table(tmp_path / "gone.toml", WrittenCard)


# Tables


def test_tables_of_the_official_models_are_those_that_were_published():
    for card in OFFICIAL:
        name = card.name.partition("/")[2]
        published = [table for table in published_tables() if any(row.get("model") == name for row in table["rows"])]
        tables = benchmark_tables(card.name)
        assert [table.id for table in tables] == [table["id"] for table in published]
        for table, raw in zip(tables, published, strict=True):
            assert [row.model for row in table.rows] == [row["model"] for row in raw["rows"]]
            assert [row.model for row in table.rows if row.is_this] == [name]
            for row, raw_row in zip(table.rows, raw["rows"], strict=True):
                assert len(row.scores) == len(table.measures) == len(set(table.measures))
                scores = [value for key, value in raw_row.items() if isinstance(value, float)]
                assert [score for score in row.scores if score is not None] == scores
                assert row.parameters == raw_row.get("params")
