"""Every page in a browser: it renders without a complaint, for all people and screens, and has the API's numbers."""

import socket
import time
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from playwright.sync_api import expect

from tests.browser.window import number, says
from tests.support.showroom import EMBEDDINGS, PLACES, TINY_EMBEDDING

VISITOR, CUSTOMER, OPERATOR = None, "customer", "operator"

MORE = {
    VISITOR: (
        "/models?q=no+model+is+called+this",
        "/compare",
        "/playground?sample=code",
        "/sign-in?why=ended&next=/console/keys",
    ),
    CUSTOMER: (
        "/",
        "/playground",
        "/console/usage?range=24h&by=provider&measure=requests",
        "/console/usage?range=12m&by=tag&user=nobody",
        "/console/requests?user=nobody",
        "/console/ledger?kind=grant",
    ),
    OPERATOR: (
        "/console/keys?account=*",
        "/console/requests?account=*",
        "/console/ledger?account=*",
        "/console/members?account=operator",
    ),
}
"""Pages besides those of the showroom: with other content, empty, or of somebody else."""

LOOK = """() => ({
  title: document.title,
  headings: document.querySelectorAll("h1").length,
  mains: document.querySelectorAll("main").length,
  width: document.scrollingElement.scrollWidth,
  paper: getComputedStyle(document.documentElement).backgroundColor,
})"""

READ = """() => {
  const main = document.querySelector("main").cloneNode(true);
  const apart = ".copy, [role=tablist], noscript, output, [role=status], script";
  for (const part of main.querySelectorAll(apart)) part.remove();
  return main.textContent.replace(/\\s+/g, " ").trim();
}"""
"""What a page says, without what scripts add and what is there only for want of them."""


@pytest.fixture(scope="module", autouse=True)
def settled(showroom):
    """What other tests have used is written down: nothing here uses any more."""
    end = time.monotonic() + 10
    while showroom.served.parts.gateway.is_writing:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def places(showroom):
    """Role to the paths of its pages."""
    found = {VISITOR: [], CUSTOMER: [], OPERATOR: []}
    for place in PLACES.values():
        found[VISITOR if place.who == "visitor" else place.who].append(showroom.path(place.name))
    return found


def faults(window, reply, colours):
    """What is wrong with a page that has just been opened."""
    seen, room = window.page.evaluate(LOOK), window.page.viewport_size["width"]
    red, green, blue = map(int, seen["paper"].removeprefix("rgb(").removesuffix(")").split(", "))
    is_light = red + green + blue > 3 * 127
    wrong = {
        f"status {reply.status}": reply.status != 200,
        "no title": not seen["title"],
        f"{seen['headings']} h1": seen["headings"] != 1,
        f"{seen['mains']} main": seen["mains"] != 1,
        f"{seen['width']} wide on {room}": seen["width"] > room,
        f"paper {seen['paper']}": is_light != (colours == "light"),
    }
    return [*window.complaints, *(said for said, is_so in wrong.items() if is_so)]


@pytest.mark.parametrize(("screen", "colours"), [("desk", "light"), ("phone", "dark")])
@pytest.mark.parametrize("who", [VISITOR, CUSTOMER, OPERATOR])
def test_every_page_renders_without_a_complaint(look, places, who, screen, colours):
    window, wrong = look(who, screen=screen, colours=colours), {}
    for path in [*places[who], *(MORE[who] if screen == "phone" else ())]:
        wrong[path] = faults(window, window.open(path), colours)
        window.complaints.clear()
    assert {path: found for path, found in wrong.items() if found} == {}


@pytest.mark.parametrize("who", [VISITOR, CUSTOMER, OPERATOR])
def test_axe_finds_nothing_wrong_with_any_page(look, places, axe, who):
    window, wrong = look(who), {}
    for path in places[who]:
        window.open(path)
        wrong[path] = window.barriers(axe)
    assert {path: found for path, found in wrong.items() if found} == {}


FORMS = {
    "a key that is none": (VISITOR, "/sign-in", {"API key": "quernel_none"}, "Sign in"),
    "a limit that is none": (CUSTOMER, "/console/keys/new", {"Name": "x", "Requests a minute": "lots"}, "Make the key"),
    "a key that is two words": (CUSTOMER, "/console/settings", {"Your key there": "two words"}, "Store it"),
    "an amount that is none": (OPERATOR, "/console/accounts/operator", {"Dollars": "ten"}, "Enter"),
    "a provider that is there": (OPERATOR, "/console/providers/new", {"Slug": "local"}, "Add it"),
}
"""What is wrong to who asks, where, what is filled in, and the button."""


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_was_wrong_says_so_to_everybody(look, axe, name):
    who, path, fields, button = FORMS[name]
    window = look(who)
    window.open(path)
    main = window.page.get_by_role("main")
    for label, text in fields.items():
        main.get_by_label(label, exact=True).fill(text)
    main.get_by_role("button", name=button, exact=True).first.click()
    expect(main.get_by_role("alert")).to_be_visible()
    window.forgive("status of 4")
    assert window.barriers(axe) == []


def test_what_there_is_not_is_a_page_too(look, axe):
    window = look(CUSTOMER)
    for path in ("/models/nothing", "/console/nothing"):
        assert window.open(path).status == 404
        assert window.barriers(axe) == []
    window.forgive("status of 404")


def test_axe_finds_nothing_wrong_with_the_page_of_a_new_key(look, axe):
    window = look(CUSTOMER)
    window.open("/console/keys/new")
    window.page.get_by_role("main").get_by_label("Name", exact=True).fill("looked at")
    window.page.get_by_role("button", name="Make the key").click()
    expect(window.page.get_by_text("Copy the key now")).to_be_visible()
    assert window.barriers(axe) == []


# Without scripts, and with those of somebody else


@pytest.mark.parametrize(
    ("who", "names"),
    [
        (VISITOR, ("home", "models", "model", "compare", "playground")),
        (CUSTOMER, ("usage", "ledger", "key-new")),
    ],
)
def test_what_a_page_says_it_says_without_scripts(look, showroom, who, names):
    window, plain = look(who), look(who, scripts=False)
    for name in names:
        path = showroom.path(name)
        window.open(path)
        plain.open(path)
        assert plain.page.evaluate(READ) == window.page.evaluate(READ), path
        panels = plain.page.get_by_role("main").locator("pre")
        assert all(one.is_visible() for one in panels.all()), "a program that only a script would show"


def test_a_visitor_without_scripts_filters_and_compares(look):
    window = look(scripts=False)
    window.open("/models")
    window.page.get_by_label("Kind").select_option("embedding")
    window.page.get_by_role("button", name="Apply").click()
    assert {row["Kind"] for row in window.table("Table of models")} == {"Embedding"}
    for name in EMBEDDINGS[:2]:
        window.page.get_by_role("row", name=name).get_by_role("checkbox").check()
    window.page.get_by_role("button", name="Compare those that are ticked").click()
    assert len(window.table("Comparison")[0]) == 1 + 2


MADE = "document.body.append(Object.assign(document.createElement('%s'), { %s }));"

ATTACKS = {
    "script-src-elem": MADE % ("script", "text: 'window.ran = 1'"),
    "script-src-attr": "document.body.setAttribute('onclick', 'window.ran = 1'); document.body.click();",
    "script-src": "setTimeout('window.ran = 1');",
    "style-src-attr": "document.body.setAttribute('style', 'display: none');",
    "style-src-elem": MADE % ("style", "textContent: 'body { display: none }'"),
    "connect-src": "fetch('ELSEWHERE').catch(() => {});",
    "img-src": "new Image().src = 'ELSEWHERE';",
    "frame-src": MADE % ("iframe", "src: 'ELSEWHERE'"),
    "base-uri": MADE % ("base", "href: 'ELSEWHERE'"),
    "form-action": MADE % ("form", "action: 'ELSEWHERE', id: 'ours'") + "document.getElementById('ours').submit();",
}
"""What the policy of pages blocks to what somebody would do who has got something into one."""


@pytest.mark.parametrize(("who", "name"), [(VISITOR, "playground"), (CUSTOMER, "overview")])
def test_what_was_put_into_a_page_is_not_run_and_sends_nothing(look, showroom, who, name):
    window = look(who)
    window.open(showroom.path(name))
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        for blocked, attack in ATTACKS.items():
            sign = f"blocked by {blocked}:"
            with window.page.expect_console_message(lambda said, sign=sign: said.text.startswith(sign)):
                window.page.evaluate(f"() => {{ {attack.replace('ELSEWHERE', address)} }}")
            assert window.page.evaluate("() => window.ran === undefined"), blocked
        assert window.page.evaluate("() => document.querySelector('main').checkVisibility()")
        assert window.path == showroom.path(name)
        assert heard(elsewhere) == b""
    window.complaints.clear()


def heard(listener):
    """What was said to a socket so far; Chromium may connect to where it then sends nothing."""
    listener.setblocking(False)
    said = b""
    with suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            with connection, suppress(BlockingIOError):
                connection.setblocking(False)
                said += connection.recv(1000)
    return said


# Numbers


def price_of(text):
    """Dollars of one token, of a price as a page has it."""
    assert text.endswith("/ M tokens")
    return number(text).scaleb(-6)


def test_the_list_of_models_has_the_apis_numbers(look, api):
    window = look()
    window.open("/models")
    models = api[VISITOR].get("/v1/models").json()["data"]
    rows = window.table("Table of models")
    assert [row["Model"].split("\n")[-1] for row in rows] == [model["id"] for model in models]
    for row, model in zip(rows, models, strict=True):
        assert says(row["Context"], model["context_window"])
        assert says(row["Dimensions"], model["dimensions"])
        assert price_of(row["Price"]) == Decimal(model["pricing"]["input"])
        assert says(row["Latency"], model["latency_ms"])
        assert says(row["Tokens/s"], model["throughput"])
        assert all(slug in row["Providers"] for slug in model["providers"])
    assert any(model["latency_ms"] for model in models), "without traffic the test shows nothing"


@pytest.mark.parametrize("name", ["model", "model-remote", "model-reranker"])
def test_a_model_has_the_numbers_of_its_endpoints(look, showroom, api, name):
    window, path = look(), showroom.path(name)
    window.open(path)
    model = api[VISITOR].get(f"/v1{path}/endpoints").json()["data"]
    tiles = window.tiles()
    assert price_of(tiles["Price"][0]) == Decimal(model["pricing"]["input"])
    assert number(tiles["Context"][1]) == model["context_window"]
    if model["dimensions"]:
        assert number(tiles["Dimensions"][0]) == model["dimensions"]
        assert tiles["Dimensions"][1] == f"any from {model['min_dimensions']}"
    assert says(tiles["Latency"][0], model["latency_ms"])
    assert says(tiles["Throughput"][0], model["throughput"])
    rows = window.table("Providers")
    assert len(rows) == len(model["endpoints"]) > 0
    for row, endpoint in zip(rows, model["endpoints"], strict=True):
        assert row["Provider"].startswith(endpoint["provider_name"])
        assert says(row["Context"], endpoint["context_length"])
        assert number(row["$ / M tokens"]).scaleb(-6) == Decimal(endpoint["pricing"]["input"])
        middle, high = row["Latency"].split("\n")
        assert says(middle, endpoint["latency"]["p50_ms"])
        assert says(high.removeprefix("p95 "), endpoint["latency"]["p95_ms"])
        assert says(row["Tokens/s"], endpoint["throughput"]["p50_tokens_per_second"])
        assert says(row["Uptime"], endpoint["uptime"])


def test_the_money_on_the_overview_is_the_apis(look, api):
    window = look(CUSTOMER)
    window.open("/console")
    own = api[CUSTOMER].get("/v1/key").json()
    exact = window.page.locator(".tile data").evaluate_all("(all) => all.map((one) => one.value)")
    names = ("available", "balance", "held", "spent")
    assert exact == [own["balance"][name] for name in names]
    tiles = window.tiles()
    for name in names:
        assert says(tiles[name.capitalize()][0], own["balance"][name])
    assert Decimal(own["balance"]["spent"]) > 0
    limits = {(limit["of"], limit["period"]): limit for limit in own["limits"]}
    meters = window.page.get_by_role("meter")
    assert meters.count() == sum(kind in limit for limit in limits.values() for kind in ("requests", "tokens", "usd"))


def test_the_usage_that_is_shown_is_the_apis(look, api):
    window = look(CUSTOMER)
    names = {key["id"]: key["name"] for key in api[CUSTOMER].get("/v1/keys?limit=1000").json()["data"]}
    for division in ("model", "provider", "key", "tag"):
        window.open(f"/console/usage?by={division}")
        query = {"by": division, "start": first_of_thirty_days()}
        lines = api[CUSTOMER].get("/v1/usage/report", params=query).json()["data"]
        rows = {next(iter(row.values())): row for row in window.table(f"Usage by {division}")}
        assert len(rows) == len(lines) > 1
        for line in lines:
            group = line["group"][division]
            row = rows[names.get(group, group) or "\N{EM DASH}"]
            assert number(row["Spend"]) == Decimal(line["cost"])
            assert number(row["Requests"]) == line["requests"]
            assert number(row["Failed"]) == line["errors"]
            assert number(row["Tokens read"]) == line["tokens"]


def test_each_day_of_a_chart_is_the_apis(look, api):
    window = look(CUSTOMER)
    lines = api[CUSTOMER].get(f"/v1/usage/report?by=day,model&start={first_of_thirty_days()}").json()["data"]
    for measure in ("cost", "requests", "tokens"):
        said = defaultdict(Decimal)
        for line in lines:
            day = datetime.fromisoformat(line["group"]["day"])
            said[f"{day.day} {day:%b}", line["group"]["model"]] += Decimal(str(line[measure]))
        models = {model for _, model in said}
        assert len({day for day, _ in said}) > 20
        window.open(f"/console/usage?by=model&measure={measure}")
        window.page.get_by_text("The numbers of the chart").click()
        rows = window.table("The numbers of the chart")
        assert len(rows) == 30
        for row in rows:
            day = row.pop("Day, UTC")
            assert number(row.pop("All")) == sum(said[day, model] for model in models)
            others = number(row.pop("All others", "0"))
            assert {model: number(text) for model, text in row.items()} == {model: said[day, model] for model in row}
            assert others == sum(said[day, model] for model in models - set(row))


def first_of_thirty_days():
    return (datetime.now(UTC) - timedelta(days=29)).date().isoformat()


def test_the_file_for_spreadsheets_is_the_apis(look, api):
    window = look(CUSTOMER)
    window.open("/console/usage?by=key")
    with window.page.expect_download() as download:
        window.page.get_by_role("link", name="CSV").click()
    query = f"by=day,key&format=csv&start={first_of_thirty_days()}"
    assert download.value.path().read_text(encoding="utf-8") == api[CUSTOMER].get(f"/v1/usage/report?{query}").text


def test_the_ledger_has_the_apis_entries_page_after_page(look, api):
    window = look(CUSTOMER)
    window.open("/console/ledger")
    entries = api[CUSTOMER].get("/v1/ledger?limit=100").json()["data"]
    following = window.page.get_by_role("link", name="Next page")
    rows = window.table("Table of entries")
    if following.is_visible():
        following.click()
        rows += window.table("Table of entries")
    assert len(rows) > 10
    assert [number(row["Amount"]) for row in rows] == [Decimal(entry["amount"]) for entry in entries[: len(rows)]]
    assert [row["Reference"] for row in rows] == [entry["reference"] for entry in entries[: len(rows)]]


def test_requests_and_the_page_of_one_have_the_apis_numbers(look, api, showroom):
    window = look(CUSTOMER)
    window.open("/console/requests")
    found = api[CUSTOMER].get("/v1/usage?limit=50").json()["data"]
    rows = window.table("Table of requests")
    assert len(rows) == len(found) > 10
    for row, one in zip(rows, found, strict=True):
        assert (row["Model"], row["Status"].split()[0]) == (one["model"], str(one["status"]))
        assert number(row["Tokens"]) == one["tokens"]
        assert number(row["Cost"]) == Decimal(one["cost"])
        assert says(row["Took"], one["milliseconds"])
    wanted = showroom.names["request"]
    (one,) = (one for one in api[CUSTOMER].get("/v1/usage?limit=1000").json()["data"] if one["id"] == wanted)
    window.open(showroom.path("request"))
    tiles = window.tiles()
    assert number(tiles["Cost"][0]) == Decimal(one["cost"])
    assert number(tiles["Cost"][1]) == Decimal(one["upstream_cost"])
    assert number(tiles["Tokens read"][0]) == one["tokens"]
    assert says(tiles["Took"][0], one["milliseconds"])
    assert [row["Provider"] for row in window.table("Attempts")] == [attempt["provider"] for attempt in one["attempts"]]


def test_an_operator_sees_the_prices_and_accounts_that_the_api_has(look, api):
    window = look(OPERATOR)
    window.open("/console/accounts")
    accounts = {one["slug"]: one for one in api[OPERATOR].get("/v1/accounts").json()["data"]}
    rows = window.table("Table of accounts")
    assert {row["Account"].split("\n")[-1] for row in rows} == set(accounts)
    for row in rows:
        balance = accounts[row["Account"].split("\n")[-1]]["balance"]
        assert says(row["Available"], balance["available"])
        assert says(row["Spent"], balance["spent"])
    window.open("/console/providers")
    prices = {(row["Model"], row["Provider"]): row for row in window.table("Prices now")}
    for endpoint in api[VISITOR].get(f"/v1/models/{TINY_EMBEDDING}/endpoints").json()["data"]["endpoints"]:
        row = prices[TINY_EMBEDDING, endpoint["provider"]]
        assert number(row["$ / M tokens read"]).scaleb(-6) == Decimal(endpoint["pricing"]["input"])
