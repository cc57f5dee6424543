"""The catalogue over HTTP: the list, searched and sorted, pages of models, and cards that operators write."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
from tests.support.gateway import gateway, offer

from quernel.catalog.benchmarks import benchmark_tables
from quernel.catalog.catalog import load_cards
from quernel.catalog.page import Task
from quernel.errors import FailureKind, SettingsError
from quernel.gateway.cards import load_written_cards
from quernel.gateway.catalogue import LEAST_REQUESTS
from quernel.gateway.models import build_model, parse_entry
from quernel.gateway.opening import build_models
from quernel.protocols.gateway import FORMS, ModelQuery

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "cards"

SMALL, LARGE, RERANKER = "Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-8B", "Qwen/Qwen3-Reranker-0.6B"
TINY, TINY_RERANKER = "quernel/tiny-embedding", "quernel/tiny-reranker"
FOREIGN, BARE, CHAT = "openai/text-embedding-3-small", "acme/bare", "acme/chat"

CATALOGUE = (
    {"name": FOREIGN, "kind": "embedding", "dimensions": 1536, "min_dimensions": 256, "max_tokens": 8191},
    {"name": BARE, "kind": "embedding", "dimensions": 64, "max_tokens": 512, "description": "Bare.", "license": "MIT"},
    {"name": CHAT, "kind": "chat", "max_tokens": 4096},
)
NOWHERE = "http://127.0.0.1:9"


def priced(model, **price):
    """A model at a provider, with a price by other units than tokens."""
    return {"model": model, "prices": [price]}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A gateway that sells models of the family and of the configuration; nobody is asked."""
    providers = [
        offer("here", NOWHERE, price="0", models=(TINY, TINY_RERANKER), zdr=True),
        offer("cheap", NOWHERE, price="0.01", models=(SMALL, FOREIGN)),
        offer("quiet", NOWHERE, price="0.05", models=(SMALL, LARGE), zdr=True),
        offer("by-document", NOWHERE, format="jina")
        | {"models": [priced(RERANKER, usd_per_thousand_documents="0.02")]},
        offer("short", NOWHERE) | {"models": [{**priced(LARGE, usd_per_million_tokens="0.02"), "max_tokens": 8192}]},
        offer("plain", NOWHERE, price="0.03", models=(BARE, CHAT)),
        offer("off", NOWHERE, price="0.001", models=("Qwen/Qwen3-Embedding-4B",), enabled=False),
    ]
    folder = tmp_path_factory.mktemp("catalogue")
    with gateway(folder, *providers, catalogue=CATALOGUE, cards=EXAMPLES) as served:
        yield served


@pytest.fixture
def listed(served):
    """Asks for the list, and gives the names in it."""

    def ask(**query):
        reply = httpx.get(f"{served.url}/v1/models", params=query)
        assert reply.status_code == 200, reply.text
        return [model["id"] for model in reply.json()["data"]]

    return ask


def card_of(served, name):
    reply = httpx.get(f"{served.url}/v1/models/{name}/card")
    assert reply.status_code == 200, reply.text
    return reply.json()


def entry_of(served, name):
    return httpx.get(f"{served.url}/v1/models/{name}").json()


ORDER = [FOREIGN, BARE, CHAT, TINY, TINY_RERANKER, SMALL, LARGE, RERANKER]
"""As the catalogue has them: those of the configuration, then those of the family."""


# The list


def test_the_list_says_what_a_visitor_chooses_by(served):
    entry = entry_of(served, SMALL)
    page = next(card.page for card in load_cards() if card.name == SMALL)
    assert (
        entry.items()
        >= {
            "title": "Qwen3 Embedding 0.6B",
            "summary": page.summary,
            "description": "",
            "tasks": [task.value for task in page.tasks],
            "released": "2025-06-05",
            "license": "Apache-2.0",
            "zdr": True,
            "latency_ms": None,
            "throughput": None,
            "uptime": None,
            "providers": ["cheap", "quiet"],
        }.items()
    )
    bare = entry_of(served, BARE)
    assert bare.items() >= {"title": "bare", "summary": "", "description": "Bare.", "license": "MIT"}.items()
    assert bare.items() >= {"tasks": [], "released": None, "zdr": False}.items()


def test_without_a_query_all_are_listed_in_the_order_of_the_catalogue(listed):
    assert listed() == ORDER
    assert listed(order="desc") == ORDER[::-1]


def test_parameters_that_are_empty_or_not_known_change_nothing(listed):
    assert listed(**dict.fromkeys(ModelQuery.__struct_fields__, ""), limit="3") == ORDER


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"q": "qwen3 reranker"}, {RERANKER}),
        ({"q": "alibaba/qwen3-embedding-8b"}, {LARGE}),
        ({"q": "SWAHILI code-retrieval"}, {SMALL, LARGE}),
        ({"q": "typescript"}, {SMALL, LARGE, RERANKER}),
        ({"q": "bare."}, {BARE}),
        ({"q": "nothing of the kind"}, set()),
        ({"q": "ßtraße\x00"}, set()),
        ({"kind": "reranker"}, {TINY_RERANKER, RERANKER}),
        ({"kind": "chat"}, {CHAT}),
        ({"type": "reranking"}, {TINY_RERANKER, RERANKER}),
        ({"type": "language"}, {CHAT}),
        ({"kind": "embedding", "type": "reranker"}, set()),
        ({"provider": "quiet"}, {SMALL, LARGE}),
        ({"provider": "nobody"}, set()),
        ({"license": "apache-2.0", "kind": "embedding"}, {TINY, SMALL, LARGE}),
        ({"license": "MIT"}, {BARE}),
        ({"license": "proprietary"}, {FOREIGN}),
        ({"task": "bitext-mining"}, {SMALL, LARGE}),
        ({"zdr": "true"}, {TINY, TINY_RERANKER, SMALL, LARGE}),
        ({"zdr": "false"}, {FOREIGN, BARE, CHAT, RERANKER}),
        ({"max_price": "0.03"}, {FOREIGN, BARE, CHAT, TINY, TINY_RERANKER, SMALL, LARGE}),
        ({"max_price": "0.029999"}, {FOREIGN, TINY, TINY_RERANKER, SMALL, LARGE}),
        ({"max_price": "0"}, {TINY, TINY_RERANKER}),
        ({"min_context": "8192"}, {TINY, TINY_RERANKER, SMALL, LARGE, RERANKER}),
        ({"min_dimensions": "1024"}, {FOREIGN, SMALL, LARGE}),
        ({"min_dimensions": "4097"}, set()),
    ],
    ids=lambda given: str(sorted(given)) if isinstance(given, set) else str(given),
)
def test_models_are_found(listed, query, names):
    assert set(listed(**query)) == names


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"max_price": "0.02", "provider": "quiet"}, set()),
        ({"max_price": "0.02", "zdr": "true"}, {TINY, TINY_RERANKER}),
        ({"max_price": "0.04", "min_context": "32768"}, {SMALL}),
        ({"max_price": "0.05", "min_context": "32768", "zdr": "true"}, {SMALL, LARGE}),
    ],
    ids=lambda given: str(sorted(given)) if isinstance(given, set) else str(given),
)
def test_one_provider_must_have_all_that_is_asked_of_providers(listed, query, names):
    assert set(listed(**query)) == names


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", [BARE, CHAT, SMALL, LARGE, RERANKER, FOREIGN, TINY, TINY_RERANKER]),
        ("price", [TINY, TINY_RERANKER, FOREIGN, SMALL, LARGE, BARE, CHAT, RERANKER]),
        ("context", [SMALL, LARGE, RERANKER, TINY, TINY_RERANKER, FOREIGN, CHAT, BARE]),
        ("dimensions", [LARGE, FOREIGN, SMALL, TINY, BARE, CHAT, TINY_RERANKER, RERANKER]),
        ("released", [SMALL, LARGE, RERANKER, FOREIGN, BARE, CHAT, TINY, TINY_RERANKER]),
    ],
)
def test_models_are_sorted_with_the_best_first_and_the_unknown_last(listed, sort, names):
    assert sorted(names) == sorted(ORDER)
    assert listed(sort=sort) == names


@pytest.mark.parametrize("sort", ["name", "price", "context", "dimensions", "latency", "throughput", "released"])
def test_an_order_turns_what_is_known_around(served, listed, sort):
    entries = {name: entry_of(served, name) for name in ORDER}
    fields = {"context": "context_window", "latency": "latency_ms"}

    def value(name):
        if sort == "price":
            return None if name == RERANKER else float(entries[name]["pricing"]["input"])
        return entries[name][fields.get(sort, sort)]

    up, down = listed(sort=sort, order="asc"), listed(sort=sort, order="desc")
    unknown = [name for name in ORDER if value(name) is None]
    assert up[len(ORDER) - len(unknown) :] == down[len(ORDER) - len(unknown) :] == unknown
    known = [value(name) for name in up if value(name) is not None]
    assert known == sorted(known, key=lambda one: one.lower() if isinstance(one, str) else one)
    assert [value(name) for name in down if value(name) is not None] == known[::-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "reranking"),
        ("type", "image"),
        ("task", "cooking"),
        ("zdr", "perhaps"),
        ("max_price", "-1"),
        ("max_price", "1e3"),
        ("max_price", "0.02\n"),
        ("max_price", "0.0000000000001"),
        ("max_price", "nan"),
        ("min_context", "8k"),
        ("min_context", "-1"),
        ("min_dimensions", "1.5"),
        ("sort", "beauty"),
        ("order", "up"),
    ],
)
def test_what_no_parameter_can_be_is_refused_with_the_way_out(served, name, value):
    reply = httpx.get(f"{served.url}/v1/models", params={name: value})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", name)
    assert error["message"].startswith(f"{name} is {value!r}.")
    assert error["message"].endswith(FORMS[name] if name in FORMS else f"{', '.join(Task)}.")


def test_every_parameter_that_is_not_free_text_says_what_it_may_be():
    free = {"q", "provider", "license", "task"}
    assert set(FORMS) == set(ModelQuery.__struct_fields__) - free


def test_figures_are_those_of_the_fastest_provider_that_is_well(tmp_path):
    providers = [offer(slug, NOWHERE, models=(SMALL,)) for slug in ("slow", "fast", "drifted", "paused", "rare")]
    with gateway(tmp_path, *providers) as served:
        table = served.parts.gateway.health
        now = served.parts.gateway.clock()

        def answer(slug, seconds, times):
            health = table.of(slug, SMALL, "full")
            for _ in range(times):
                health.begin(now)
                health.succeed(now, seconds=seconds, tokens=100)
            return health

        many = int(LEAST_REQUESTS) + 1
        answer("slow", 0.4, many)
        answer("rare", 0.001, 1)
        answer("drifted", 0.002, many).drifted = "other vectors"
        paused = answer("paused", 0.002, many)
        paused.begin(now)
        paused.fail(now, FailureKind.RATE_LIMITED, retry_after=1000)
        first = entry_of(served, SMALL)
        fast = answer("fast", 0.02, many)
        fast.begin(now)
        fast.fail(now, FailureKind.TIMEOUT)
        second = entry_of(served, SMALL)
        assert served.http.get("/v1/models", params={"sort": "latency"}).json()["data"] == [second]
    assert first["latency_ms"] == pytest.approx(400, rel=0.2)
    assert first["throughput"] == pytest.approx(250, rel=0.2)
    assert first["uptime"] == 1
    assert second["latency_ms"] == pytest.approx(20, rel=0.2)
    assert second["uptime"] == pytest.approx(many / (many + 1), abs=1e-3)


# Pages


def test_a_page_holds_all_that_the_card_says(served):
    for name in (SMALL, LARGE, RERANKER, TINY, TINY_RERANKER):
        reply, page = card_of(served, name), next(card.page for card in load_cards() if card.name == name)
        assert (reply["id"], reply["object"], reply["title"]) == (name, "model.card", page.title)
        assert reply["about"] == list(page.about)
        assert reply["tasks"] == [task.value for task in page.tasks]
        assert (reply["released"], reply["updated"]) == (page.released, page.updated)
        assert reply["languages"]["names"] == list(page.languages.natural)
        assert reply["languages"]["count"] == len(page.languages.natural)
        assert reply["instructions"]["default"] == page.instructions.default
        for key in ("best_for", "providers"):
            assert reply[key] == [{"title": point.title, "text": point.text} for point in getattr(page, key)]
        assert [one["answer"] for one in reply["faq"]] == [one.answer for one in page.faq]
        assert [one["url"] for one in reply["links"]] == [one.url for one in page.links]
        assert [one["text"] for one in reply["samples"]["texts"]] == [one.text for one in page.samples.texts]
        assert [one["model"] for one in reply["alternatives"]] == [one.model for one in page.alternatives]


def test_a_page_is_found_by_any_name_of_its_model(served):
    whole = card_of(served, SMALL)
    assert card_of(served, "alibaba/qwen3-embedding-0.6b") == card_of(served, "QWEN3-embedding-0.6B") == whole


@pytest.mark.parametrize("name", ["none", "Qwen/Qwen3-Embedding-4B", "Qwen/Qwen3-Reranker-8B"])
def test_a_model_that_nobody_offers_has_no_page(served, name):
    reply = httpx.get(f"{served.url}/v1/models/{name}/card")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_facts_are_those_of_the_model_here(served):
    def specs(name):
        return {spec["name"]: spec["value"] for spec in card_of(served, name)["specs"]}

    assert specs(SMALL)["Context"] == "32,768 tokens"
    assert specs(FOREIGN) == {
        "Task": "Text embedding",
        "Context": "8,191 tokens",
        "Dimensions": "1,536, or any number from 256 up (MRL)",
        "Licence": "proprietary",
    }
    assert specs(BARE) == {
        "Task": "Text embedding",
        "Context": "512 tokens",
        "Dimensions": "64",
        "Licence": "MIT",
    }
    assert specs(CHAT) == {"Task": "Text generation", "Context": "4,096 tokens"}


def test_a_model_that_nobody_wrote_of_has_a_page_of_facts(served):
    reply = card_of(served, BARE)
    assert (reply["title"], reply["summary"]) == ("bare", "Bare.")
    for key in ("about", "tasks", "best_for", "alternatives", "providers", "faq", "links", "benchmarks"):
        assert reply[key] == []
    assert (reply["languages"], reply["instructions"], reply["samples"]) == (None, None, {"query": None, "texts": []})


def test_tables_say_which_row_is_the_page_and_which_models_are_served(served):
    for name in (SMALL, RERANKER, TINY):
        tables = card_of(served, name)["benchmarks"]
        assert [table["id"] for table in tables] == [table.id for table in benchmark_tables(name)]
        for table, known in zip(tables, benchmark_tables(name), strict=True):
            for row, known_row in zip(table["rows"], known.rows, strict=True):
                assert row["scores"] == dict(zip(table["measures"], known_row.scores, strict=True))
                assert row["is_this"] == known_row.is_this
    first = card_of(served, SMALL)["benchmarks"][0]
    ids = {row["model"]: row["id"] for row in first["rows"] if row["id"] is not None}
    assert ids == {"Qwen3-Embedding-0.6B": SMALL, "Qwen3-Embedding-8B": LARGE}
    (this,) = (row for row in first["rows"] if row["is_this"])
    assert (this["model"], this["parameters"]) == ("Qwen3-Embedding-0.6B", "0.6B")
    assert this["scores"]["Mean of tasks"] == 64.33


def test_related_are_the_other_half_of_the_pair_and_models_of_the_kind(served):
    def related(name):
        return [(one["id"], one["relation"]) for one in card_of(served, name)["related"]]

    kind = [(name, "kind") for name in (FOREIGN, BARE, TINY, SMALL, LARGE)]
    assert related(SMALL) == [(RERANKER, "pair"), *(one for one in kind if one[0] != SMALL)]
    assert related(LARGE) == [one for one in kind if one[0] != LARGE], "the 8B reranker is not served here"
    assert related(TINY_RERANKER) == [(TINY, "pair"), (RERANKER, "kind")]
    assert related(CHAT) == []
    first = card_of(served, SMALL)["related"][0]
    assert {**entry_of(served, RERANKER), "relation": "pair"} == first


def test_alternatives_say_whether_they_can_be_asked_here(served):
    served_here = {one["model"]: one["served"] for one in card_of(served, SMALL)["alternatives"]}
    assert served_here == {"Qwen/Qwen3-Embedding-4B": False, RERANKER: True, LARGE: True}


def test_the_ai_sdk_is_told_the_summary(served):
    models = served.http.get("/v4/ai/config").json()["models"]
    described = {model["id"]: model.get("description") for model in models}
    assert described[BARE] == "Bare."
    assert described[SMALL] == entry_of(served, SMALL)["summary"]
    assert {model["specification"]["specificationVersion"] for model in models} == {"v4"}


# Cards of the operator


def test_the_example_card_is_shown(served):
    entry, reply = entry_of(served, FOREIGN), card_of(served, FOREIGN)
    assert (entry["title"], entry["released"], entry["license"]) == (
        "text-embedding-3-small",
        "2024-01-25",
        "proprietary",
    )
    assert "1,536-dimensional" in reply["summary"]
    assert reply["instructions"]["supported"] is False
    assert reply["alternatives"][0]["served"] is True
    assert len(reply["samples"]["texts"]) >= 3


@pytest.fixture
def folder(tmp_path):
    """A folder with the example's card."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "cards"))


def test_a_card_stays_with_its_model_in_any_letter_case(folder):
    text = (folder / "text-embedding-3-small.toml").read_text(encoding="utf-8")
    (folder / "text-embedding-3-small.toml").write_text(text.replace("openai/", "OpenAI/"), encoding="utf-8")
    models = build_models(CATALOGUE, {}, folder)
    assert models.find(FOREIGN).title == "text-embedding-3-small"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('name = "acme/other"\n', r"other\.toml: acme/other is no model of \[\[catalogue\]\]\. It has openai/"),
        (f'name = "{FOREIGN}"\n', "are both of openai/text-embedding-3-small"),
        (f'name = "{BARE}"\npages = 1\n', r"other\.toml: unknown key 'pages'. Did you mean 'page'"),
        (f'name = "{BARE}"\nlicense = "GPL-3.0"\n', r"under MIT in \[\[catalogue\]\] and under GPL-3.0 in its card"),
        ("name = \n", r"other\.toml cannot be read"),
    ],
)
def test_a_card_that_cannot_be_meant_stops_the_start(folder, content, complaint):
    (folder / "other.toml").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=complaint):
        build_models(CATALOGUE, {}, folder)


def test_a_folder_without_cards_is_a_mistake(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(SettingsError, match="cards is") as refused:
            load_written_cards(folder, [FOREIGN])
        assert refused.value.param == "cards"


def test_a_gateway_with_a_wrong_card_does_not_open(tmp_path, folder):
    (folder / "other.toml").write_text('name = "acme/other"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="acme/other"), gateway(tmp_path, catalogue=CATALOGUE, cards=folder):
        pass


def test_a_model_of_the_family_keeps_its_page_where_the_configuration_names_it():
    table = {"name": SMALL, "kind": "embedding", "dimensions": 1024, "min_dimensions": 32, "max_tokens": 8192}
    model = build_models([table], {}).find(SMALL)
    assert (model.title, model.max_tokens) == ("Qwen3 Embedding 0.6B", 8192)
    assert model.card.num_parameters == 595_776_512


def test_the_licence_of_the_configuration_is_the_models():
    entry = parse_entry(CATALOGUE[1], place="catalogue[1]")
    assert build_model(entry).card.license == "MIT"


def test_cards_are_a_setting_of_the_file(tmp_path):
    from quernel.cli.settings import Settings
    from quernel.gateway.config import GatewayConfig

    file = tmp_path / "gateway.toml"
    file.write_text(f"[gateway]\ncards = {json.dumps(str(EXAMPLES))}\n", encoding="utf-8")
    assert Settings({"config": file}).build("gateway", GatewayConfig).cards == EXAMPLES
