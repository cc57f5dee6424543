"""The playground in a browser: what it shows is what the API gives for the same bodies."""

import json
import re
import shlex
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pytest
from playwright.sync_api import expect

from quernel.web.samples import SAMPLES
from tests.browser.window import number
from tests.support.showroom import TINY_EMBEDDING, TINY_RERANKER

VISITOR, CUSTOMER, SPENT = None, "customer", "spent"

QUERY = "stories about people who repair things"
TEXTS = (
    "How to mend a pocket watch without its drawings.",
    "Bread, salt and weather: a year in the bakeries of a mountain town.",
    "She repairs clocks, and once a year the tower's.",
    "An introduction to the stars of the southern sky.",
    "Two sisters inherit a greenhouse and its debts.",
)
INSTRUCTION = "Given a topic, find books that are not about it"

CELLS = "(rows) => rows.map((row) => [...row.cells].slice(1).map((cell) => cell.innerText))"

COLUMNS = (("Text", "Document"), ("Whole vectors", "Given"))
"""Those that begin with a text's number, and with its place before; of vectors, and of a ranking."""

BITS = 0.002
"""What bfloat16 makes of a text that was alone in its batch, and of the same beside others."""

SECONDS = re.compile(r"\d+(\.\d)? (ms|s)")


@dataclass(frozen=True)
class Placed:
    """A text in its place.

    Attributes:
        index: Which of them it is.
        score: How near to the query.
        before: Where it was before.
        moved: What is said of that.
    """

    index: int
    score: float
    before: int
    moved: str


class Playground:
    """The playground in a window.

    Attributes:
        window: The window.
    """

    def __init__(self, window, path="/playground"):
        self.window = window
        self.page = window.page
        window.open(path)

    def fill(self, *, model=None, query=None, instruction=None, texts=None):
        """Fill the form in as a visitor does."""
        main = self.page.get_by_role("main")
        if model is not None:
            main.get_by_role("combobox", name="Model").select_option(model)
        if query is not None:
            main.get_by_role("textbox", name=re.compile("^Query")).fill(query)
        if instruction is not None:
            main.get_by_role("textbox", name=re.compile("^Instruction")).fill(instruction)
        if texts is not None:
            main.get_by_role("textbox", name=re.compile("^(Texts|Documents)$")).fill("\n".join(texts))

    def run(self):
        """Run it, until there is a result that was not there before."""
        self.page.evaluate("() => document.querySelector('[data-outcome]')?.remove()")
        self.page.get_by_role("button", name="Run").click()
        expect(self.page.locator("[data-outcome]")).to_be_visible()

    def similarities(self):
        """The cells of the heat map."""
        cells = self.window.region("Similarities").locator("tbody tr").evaluate_all(CELLS)
        return np.array(cells, dtype=float)

    def order(self, region="Order by similarity to the query"):
        """Its rows from the first place on."""
        found = []
        for place, row in enumerate(self.window.table(region), start=1):
            assert int(row["Place"]) == place
            number_of, before = (re.match(r"\d+", row.get(one, row.get(other)))[0] for one, other in COLUMNS)
            score = row.get("Similarity", row.get("Relevance"))
            found.append(Placed(int(number_of) - 1, float(score), int(before), row["Moved"]))
        for place, row in enumerate(found, start=1):
            up = row.before - place
            assert row.moved == ("same" if up == 0 else f"up {up}" if up > 0 else f"down {-up}")
        return found

    def fields(self):
        """What the form has in it."""
        names = ("query", "instruction", "texts")
        return {name: self.page.locator(f"form textarea[name={name}]").input_value() for name in names}


def bodies(*, query=QUERY, texts=TEXTS, instruction=None, **more):
    """What the API is asked for the same: the texts, and the query."""
    told = {} if instruction is None else {"instruction": instruction}
    return (
        {"model": TINY_EMBEDDING, "input": list(texts), "input_type": "document", **more},
        {"model": TINY_EMBEDDING, "input": [query], "input_type": "query", **told, **more},
    )


def ask(client, *wanted):
    """The API's replies to bodies of embeddings."""
    return [client.post("/v1/embeddings", json=body).raise_for_status() for body in wanted]


def cosines(texts, query):
    """Of the query and the texts, each with every other."""
    vectors = np.array([row["embedding"] for reply in (query, texts) for row in reply.json()["data"]])
    return vectors @ vectors.T


def expect_cosines(playground, found, whole):
    """That the page has these cosines, in the map and the order, beside the order of the whole vectors."""
    np.testing.assert_allclose(playground.similarities(), found, atol=0.005 + BITS)
    shown = playground.order()
    indices = [row.index for row in shown]
    assert sorted(indices) == list(range(len(found) - 1))
    np.testing.assert_allclose([row.score for row in shown], found[0, 1:][indices], atol=0.0005 + BITS)
    assert np.diff(found[0, 1:][indices]).max() < 2 * BITS
    before = [row.index for row in sorted(shown, key=lambda row: row.before)]
    assert np.diff(whole[0, 1:][before]).max() < 2 * BITS


@pytest.mark.parametrize(("who", "screen"), [(VISITOR, "phone"), (CUSTOMER, "desk")])
def test_texts_are_compared_as_the_apis_vectors_are(look, api, who, screen):
    playground = Playground(look(who, screen=screen))
    playground.fill(model=TINY_EMBEDDING, query=QUERY, texts=TEXTS)
    playground.run()
    replies = ask(api[who], *bodies())
    found = cosines(*replies)
    expect_cosines(playground, found, found)
    tiles = playground.window.tiles()
    tokens = [reply.json()["usage"]["total_tokens"] for reply in replies]
    costs = [Decimal(reply.headers["x-quernel-cost"]) for reply in replies]
    assert number(tiles["Tokens"][0]) == sum(tokens) > 0
    assert number(tiles["Cost"][0]) == sum(costs) > 0
    assert tiles["Provider"] == ["local"]
    answer, trip = tiles["API"]
    assert SECONDS.fullmatch(answer)
    assert SECONDS.fullmatch(trip.removesuffix(" round trip"))
    points = playground.page.locator("[data-point]")
    assert points.count() == len(TEXTS) + 1
    room = playground.page.locator("svg.plane").bounding_box()
    for point in points.all():
        box = point.bounding_box()
        assert room["x"] <= box["x"] <= box["x"] + box["width"] <= room["x"] + room["width"]
        assert room["y"] <= box["y"] <= box["y"] + box["height"] <= room["y"] + room["height"]


def test_what_a_trial_came_to_is_in_the_books_of_who_asked(look, api):
    playground = Playground(look(CUSTOMER))
    playground.fill(model=TINY_EMBEDDING, query=QUERY, texts=TEXTS)
    playground.run()
    rows = playground.window.table("What it came to")
    assert [row["Request"].split()[0] for row in rows] == ["Texts", "Query"]
    for row in rows:
        entry = api[CUSTOMER].get("/v1/generation", params={"id": row["Generation"]}).raise_for_status().json()["data"]
        assert number(row["Tokens"]) == entry["native_tokens_prompt"]
        assert number(row["Cost"]) == Decimal(str(entry["total_cost"]))
        assert row["Provider"] == entry["provider_name"]
        assert api["reader"].get("/v1/generation", params={"id": row["Generation"]}).status_code == 200


def test_the_slider_cuts_vectors_as_the_api_does(look, api):
    playground = Playground(look())
    playground.fill(model=TINY_EMBEDDING, query=SAMPLES[0].query, texts=SAMPLES[0].texts)
    playground.run()
    asked = {"query": SAMPLES[0].query, "texts": SAMPLES[0].texts}
    whole = cosines(*ask(api[VISITOR], *bodies(**asked)))
    slider = playground.page.get_by_role("slider", name="Dimensions")
    now = playground.page.locator("[data-dimensions-now]")
    for key, dimensions in (("Home", 32), ("ArrowRight", 40), ("End", 256)):
        slider.press(key)
        expect(now).to_have_text(f"{dimensions} of 256")
        expect_cosines(playground, cosines(*ask(api[VISITOR], *bodies(**asked, dimensions=dimensions))), whole)
        said = playground.page.locator("[data-dimensions-said]").inner_text()
        assert int(said) == dimensions
    chip = playground.page.get_by_role("group", name="Lengths to choose from").get_by_role("button", name="128")
    chip.click()
    expect(now).to_have_text("128 of 256")
    expect(chip).to_have_attribute("aria-pressed", "true")
    expect(slider).to_have_value("128")
    found = cosines(*ask(api[VISITOR], *bodies(**asked, dimensions=128)))
    assert np.abs(found - whole).max() > 0.02, "the texts are too much alike to show anything"
    expect_cosines(playground, found, whole)


def test_the_instruction_is_told_to_the_model_with_the_query(look, api):
    playground = Playground(look())
    playground.fill(model=TINY_EMBEDDING, query=QUERY, texts=TEXTS, instruction=INSTRUCTION)
    playground.run()
    found = cosines(*ask(api[VISITOR], *bodies(instruction=INSTRUCTION)))
    expect_cosines(playground, found, found)
    assert np.abs(found - cosines(*ask(api[VISITOR], *bodies()))).max() > 0.01


@pytest.mark.parametrize(("who", "screen"), [(VISITOR, "desk"), (CUSTOMER, "phone")])
def test_documents_are_ordered_as_the_api_ranks_them(look, api, who, screen):
    playground = Playground(look(who, screen=screen))
    playground.fill(model=TINY_RERANKER)
    expect(playground.page.get_by_role("textbox", name="Documents")).to_be_visible()
    playground.fill(query=QUERY, texts=TEXTS)
    playground.run()
    body = {"model": TINY_RERANKER, "query": QUERY, "documents": TEXTS}
    reply = api[who].post("/v1/rerank", json=body).raise_for_status()
    results = reply.json()["results"]
    shown = playground.order("Order by relevance to the query")
    assert [row.index for row in shown] == [row["index"] for row in results]
    assert [row.before for row in shown] == [row["index"] + 1 for row in results]
    scores = [row["relevance_score"] for row in results]
    np.testing.assert_allclose([row.score for row in shown], scores, atol=0.00051)
    assert len(set(scores)) == len(TEXTS)
    tiles = playground.window.tiles()
    assert number(tiles["Tokens"][0]) == reply.json()["usage"]["total_tokens"]
    assert number(tiles["Cost"][0]) == Decimal(reply.headers["x-quernel-cost"])


def test_the_same_as_a_command_gives_what_was_shown(look, api):
    window = look(CUSTOMER)
    window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground = Playground(window)
    playground.fill(model=TINY_EMBEDDING, query=QUERY, texts=TEXTS, instruction="Find 'it'")
    playground.run()
    programs = playground.page.locator("[data-tabs=Programs]")
    programs.get_by_role("tab", name="curl").click()
    programs.get_by_role("button", name="Copy").locator("visible=true").click()
    expect(programs.get_by_role("button", name="Copied")).to_be_visible()
    parts = shlex.split(window.page.evaluate("() => navigator.clipboard.readText()").replace("\\\n", ""))
    wanted = [json.loads(parts[index + 1]) for index, part in enumerate(parts) if part == "-d"]
    assert [part for part in parts if part.startswith("http")] == [f"{window.origin}/v1/embeddings"] * 2
    found = cosines(*ask(api[CUSTOMER], *wanted))
    expect_cosines(playground, found, found)


def test_samples_in_many_languages_fill_the_form_in_and_read_in_their_direction(look):
    playground = Playground(look())
    playground.fill(model=TINY_EMBEDDING)
    for sample in SAMPLES:
        playground.page.get_by_role("link", name=sample.title, exact=True).click()
        assert playground.fields()["query"] == sample.query
        assert playground.fields()["instruction"] == sample.instruction
        assert playground.fields()["texts"].split("\n") == list(sample.texts)
    assert playground.window.path.startswith("/playground")
    playground.page.get_by_role("link", name="Six languages").click()
    playground.run()
    directions = playground.page.locator("table.order .text").evaluate_all(
        "(all) => Object.fromEntries(all.map((one) => [one.textContent, getComputedStyle(one).direction]))"
    )
    assert set(directions) == set(SAMPLES[0].texts)
    arabic = "تفتح المكتبة أبوابها يوم الأحد في الساعة العاشرة."
    assert {text: direction for text, direction in directions.items() if direction == "rtl"} == {arabic: "rtl"}


def test_without_a_query_texts_are_compared_and_not_ordered(look):
    playground = Playground(look())
    playground.fill(model=TINY_EMBEDDING, query="", texts=TEXTS)
    playground.page.get_by_role("textbox", name="Texts").press("Control+Enter")
    expect(playground.window.region("Similarities")).to_be_visible()
    assert playground.similarities().shape == (len(TEXTS), len(TEXTS))
    expect(playground.window.region("Order by similarity to the query")).to_have_count(0)


def test_a_visitor_without_scripts_gets_all_of_it(look, api):
    playground = Playground(look(scripts=False))
    main = playground.page.get_by_role("main")
    playground.fill(model=TINY_EMBEDDING, query=QUERY, texts=TEXTS)
    main.get_by_role("textbox", name="Dimensions").fill("64")
    main.get_by_role("button", name="Run").click()
    expect(playground.window.region("Similarities")).to_be_visible()
    replies = (ask(api[VISITOR], *bodies(**more)) for more in ({"dimensions": 64}, {}))
    expect_cosines(playground, *(cosines(*pair) for pair in replies))
    assert playground.fields()["texts"].split("\n") == list(TEXTS)


# What cannot be answered


def refused(playground):
    """The message that is shown instead of a result; what was typed is still there."""
    before = playground.fields()
    playground.page.get_by_role("button", name="Run").click()
    alert = playground.page.get_by_role("region", name="Result").get_by_role("alert")
    expect(alert).to_be_visible()
    assert playground.fields() == before
    expect(playground.page.get_by_role("button", name="Run")).to_be_enabled()
    return alert.inner_text()


def test_too_many_texts_are_counted_and_refused(look):
    playground = Playground(look())
    playground.fill(texts=[f"text {number}" for number in range(25)])
    expect(playground.page.locator("[data-count]")).to_have_text("25 of 24")
    assert "There are 25 texts" in refused(playground)
    playground.window.forgive("status of 400")


def test_axe_finds_nothing_wrong_with_results_and_refusals(look, axe):
    playground = Playground(look())
    playground.run()
    assert playground.window.barriers(axe) == []
    playground = Playground(playground.window, f"/playground?model={TINY_RERANKER}")
    playground.run()
    assert playground.window.barriers(axe) == []
    playground = Playground(playground.window)
    playground.fill(texts=[])
    refused(playground)
    playground.window.forgive("status of 400")
    assert playground.window.barriers(axe) == []


def test_whoever_has_used_up_their_requests_is_told_how_long_to_wait(look):
    playground = Playground(look(SPENT))
    playground.fill(model=TINY_EMBEDDING, texts=TEXTS)
    assert re.search(r"Try again in \d+ ", refused(playground))
    playground.window.forgive("status of 429")


def test_a_gateway_that_is_not_reached_costs_nobody_their_texts(look):
    playground = Playground(look())
    playground.fill(model=TINY_EMBEDDING, texts=TEXTS)
    playground.page.route("**/playground", lambda route: route.abort())
    assert "could not be reached" in refused(playground)
    playground.page.unroute_all()
    playground.window.complaints.clear()
    playground.run()
    assert playground.similarities().shape[1] == len(TEXTS) + 1
