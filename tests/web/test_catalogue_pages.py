"""Pages of the catalogue over a real gateway: their numbers are the API's, and nothing on them is from elsewhere."""

import asyncio
import re
from urllib.parse import quote, urlsplit

import httpx
import pytest

from quernel.catalog.catalog import load_cards
from quernel.gateway.browsing import SORTS
from quernel.gateway.catalogue import LEAST_REQUESTS
from quernel.protocols.gateway import ModelQuery
from quernel.web.assets import TYPES, Assets
from quernel.web.catalogue import FILTERS, MOST_COMPARED, chart_of, shared_measures, spec_rows, storage_of
from quernel.web.config import WebConfig
from quernel.web.numbers import NONE, count, day, milliseconds, money, per_million, per_thousand, percent, short, size
from quernel.web.pages import HEADERS
from quernel.web.storefront import Storefront
from tests.support.gateway import offer
from tests.support.provider import provider
from tests.support.storefront import Browser, storefront

CARDS = load_cards()
SMALL, MIDDLE, LARGE = (f"Qwen/Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B"))
RERANKER, TINY = "Qwen/Qwen3-Reranker-0.6B", "quernel/tiny-embedding"
CHAT, BY_REQUEST, ODD = "acme/talker", "acme/by-request", """a<b>/it's "odd" \\ & 100%41?x=1#y;z"""

CATALOGUE = (
    {"name": CHAT, "kind": "chat", "max_tokens": 1000, "description": "<b>Talks</b> a lot.", "license": "MIT"},
    {"name": BY_REQUEST, "kind": "embedding", "dimensions": 100, "max_tokens": 512, "aliases": ["acme/per request?"]},
    {"name": ODD, "kind": "embedding", "dimensions": 64, "min_dimensions": 32, "max_tokens": 512},
)
ALL = [*(one["name"] for one in CATALOGUE), *(card.name for card in CARDS)]
NOWHERE = "http://127.0.0.1:9"

PAGES = [
    "/",
    "/models",
    "/models?kind=none",
    "/compare",
    "/playground",
    "/sign-in",
    "/docs",
    "/models/none",
    "/static/",
]
PAGES += [f"/models/{quote(name)}" for name in ALL]
PAGES += [f"/compare?model={quote(SMALL)}&model={quote(LARGE)}&model={quote(ODD, safe='')}"]


def priced(model, **prices):
    return {"model": model, "prices": [prices]}


@pytest.fixture(scope="module", params=["", "/shop"], ids=["root", "below"])
def site(request, tmp_path_factory):
    """A gateway that offers all the models of the catalogue and three others, one of them with some traffic."""
    names = [card.name for card in CARDS]
    with provider("quernel", dimensions=1024, max_tokens=8192) as asked:
        providers = [
            offer("cheap", asked.url, format="quernel", price="0.01", models=(SMALL,), region="eu-west"),
            offer("all", NOWHERE, format="quernel", price="0.05", models=names, zdr=True, no_training=True),
            offer("short", NOWHERE)
            | {"models": [{**priced(LARGE, usd_per_million_tokens="0.02"), "max_tokens": 8192}]},
            {
                **offer("others", NOWHERE, name="<i>Others</i>", terms="https://others.example.com/terms"),
                "models": [
                    priced(CHAT, usd_per_million_tokens="2", usd_per_million_output_tokens="8"),
                    priced(BY_REQUEST, usd_per_request="0.001"),
                    {"model": ODD},
                ],
            },
        ]
        folder = tmp_path_factory.mktemp("site")
        with storefront(
            folder, providers=providers, catalogue=CATALOGUE, local={}, root_path=request.param, demo_usd_a_day="1"
        ) as served:
            for text in map(str, range(int(LEAST_REQUESTS) + 1)):
                served.http.post("/v1/embeddings", json={"model": SMALL, "input": text}).raise_for_status()
            yield served, request.param


@pytest.fixture
def served(site):
    return site[0]


@pytest.fixture
def root(site):
    return site[1]


@pytest.fixture
def browser(served, root):
    """Asks as visitors do that come by a proxy."""
    with Browser(served) as browser:
        browser.base_url = served.url + root
        yield browser


def entries(served, **query):
    reply = httpx.get(f"{served.url}/v1/models", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]


def endpoints(served, name):
    return httpx.get(f"{served.url}/v1/models/{quote(name)}/endpoints").json()["data"]


def price_of(entry):
    """What a model costs, in words."""
    pricing, kind = entry["pricing"], entry["kind"]
    parts = [
        (per_thousand(pricing["document"]), "/ 1K documents", kind == "reranker"),
        (per_million(pricing["input"]), "/ M tokens in" if kind == "chat" else "/ M tokens", True),
        (per_million(pricing["output"]), "/ M tokens out", kind == "chat"),
        (money(pricing["request"]), "/ request", True),
    ]
    return (
        ", ".join(f"{dollars} {unit}" for dollars, unit, of_kind in parts if of_kind and dollars != "$0.00") or "free"
    )


# The first page


def test_the_first_page_says_how_much_there_is_and_links_to_it(served, browser, root):
    page = browser.open("/")
    everything = entries(served)
    assert page.status == 200
    assert f"{len(everything)} models from 4 providers" in page.text
    for entry in everything[:9]:
        assert entry["title"] in page.text
        assert f"{root}/models/{quote(entry['id'])}" in page.links
        assert price_of(entry) in page.text


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/plain", ""])
def test_who_wants_no_page_gets_the_apis_root(served, root, accept):
    for path in ("/", f"{root}/"):
        reply = httpx.get(served.url + path, headers={"accept": accept})
        assert (reply.status_code, reply.headers["location"]) == (307, f"{root}/docs")
        assert "content-security-policy" not in reply.headers


# The list


def ids_of(page):
    """The names of the models in the list, in its order."""
    names = []
    for tag, given in page.tags:
        if tag == "input" and given.get("name") == "model":
            names.append(given["value"])
    return names


def test_numbers_of_the_list_are_the_apis(served, browser):
    page, everything = browser.open("/models"), entries(served)
    assert ids_of(page) == [entry["id"] for entry in everything]
    assert f"{len(everything)} of {len(everything)}" in page.text
    rows = [row for row in page.rows if row[0] != "Compare"]
    for (_, *row), entry in zip(rows, everything, strict=True):
        assert row[0] == f"{entry['title']}{' '.join(entry['id'].split())}"
        assert row[2:] == [
            short(entry["context_window"]),
            count(entry["dimensions"]),
            price_of(entry),
            milliseconds(entry["latency_ms"]),
            short(entry["throughput"]),
            ", ".join(entry["providers"]) + (" ZDR" if entry["zdr"] else ""),
            entry["license"] or NONE,
            day(entry["released"]),
        ]
    measured = [entry["id"] for entry in everything if entry["latency_ms"] is not None]
    assert measured == [SMALL], "no figures, so the test shows little"


NARROWED = [
    {"q": "multilingual embedding"},
    {"q": "no such thing"},
    {"q": "<b>"},
    {"kind": "reranker"},
    {"kind": "chat"},
    {"provider": "short"},
    {"license": "MIT"},
    {"task": "code-retrieval"},
    {"zdr": "true"},
    {"zdr": "false"},
    {"max_price": "0.02"},
    {"min_context": "1001"},
    {"min_dimensions": "2560"},
    {"order": "desc"},
    {"kind": "embedding", "sort": "dimensions", "order": "asc", "provider": "all"},
]
SORTED = [{"sort": sort, "order": order} for sort in SORTS for order in ("", "asc", "desc")]


@pytest.mark.parametrize("query", [*NARROWED, *SORTED], ids=lambda query: ",".join(map("=".join, query.items())))
def test_every_filter_and_order_is_the_apis(served, browser, query):
    page = browser.open("/models", **query)
    found = [entry["id"] for entry in entries(served, **query)]
    everything = entries(served)
    if query.get("sort") != "latency":  # of which one model has any
        assert found != [entry["id"] for entry in everything], "all of them as ever, so the test shows nothing"
    assert ids_of(page) == found
    assert f"{len(found)} of {len(everything)}" in page.text
    assert ("No model is like that." in page.text) == (not found)
    fields = dict(page.form("/models").fields)
    # The box is for `true`; `false` is asked by an address alone.
    typed = {name: value for name, value in query.items() if (name, value) != ("zdr", "false")}
    assert {name: fields[name] for name in typed} == typed


def test_filters_are_those_of_the_form_and_known_to_the_api(browser):
    page = browser.open("/models", zdr="true")
    assert {name for name, _ in page.form("/models").fields} == set(FILTERS)
    assert set(FILTERS) < set(ModelQuery.__struct_fields__)


def test_choices_are_what_there_is(served, browser):
    page, everything = browser.open("/models"), entries(served)
    for name, values in (
        ("provider", {slug for entry in everything for slug in entry["providers"]}),
        ("license", {entry["license"] for entry in everything if entry["license"]}),
        ("task", {task for entry in everything for task in entry["tasks"]}),
    ):
        content = re.search(rf'<select id="{name}".*?</select>', page.html)[0]
        assert re.findall(r'<option value="([^"]+)">', content) == sorted(values)


@pytest.mark.parametrize(
    "query",
    [
        {"max_price": "<i>cheap</i>"},
        {"max_price": "1e3", "q": "<b>kept</b>"},
        {"min_context": "-1"},
        {"min_dimensions": "many", "kind": "reranker", "sort": "price", "order": "desc", "zdr": "true"},
        {"sort": "taste", "q": "mill"},
        {"order": "up", "q": "mill"},
        {"kind": "dog", "q": "mill"},
        {"task": "<script>", "q": "mill"},
        {"zdr": "perhaps", "q": "mill"},
    ],
    ids=lambda query: next(iter(query)),
)
def test_a_filter_that_cannot_be_is_the_apis_message_and_what_was_typed_stays(served, browser, query):
    page = browser.open("/models", **query)
    refused = httpx.get(f"{served.url}/v1/models", params=query)
    assert refused.status_code == 400
    assert page.status == 400
    assert " ".join(refused.json()["error"]["message"].split()) in page.text
    assert ids_of(page) == [entry["id"] for entry in entries(served)]
    fields = dict(page.form("/models").fields)
    typed = {name for name in query if name in ("q", "max_price", "min_context", "min_dimensions")}
    assert typed
    assert {name: fields[name] for name in typed} == {name: query[name] for name in typed}
    assert not [tag for tag, _ in page.tags if tag in ("i", "b")]
    if "reranker" in query.values():
        assert {name: fields[name] for name in ("kind", "sort", "order", "zdr")} == {
            name: query[name] for name in ("kind", "sort", "order", "zdr")
        }


# A model


def provider_of(endpoint):
    """A provider's name, slug and region, as its row begins."""
    region = "" if endpoint["local"] or not endpoint["region"] else f", {endpoint['region']}"
    return f"{endpoint['provider_name']}{endpoint['provider']}{region}"


def latency_of(endpoint):
    """The median, and the 95th percentile where there is one."""
    median, high = (milliseconds(endpoint["latency"][name]) for name in ("p50_ms", "p95_ms"))
    return median if high == NONE else f"{median}p95 {high}"


@pytest.mark.parametrize("name", ALL)
def test_a_page_says_of_a_model_what_the_api_does(served, browser, name):
    page, entry = browser.open(f"/models/{quote(name)}"), endpoints(served, name)
    card = httpx.get(f"{served.url}/v1/models/{quote(name)}/card").json()
    assert page.status == 200
    for said in (
        name,
        card["title"],
        card["summary"],
        price_of(entry),
        short(entry["context_window"]),
        f"{count(entry['context_window'])} tokens",
        milliseconds(entry["latency_ms"]),
        *card["about"],
        *(text for one in card["best_for"] for text in one.values()),
        *(text for one in card["faq"] for text in one.values()),
        *(text for one in card["specs"] for text in one.values()),
        *(related["title"] for related in card["related"]),
        *card["tasks"],
    ):
        assert " ".join(said.split()) in page.text
    named = [provider_of(one) for one in entry["endpoints"]]
    rows = [row for row in page.rows if row[0] in named]
    for row, one in zip(rows, entry["endpoints"], strict=True):
        pricing = one["pricing"]
        assert [row[0], *row[2:]] == [
            provider_of(one),
            one["quantization"],
            short(one["context_length"]),
            *([per_thousand(pricing["document"])] if entry["kind"] == "reranker" else []),
            per_million(pricing["input"]),
            *([per_million(pricing["output"])] if name == CHAT else []),
            *([money(pricing["request"])] if name == BY_REQUEST else []),
            latency_of(one),
            short(one["throughput"]["p50_tokens_per_second"]),
            " ".join(percent(one["uptime"]).split()),
            row[-1],
        ]
        assert ("ZDR" in row[-1], "no training" in row[-1]) == (one["zdr"], one["no_training"])
    scores = [score for table in card["benchmarks"] for row in table["rows"] for score in row["scores"].values()]
    assert all(f"{score:.2f}" in page.text for score in scores if score is not None)
    if entry["dimensions"]:
        sizes = size(entry["dimensions"] * 4_000_000)
        assert " ".join(sizes.split()) in page.text


def test_prices_are_all_that_is_paid_for(browser):
    shown = {name: browser.open(f"/models/{quote(name)}").text for name in (CHAT, BY_REQUEST, ODD)}
    assert "$2.00 / M tokens in, $8.00 / M tokens out" in shown[CHAT]
    assert "$0.001 / request" in shown[BY_REQUEST]
    assert "Price free" in shown[ODD]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("alibaba/qwen3-embedding-0.6b", SMALL),
        ("qwen3-embedding-0.6b", SMALL),
        (SMALL.upper(), SMALL),
        ("acme/per request?", BY_REQUEST),
        (ODD.upper(), ODD),
    ],
)
def test_another_name_leads_to_the_models_own_page_without_the_query(browser, root, asked, name):
    reply = browser.get(f"/models/{quote(asked)}", params={"next": "//evil.example"}, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, f"{root}/models/{quote(name)}")
    page = browser.open(f"/models/{quote(asked)}")
    assert (page.status, page.reply.request.url.path) == (200, f"{root}/models/{name}")


@pytest.mark.parametrize("name", ["none", "<script>alert(1)</script>", "Qwen", "a" * 2000, "%00", ""])
def test_a_model_that_there_is_not_is_said_on_a_page(browser, name):
    page = browser.open(f"/models/{quote(name)}" if name else "/models/")
    assert page.status == 404
    assert page.reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "Not here" in page.text
    assert [given for tag, given in page.tags if tag == "script" and "src" not in given] == []


# Several side by side


@pytest.mark.parametrize("models", [[], [SMALL], [SMALL, LARGE], [SMALL, RERANKER, CHAT], [LARGE, ODD, TINY, MIDDLE]])
def test_models_are_compared_in_the_order_asked_for(served, browser, models):
    page = browser.open("/compare", model=models)
    assert page.status == 200
    assert [value for name, value in page.form("/compare").fields if name == "model"][: len(models)] == models
    rows = page.rows[: next((at for at, row in enumerate(page.rows) if row[0] == "Measure"), None)]
    table = {row[0]: row[1:] for row in rows}
    if not models:
        assert "Choose two or more models." in page.text
        assert table == {}
        return
    found = [endpoints(served, name) for name in models]
    assert table["Price"] == [price_of(entry) for entry in found]
    assert table["Latency, recent median"] == [milliseconds(entry["latency_ms"]) for entry in found]
    assert table["Providers"] == [", ".join(entry["providers"]) for entry in found]
    assert all(len(cells) == len(models) for cells in table.values())
    if models == [SMALL, LARGE]:
        assert table["MTEB(Multilingual, v2), 131 tasksMean of tasks"] == ["64.33", "70.58"]
        assert ["Bitext mining", "72.22", "80.89"] in page.rows
        assert page.html.count("<strong>70.58</strong>") == 2, "the higher of two published scores"


def test_one_model_by_two_names_is_compared_once_and_five_are_four(browser):
    twice = browser.open("/compare", model=[SMALL, "qwen3-embedding-0.6b", SMALL, ""])
    assert len(twice.rows[0]) == 2
    many = browser.open("/compare", model=ALL[:5])
    assert len(many.rows[0]) == 1 + MOST_COMPARED


def test_a_model_that_there_is_not_cannot_be_compared(browser):
    page = browser.open("/compare", model=[SMALL, "<b>none"])
    assert page.status == 404
    assert "'<b>none' is not served here" in page.text


# All pages


@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_nothing_from_elsewhere_and_runs_nothing_of_its_own(browser, root, path):
    page = browser.open(path)
    taken = []
    for tag, given in page.tags:
        assert tag not in ("style", "iframe", "object", "embed", "base", "frame")
        assert not [name for name in given if name == "style" or name.startswith("on")]
        if tag == "script":
            assert given.get("type") == "application/json" or given["src"]
        taken += [given[name] for name in ("src", "srcset", "poster", "data") if name in given]
        taken += [given["href"]] if tag == "link" else []
        if tag == "form":
            assert given["action"].startswith(f"{root}/")
            assert not given["action"].startswith("//")
    assert len(taken) >= 3
    for address in taken:
        assert urlsplit(address)[:2] == ("", "")
        assert address.startswith(f"{root}/static/")
    for address in page.links:
        assert urlsplit(address).scheme in ("", "https")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_each_id_once_and_refers_to_none_that_is_not_there(browser, path):
    page = browser.open(path)
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    wanted = {link[1:] for link in page.links if link.startswith("#")}
    for name in ("for", "aria-labelledby", "aria-describedby", "data-copy"):
        wanted |= {word for _, given in page.tags for word in given.get(name, "").split()}
    assert wanted <= set(ids)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_keeps_others_out_and_is_not_kept_by_caches(served, browser, path):
    reply = browser.get(path)
    assert dict(reply.headers).items() >= HEADERS.items()
    assert reply.headers["cache-control"] == "no-cache"
    with Browser(served) as member:
        member.sign_in(served.key)
        assert member.get(path).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES)
def test_the_head_of_a_page_is_that_of_the_page_without_it(browser, path):
    whole, head = browser.get(path), browser.head(path)
    assert head.status_code == whole.status_code
    assert head.content == b""
    assert without_date(head) == without_date(whole)


def without_date(reply):
    return {name: value for name, value in reply.headers.items() if name not in ("date", "content-length")}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_page_that_is_only_read_takes_nothing(browser, method):
    for path in ("/", "/models", f"/models/{SMALL}", "/compare"):
        assert browser.request(method, path).status_code in (404, 405)


def test_a_redirect_has_the_headers_of_a_page(browser):
    reply = browser.get("/models/qwen3-embedding-0.6b", follow_redirects=False)
    assert dict(reply.headers).items() >= HEADERS.items()


@pytest.mark.parametrize("path", ["/", "/models", f"/models/{SMALL}"])
def test_a_page_is_sent_compressed_to_who_takes_it(browser, path):
    packed = browser.get(path, headers={"accept-encoding": "gzip"})
    plain = browser.get(path, headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.text == plain.text
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert "accept-encoding" in packed.headers["vary"].lower()


# Style sheets and scripts


ASSETS = Assets()
NAMES = sorted(ASSETS._files)


def test_names_of_assets_change_with_their_content(served, browser, root):
    page = browser.open("/")
    (sheet,) = (given["href"] for tag, given in page.tags if given.get("rel") == "stylesheet")
    assert sheet == root + ASSETS.path("quernel.css")
    assert re.fullmatch(rf"{root}/static/[0-9a-f]{{12}}/quernel\.css", sheet)
    assert len({ASSETS.path(name).split("/")[2] for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_asset_is_kept_for_ever_and_by_the_name_of_another_day_only_shown(browser, name, encoding):
    headers = {"accept-encoding": encoding}
    now, before = (browser.get(path, headers=headers) for path in (ASSETS.path(name), f"/static/0123456789ab/{name}"))
    assert now.status_code == before.status_code == 200
    assert now.content == before.content == ASSETS._files[name].content
    assert now.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert before.headers["cache-control"] == "no-cache"
    for reply in (now, before):
        assert reply.headers["content-type"] == TYPES[name[name.rindex(".") :]]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers.get("content-encoding") == (
            "gzip" if encoding == "gzip" and len(now.content) >= 1000 else None
        )
    head = browser.head(ASSETS.path(name), headers=headers)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/0123456789ab/none.css",
        "/static/0123456789ab/../pages.py",
        "/static/a/..%2fpages.py",
        "/static/quernel.css",
    ],
)
def test_there_are_no_other_assets(browser, path):
    reply = httpx.get(str(browser.base_url).rstrip("/") + path)
    assert reply.status_code == 404
    assert "import" not in reply.text


def test_assets_take_nothing_from_elsewhere():
    for name in NAMES:
        text = ASSETS._files[name].content.decode()
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[\w/.-]+", re.sub(r"(?m)(^|\s)//.*$", "", text)))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert "@import" not in text
        assert set(re.findall(r"url\(", text)) == set()


# Parts


def test_sizes_are_of_the_lengths_that_a_model_can_be_cut_to():
    assert storage_of({"dimensions": None, "min_dimensions": None}) == []
    assert storage_of({"dimensions": 100, "min_dimensions": 100}) == [(100, [4e8, 2e8, 1e8, 1.25e7])]
    assert [length for length, _ in storage_of({"dimensions": 100, "min_dimensions": 32})] == [32, 64, 100]
    assert [length for length, _ in storage_of({"dimensions": 1024, "min_dimensions": None})] == [1024]
    assert [length for length, _ in storage_of({"dimensions": 4096, "min_dimensions": 32})][-2:] == [3072, 4096]


def table_of(*scores, is_this=0):
    rows = [
        {"model": f"m{number}", "scores": {"mean": score}, "is_this": number == is_this}
        for number, score in enumerate(scores)
    ]
    return {"title": "T", "measures": ["mean"], "rows": rows}


@pytest.mark.parametrize("table", [table_of(), table_of(1.0), table_of(1.0, None)])
def test_fewer_than_two_scores_are_no_chart(table):
    assert chart_of(table) == ""


def test_a_chart_has_the_best_score_first():
    labels = re.findall(r">(m\d)<", chart_of(table_of(1.0, 3.0, None, 2.0)))
    assert labels == ["m1", "m3", "m0"]


def test_scores_that_one_model_alone_has_are_not_compared():
    one, two = table_of(1.0, 2.0), table_of(5.0, 2.0, is_this=1)
    assert shared_measures([[one], [two]]) == [("T", [("mean", [1.0, 2.0])])]
    assert shared_measures([[one], []]) == shared_measures([]) == []
    assert shared_measures([[table_of(0.0)], [table_of(0.0)], []]) == [("T", [("mean", [0.0, 0.0, None])])]


def test_facts_stand_in_the_order_in_which_they_are_first_said():
    specs = [[{"name": "a", "value": "1"}], [{"name": "b", "value": "2"}, {"name": "a", "value": "3"}], []]
    assert spec_rows(specs) == [("a", ["1", "3", None]), ("b", [None, "2", None])]
    assert spec_rows([]) == []


@pytest.mark.parametrize("root_path", ["", "/shop"])
@pytest.mark.parametrize("rest", ["*", "", "/shopx", "/shopx/models", "shop/models", "/v1/models", "/modelsx"])
def test_what_is_no_page_is_left_to_the_gateway(root_path, rest):
    async def gateway(scope, receive, send):
        asked.append(scope["path"])

    asked = []
    front = Storefront(gateway, config=WebConfig(), secret=bytes(32), root_path=root_path)
    scope = {"type": "http", "method": "OPTIONS", "path": rest, "headers": [(b"accept", b"*/*")]}
    asyncio.run(front(scope, None, None))
    assert asked == [rest]
