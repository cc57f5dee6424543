"""What people do on the pages: by keyboard and by mouse, from signing in to signing out."""

import re
import threading
import time
from dataclasses import dataclass

import openai
import pytest
from playwright.sync_api import expect

from tests.browser.window import number
from tests.support import issuer as issuers
from tests.support.showroom import EMBEDDINGS, TINY_EMBEDDING
from tests.support.storefront import storefront

VISITOR, CUSTOMER = None, "customer"

MOST_STOPS = 400

KEY = re.compile(r"quernel_[0-9a-z]{10}_[0-9a-z]{59}")

STOPS = """() => {
  const all = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]";
  const stops = [...document.querySelectorAll(all)].filter((one) => one.tabIndex >= 0 && !one.disabled
    && one.checkVisibility({ visibilityProperty: true })
    && !(one.type === "radio" && !one.checked && document.querySelector(`[name="${one.name}"]:checked`)));
  stops.forEach((one, index) => { one.dataset.stop = index; });
  return stops.map((one) => `${one.localName} ${one.name ?? ""} ${one.innerText?.slice(0, 40) ?? ""}`);
}"""
"""All that the keyboard is to reach, numbered in the order of the page."""

HERE = """() => {
  const one = document.activeElement;
  if (one === document.body) return null;
  const style = getComputedStyle(one);
  const { left, right, top, bottom } = one.getBoundingClientRect();
  const inset = (low, high, share) => low + (high - low) * share;
  const seen = [0.1, 0.5, 0.9].flatMap((x) => [0.1, 0.5, 0.9].map((y) =>
    document.elementFromPoint(inset(left, right, x), inset(top, bottom, y))));
  return {
    stop: Number(one.dataset.stop ?? -1),
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    shown: seen.some((other) => other && (one.contains(other) || other.contains(one))),
  };
}"""


def walk(page):
    """Press Tab from the top of a page to its end; what is wrong with the stops, and which were missed."""
    stops, reached, wrong, last = page.evaluate(STOPS), [], [], None
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus(); }")
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        here = page.evaluate(HERE)
        if here is None or (reached and here["stop"] == reached[0]):
            break
        if here["stop"] in (-1, last):  # what scrolls is reached besides, and a date has several parts
            continue
        last = here["stop"]
        reached.append(last)
        wrong += [f"{stops[last]} has no outline"] if not here["outlined"] else []
        wrong += [f"{stops[last]} is hidden behind something"] if not here["shown"] else []
    else:
        wrong.append("there is no end")
    wrong += [f"{stops[index]} is not reached" for index in range(len(stops)) if index not in reached]
    wrong += ["out of order"] if reached != sorted(reached) else []
    return wrong


@pytest.mark.parametrize(
    ("who", "name"),
    [
        (VISITOR, "home"),
        (VISITOR, "models"),
        (VISITOR, "reference"),
        (CUSTOMER, "usage"),
        (CUSTOMER, "key-new"),
    ],
)
def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(look, showroom, who, name):
    window = look(who)
    window.open(showroom.path(name))
    assert walk(window.page) == []


def test_the_keyboard_reaches_everything_of_a_result(look):
    window = look()
    window.open(f"/playground?model={TINY_EMBEDDING}")
    window.page.get_by_role("button", name="Run").press("Enter")
    expect(window.page.locator("[data-outcome]")).to_be_visible()
    assert walk(window.page) == []


@pytest.mark.parametrize(
    ("who", "names"), [(VISITOR, ("home", "playground", "reference")), (CUSTOMER, ("usage", "key"))]
)
def test_the_first_stop_leads_to_the_content(look, showroom, who, names):
    window = look(who)
    skip = window.page.get_by_role("link", name="Skip to content")
    for name in names:
        window.open(showroom.path(name))
        window.page.keyboard.press("Tab")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport(ratio=1)
        window.page.keyboard.press("Enter")
        window.page.keyboard.press("Tab")
        assert window.page.evaluate("() => document.querySelector('main').contains(document.activeElement)")
        expect(skip).not_to_be_in_viewport()


def test_on_a_phone_the_name_of_the_page_is_seen_in_the_navigation(look, showroom):
    window = look(CUSTOMER, screen="phone")
    for name in ("overview", "usage", "settings", "providers-offered"):
        window.open(showroom.path(name))
        here = window.page.get_by_role("navigation", name="Console").locator("[aria-current]")
        expect(here).to_have_count(1)
        expect(here).to_be_in_viewport(ratio=1)


def test_what_is_folded_is_unfolded_by_the_keyboard(look, showroom):
    window = look(CUSTOMER)
    for path in (showroom.path("key"), showroom.path("model-remote"), "/models", showroom.path("usage")):
        window.open(path)
        folded = window.page.locator("main details:not([open]) > summary")
        assert folded.count() > 0
        summary = folded.first.element_handle()
        for key, is_open in (("Enter", True), ("Space", False), ("Space", True)):
            summary.press(key)
            assert summary.evaluate("(summary) => summary.parentElement.open") is is_open
    window.open(showroom.path("key"))
    window.page.get_by_text("Revoke it").press("Enter")
    expect(window.page.get_by_role("button", name=re.compile("^Revoke "))).to_be_visible()


def test_tabs_are_changed_by_arrows_and_one_is_shown(look):
    window = look()
    window.open(f"/models/{TINY_EMBEDDING}")
    tabs = window.page.get_by_role("tablist", name="Programs").get_by_role("tab")
    shown = window.page.get_by_role("tabpanel").locator("visible=true")
    names = tabs.all_inner_texts()
    assert len(names) > 3
    tabs.first.focus()
    for key, chosen in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("ArrowRight", 0)):
        window.page.keyboard.press(key)
        expect(tabs.nth(chosen)).to_be_focused()
        expect(tabs.nth(chosen)).to_have_attribute("aria-selected", "true")
        expect(window.page.get_by_role("tab", selected=True)).to_have_count(1)
        expect(shown).to_have_count(1)
        expect(shown).to_have_accessible_name(names[chosen])


@pytest.mark.parametrize("path", ["/", f"/models/{TINY_EMBEDDING}"])
def test_a_button_copies_exactly_what_is_beside_it(look, path):
    window = look()
    window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    window.open(path)
    texts = []
    for block in window.page.locator("main [data-copy]").all():
        source = window.page.locator(f"#{block.get_attribute('data-copy')}")
        if not block.is_visible():
            tab = source.evaluate("(code) => code.closest('[role=tabpanel]').getAttribute('aria-labelledby')")
            window.page.locator(f"#{tab}").click()
        block.get_by_role("button").click()
        expect(block.get_by_role("button")).to_have_text("Copied")
        texts.append(window.page.evaluate("() => navigator.clipboard.readText()"))
        assert texts[-1] == source.text_content()
    assert len(set(texts)) == len(texts) >= 5
    assert sum(window.origin in text for text in texts) >= 5


def test_where_there_is_no_clipboard_no_button_offers_to_copy(look):
    """So it is where a gateway is reached over plain HTTP from another machine."""
    window = look()
    window.page.add_init_script("delete Navigator.prototype.clipboard")
    window.open("/")
    assert window.page.evaluate("() => navigator.clipboard === undefined")
    expect(window.page.get_by_role("tablist")).to_be_visible()
    expect(window.page.get_by_role("button", name="Copy")).to_have_count(0)


# The catalogue


def test_filters_apply_as_they_are_chosen_and_lead_to_the_same_list_as_the_api(look, api):
    window = look()
    window.open("/models")

    def ids():
        return [row["Model"].split("\n")[-1] for row in window.table("Table of models")]

    def wanted(**query):
        return [model["id"] for model in api[VISITOR].get("/v1/models", params=query).json()["data"]]

    everything = ids()
    assert everything == wanted()
    window.page.get_by_role("main").get_by_label("Kind").select_option("reranker")
    window.page.wait_for_url("**kind=reranker**")
    assert ids() == wanted(kind="reranker") != everything
    window.page.get_by_label("Sort by").select_option("price")
    window.page.wait_for_url("**sort=price**")
    assert ids() == wanted(kind="reranker", sort="price")
    window.page.get_by_label("Zero data retention").check()
    window.page.wait_for_url("**zdr=true**")
    assert ids() == wanted(kind="reranker", sort="price", zdr="true")
    window.page.get_by_role("main").get_by_label("Search").fill("4b")
    window.page.keyboard.press("Enter")
    window.page.wait_for_url("**q=4b**")
    assert ids() == wanted(kind="reranker", sort="price", zdr="true", q="4b")
    expect(window.page.get_by_label("Kind")).to_have_value("reranker")
    window.page.get_by_role("main").get_by_role("link", name="Clear").click()
    expect(window.page.get_by_role("main").get_by_label("Search")).to_have_value("")
    assert ids() == everything


def test_models_that_are_ticked_are_compared_and_others_chosen_there(look, api):
    window = look()
    window.open("/models")
    for model in EMBEDDINGS[:2]:
        window.page.get_by_role("row", name=model).get_by_role("checkbox").check()
    window.page.get_by_role("button", name="Compare those that are ticked").click()
    window.page.wait_for_url("**/compare?**")

    def prices():
        row = next(row for row in window.table("Comparison") if "Price" in row.values())
        return [number(text) for text in list(row.values())[1:]]

    def wanted(*models):
        entries = (api[VISITOR].get(f"/v1/models/{model}/endpoints").json()["data"] for model in models)
        return [number(entry["pricing"]["input"]).scaleb(6) for entry in entries]

    assert prices() == wanted(*EMBEDDINGS[:2])
    window.page.get_by_label("Model 3").select_option(EMBEDDINGS[2])
    window.page.wait_for_url(f"**model={EMBEDDINGS[2].replace('/', '%2F')}**")
    assert prices() == wanted(*EMBEDDINGS)
    assert len(set(prices())) == 3


def test_light_and_dark_are_chosen_and_stay(look):
    window = look(colours="light")
    window.open("/")
    page, root = window.page, window.page.locator("html")
    for chosen, is_dark in (("dark", True), ("light", False), ("auto", False)):
        page.get_by_role("button", name=re.compile("^Colours: ")).press("Enter")
        expect(root).to_have_attribute("data-theme", chosen)
        window.open("/models")
        expect(root).to_have_attribute("data-theme", chosen)
        assert page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches") is False
        colours = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colours)[:3])) < 3 * 127) is is_dark


# Keys


@dataclass
class Program:
    """A program that asks again and again with a key, until it is refused.

    Attributes:
        client: OpenAI's.
        answered: Set once it was answered.
        refused: When it was refused, by `time.monotonic`.
    """

    client: openai.OpenAI
    answered: threading.Event
    refused: float | None = None

    def run(self, most_seconds=10):
        """Ask until it is refused, or that time is over."""
        end = time.monotonic() + most_seconds
        while self.refused is None and time.monotonic() < end:
            try:
                assert self.client.embeddings.create(model=TINY_EMBEDDING, input="one").data[0].embedding
                self.answered.set()
                time.sleep(0.01)
            except openai.AuthenticationError:
                self.refused = time.monotonic()


def test_a_key_made_in_the_console_works_and_is_refused_within_a_second_of_its_end(look):
    window = look(CUSTOMER)
    window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, main = window.page, window.page.get_by_role("main")
    window.open("/console/keys")
    main.get_by_role("link", name="New key").click()
    main.get_by_label("Name", exact=True).fill("made in a browser")
    main.get_by_label("Requests a minute").fill("100,000")
    main.get_by_role("checkbox", name=TINY_EMBEDDING).check()
    main.get_by_role("button", name="Make the key").click()
    main.get_by_role("button", name="Copy").first.click()
    expect(main.get_by_role("button", name="Copied")).to_be_visible()
    key = page.evaluate("() => navigator.clipboard.readText()")
    assert KEY.fullmatch(key)
    main.get_by_role("link", name="I have copied it").click()
    expect(main.get_by_role("heading", level=1)).to_have_text("made in a browser")
    assert KEY.search(page.content()) is None
    main.get_by_text("Revoke it").click()
    client = openai.OpenAI(base_url=f"{window.origin}/v1", api_key=key, max_retries=0, timeout=10)
    program = Program(client, threading.Event())
    asking = threading.Thread(target=program.run)
    asking.start()
    try:
        assert program.answered.wait(10)
        start = time.monotonic()
        main.get_by_role("button", name="Revoke made in a browser").click()
        expect(main.get_by_role("status")).to_contain_text("The key is revoked")
    finally:
        asking.join()
        client.close()
    assert program.refused is not None
    assert program.refused - start < 1
    row = main.get_by_role("row", name="made in a browser")
    expect(row).to_contain_text("revoked")


def test_a_form_that_makes_something_is_sent_once_though_its_button_is_clicked_twice(look, api):
    window = look(CUSTOMER)
    window.open("/console/keys/new")
    main = window.page.get_by_role("main")
    main.get_by_label("Name", exact=True).fill("clicked twice")
    main.get_by_role("button", name="Make the key").dblclick()
    expect(main.get_by_role("heading", level=1)).to_have_text("clicked twice")
    keys = api[CUSTOMER].get("/v1/keys?limit=1000").json()["data"]
    assert sum(key["name"] == "clicked twice" for key in keys) == 1


# Signing in and out


def test_whoever_signs_in_with_a_key_comes_to_the_page_they_wanted_and_leaves(look, showroom):
    window = look()
    window.open("/console/ledger?kind=grant")
    assert window.path.startswith("/sign-in")
    window.page.get_by_label("API key").fill(showroom.keys["customer"])
    window.page.keyboard.press("Enter")
    window.page.wait_for_url("**/console/ledger?kind=grant")
    leave(window)


def leave(window):
    """Sign out, after which the console is closed."""
    window.page.get_by_role("button", name="Sign out").click()
    expect(window.page.get_by_role("banner").get_by_role("link", name="Sign in")).to_be_visible()
    assert window.path == "/"
    assert [cookie for cookie in window.page.context.cookies() if "session" in cookie["name"]] == []
    window.open("/console")
    assert window.path.startswith("/sign-in")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A gateway to which people sign in by an issuer, and the issuer's address."""
    with (
        issuers.issuer() as made,
        storefront(
            tmp_path_factory.mktemp("house"), issuers=[issuers.table(made)], environment=issuers.ENVIRONMENT
        ) as served,
    ):
        served.http.post("/v1/accounts", json={"slug": "acme", "name": "Acme"}).raise_for_status()
        yield served, made.url


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_whoever_signs_in_by_an_issuer_comes_back_to_the_page_they_wanted_and_leaves(look, house, host):
    """The issuer is of the same site as `127.0.0.1`, and of another than `localhost`: cookies of both come along."""
    served, issuer = house
    window = look(origin=served.url.replace("127.0.0.1", host), others=[issuer])
    window.open("/console/keys")
    with window.page.expect_request(lambda request: request.url.startswith(f"{issuer}/authorize")):
        window.page.get_by_role("link", name="Sign in with the house").click()
    window.page.wait_for_url("**/console/keys")
    expect(window.page.get_by_role("navigation", name="Console")).to_contain_text("Acme")
    leave(window)
