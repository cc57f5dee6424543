"""The playground over a real gateway: what its page says is what the API says, and what is typed stays text."""

import base64
import json
import re
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote

import httpx
import numpy as np
import pytest

from quernel.gateway.app import create_gateway_app
from quernel.gateway.config import GatewayConfig
from quernel.gateway.opening import Tables, open_gateway
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.web.config import WebConfig
from quernel.web.playground import waiting
from quernel.web.samples import SAMPLES, join_texts, split_texts
from quernel.web.storefront import Storefront
from quernel.web.trial import MOST_CHARACTERS, MOST_TEXTS
from tests.support.canaries import no_canaries

EMBEDDER, RERANKER = "fake/embedding", "fake/reranker"
QUERY = "is the sea wide"
TEXTS = ("the sea is wide", "a mill grinds grain", "two stones", "grain to flour", "wide is the sea")
HOSTILE = (
    "<script>alert(1)</script>",
    """"'><img src=x onerror=alert(1)>""",
    "</textarea></template><!-- {{ 7 * 7 }} {% raw %}",
    "שלום \u202eעולם\u202c",
    "family \U0001f469\u200d\U0001f469\u200d\U0001f467 \u2028 line",
    "a\x00b & &amp; $(id) `id` \\' '; echo",
    "x" * MOST_CHARACTERS,
)
PRICES = [{"usd_per_million_tokens": "7", "usd_per_thousand_documents": "3"}]


@dataclass(frozen=True)
class Site:
    """A gateway with its pages.

    Attributes:
        url: Where.
        key: The operator's key.
        embedder: Its embedding model.
        reranker: Its reranker.
        browser: Asks for pages as a browser does that shows them.
    """

    url: str
    key: str
    embedder: FakeEmbeddingModel
    reranker: FakeRerankModel
    browser: httpx.Client

    def play(self, model, texts, query="", *, browser=None, **fields):
        """The reply to the form."""
        form = {"model": model, "query": query, "texts": "\r\n".join(texts), **fields}
        return (browser or self.browser).post("/playground", data=form)

    def ask(self, path, **body):
        """The reply of the API to somebody without a key."""
        return httpx.post(self.url + path, json=body)

    def cosines(self, *, dimensions=None):
        """How like each other the query and the texts are, by the API's own vectors."""
        cut = {} if dimensions is None else {"dimensions": dimensions}
        found = [
            *self.ask("/v1/embeddings", model=EMBEDDER, input=[QUERY], input_type="query", **cut).json()["data"],
            *self.ask("/v1/embeddings", model=EMBEDDER, input=TEXTS, **cut).json()["data"],
        ]
        vectors = np.array([row["embedding"] for row in found])
        return vectors @ vectors.T


@contextmanager
def serving(folder, *, models=(EMBEDDER, RERANKER), root_path="", **settings):
    """A gateway with pages that answers visitors, on the models of `quernel.testing`."""
    embedder, reranker = FakeEmbeddingModel(EMBEDDER, dimensions=64), FakeRerankModel(RERANKER)
    local = {model.info.name: model for model in (embedder, reranker) if model.info.name in models}
    offered = [{"model": name, "prices": PRICES} for name in local]
    parts = open_gateway(
        GatewayConfig(**{"demo_usd_a_day": "1", "demo_requests_a_day": 10_000, **settings}),
        database=f"sqlite:///{folder}/gateway.db",
        tables=Tables(providers=[{"slug": "here", "format": "local", "models": offered}]),
        local=local,
    )
    config = ServerConfig(port=0, shutdown_grace_seconds=1, access_log=False)
    app = Storefront(
        create_gateway_app(parts, config=config), config=WebConfig(), secret=bytes(32), root_path=root_path
    )
    headers = {"sec-fetch-site": "same-origin", "accept": "text/html"}
    with (
        no_canaries(),
        running(app, config) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as browser,
    ):
        yield Site(url, parts.first_key, embedder, reranker, browser)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("site")) as served:
        yield served


class Page(HTMLParser):
    """What a browser finds in a page: the content of its fields, the cells of its tables, all of its text."""

    def __init__(self, reply):
        super().__init__()
        self.fields, self.tables, self.addresses, self.tags, self.notices = {}, {}, [], [], []
        self.selected, self.codes, self.data = None, [], None
        self._field = self._row = self._cell = self._notice = self._code = self._script = None
        self._hidden = False
        self.feed(reply.text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.addresses += [given[name] for name in ("href", "src", "action") if name in given]
        if tag == "textarea":
            self._field = given["name"]
            self.fields[self._field] = ""
        if tag == "input" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")
        if tag == "option" and "selected" in given:
            self.selected = given["value"]
        if tag == "table":
            self._rows = self.tables.setdefault(given.get("class"), [])
        if tag == "tr":
            self._row = []
            self._rows.append(self._row)
        if tag in ("td", "th"):
            self._cell = ""
        if tag == "template":
            self._hidden = True
        if given.get("role") == "alert" and not self._hidden:
            self.notices.append("")
            self._notice = tag
        if tag == "code" and given.get("id", "").startswith("snippet-"):
            self.codes.append("")
            self._code = True
        if "data-vectors" in given:
            self._script = True

    def handle_endtag(self, tag):
        if tag == "textarea":
            self.fields[self._field] = self.fields[self._field].removeprefix("\n")
            self._field = None
        if tag in ("td", "th"):
            self._row.append(" ".join(self._cell.split()))
            self._cell = None
        if tag == "template":
            self._hidden = False
        if tag == self._notice:
            self._notice = None
        if tag == "code":
            self._code = None
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._field is not None:
            self.fields[self._field] += data
        if self._cell is not None:
            self._cell += data
        if self._notice is not None:
            self.notices[-1] += data
        if self._code:
            self.codes[-1] += data
        if self._script:
            self.data = json.loads(data)


def test_the_form_offers_every_model_and_has_a_sample_in_it(site):
    reply = site.browser.get("/playground")
    page = Page(reply)
    assert reply.status_code == 200
    assert {given["value"] for tag, given in page.tags if tag == "option"} == {EMBEDDER, RERANKER}
    assert page.fields["texts"] == join_texts(SAMPLES[0].texts)
    assert page.fields["query"] == SAMPLES[0].query


def test_the_address_chooses_model_and_sample(site):
    page = Page(site.browser.get("/playground", params={"model": RERANKER.upper(), "sample": "code"}))
    assert page.selected == RERANKER
    assert "dict.fromkeys" in page.fields["texts"]


def test_a_model_that_there_is_not_is_said_and_another_chosen(site):
    page = Page(site.browser.get("/playground", params={"model": "<b>none"}))
    assert page.selected == EMBEDDER
    assert "'<b>none' is no model" in page.notices[0]


@pytest.mark.parametrize("dimensions", [None, 32])
def test_similarities_are_those_of_the_apis_vectors(site, dimensions):
    page = Page(site.play(EMBEDDER, TEXTS, QUERY, dimensions=dimensions or ""))
    shown = [[float(cell) for cell in row[1:]] for row in page.tables["heat"][1:]]
    np.testing.assert_allclose(shown, site.cosines(dimensions=dimensions), atol=0.0051)


def test_texts_are_ordered_by_the_cut_vectors_and_say_how_far_they_moved(site):
    page = Page(site.play(EMBEDDER, TEXTS, QUERY, dimensions="32"))
    before, now = site.cosines()[0, 1:], site.cosines(dimensions=32)[0, 1:]
    places = np.argsort(np.argsort(-before)) + 1
    rows = page.tables["order"][1:]
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4, 5]
    moved = set()
    for place, (row, index) in enumerate(zip(rows, np.argsort(-now), strict=True), start=1):
        up = places[index] - place
        moved.add(np.sign(up))
        assert row[1] == f"{index + 1}{TEXTS[index]}"
        assert float(row[2]) == pytest.approx(now[index], abs=0.00051)
        assert row[3] == ("same" if up == 0 else f"up {up}" if up > 0 else f"down {-up}")
        assert row[4] == f"{places[index]}. {before[index]:.3f}"
    assert moved > {0} or moved == {1, -1}, "nothing has moved, so the test shows nothing"


def test_scores_are_the_rerankers(site):
    page = Page(site.play(RERANKER, TEXTS, QUERY))
    results = site.ask("/v1/rerank", model=RERANKER, query=QUERY, documents=TEXTS).json()["results"]
    shown = [(row[1], row[2], row[4]) for row in page.tables["order"][1:]]
    expected = [(row["index"], row["relevance_score"]) for row in results]
    assert shown == [(f"{index + 1}{TEXTS[index]}", f"{score:.3f}", f"{index + 1}.") for index, score in expected]


@pytest.mark.parametrize(("model", "query"), [(EMBEDDER, ""), (EMBEDDER, QUERY), (RERANKER, QUERY)])
def test_tokens_and_cost_are_those_that_the_books_have(site, model, query):
    reply = site.play(model, TEXTS, query)
    rows = Page(reply).tables["cards"][1:]
    tokens, cost = 0, 0.0
    for row in rows:
        entry = httpx.get(f"{site.url}/v1/generation", params={"id": row[5]}, headers=bearer(site)).json()["data"]
        assert (row[1], row[2]) == (str(entry["native_tokens_prompt"]), f"${entry['total_cost']:.12f}".rstrip("0"))
        assert row[4] == entry["provider_name"] == "here"
        tokens, cost = tokens + entry["native_tokens_prompt"], cost + entry["total_cost"]
    assert len(rows) == (2 if model == EMBEDDER and query else 1)
    assert cost > 0
    assert re.findall(r"<dt>(?:Tokens|Cost)</dt><dd>(.*?)</dd>", reply.text) == [
        str(tokens),
        f"${cost:.12f}".rstrip("0"),
    ]


def bearer(site):
    return {"authorization": f"Bearer {site.key}"}


def test_a_script_gets_the_part_alone_with_the_whole_vectors(site):
    reply = site.play(EMBEDDER, TEXTS, QUERY, part="result", dimensions="32")
    page = Page(reply)
    assert reply.headers["x-quernel-part"] == "result"
    assert "<html" not in reply.text
    vectors = np.frombuffer(base64.b64decode(page.data["numbers"]), dtype="<f4").reshape(-1, page.data["whole"])
    asked = site.ask("/v1/embeddings", model=EMBEDDER, input=TEXTS).json()["data"]
    assert page.data["hasQuery"]
    assert np.array_equal(vectors[1:], np.array([row["embedding"] for row in asked], dtype=np.float32))


def test_the_instruction_is_for_the_query_and_without_one_for_the_texts(site):
    site.embedder.requests.clear()
    site.play(EMBEDDER, TEXTS, QUERY, instruction=" Find the sea ")
    site.play(EMBEDDER, TEXTS, "", instruction="Find the sea")
    site.play(EMBEDDER, TEXTS, "")
    asked = {(len(request.inputs), request.instruction) for request in site.embedder.requests}
    assert asked == {(1, "Find the sea"), (5, None), (5, "Find the sea")}
    assert "Order by" not in site.play(EMBEDDER, TEXTS, "").text


@pytest.mark.parametrize("part", ["", "result"])
@pytest.mark.parametrize("model", [EMBEDDER, RERANKER])
def test_what_is_typed_is_text_and_nothing_else(site, model, part):
    query = "<b>query</b> \"'"
    reply = site.play(model, HOSTILE, query, instruction="</textarea><script>", part=part)
    page = Page(reply)
    assert reply.status_code == 200, page.notices
    rows = {re.sub(r"^\d+", "", row[1]) for row in page.tables["order"][1:]}
    assert rows == {" ".join(text.split()) for text in HOSTILE}
    names = [tag for tag, given in page.tags if tag in ("b", "img") or "onerror" in given]
    assert names == []
    for tag, given in page.tags:
        assert tag != "script" or "src" in given or given.get("type") == "application/json"
        assert "style" not in given
    if not part:
        assert split_texts(page.fields["texts"]) == list(HOSTILE)
        assert (page.fields["query"], page.fields["instruction"]) == (query, "</textarea><script>")


def test_texts_are_in_no_address_and_in_no_cache(site):
    for part in ("", "result"):
        reply = site.play(EMBEDDER, ["a secret nobody is told", "two"], "secret query", part=part)
        assert reply.headers["cache-control"] == "no-store"
        assert "set-cookie" not in reply.headers
        assert not [address for address in Page(reply).addresses if "secret" in unquote(address)]


@pytest.mark.parametrize(
    ("model", "texts", "fields", "message"),
    [
        (EMBEDDER, [str(number) for number in range(MOST_TEXTS + 1)], {}, "There are 25 texts"),
        (RERANKER, ["short", "x" * (MOST_CHARACTERS + 1)], {"query": "q"}, "Text 2 has 2,001 characters"),
        (EMBEDDER, ["short"], {"query": "x" * (MOST_CHARACTERS + 1)}, "The query has 2,001 characters"),
        (EMBEDDER, ["short"], {"instruction": "x" * 5000}, "The instruction has 5,000 characters"),
        (EMBEDDER, ["", "  "], {}, "There is no text"),
        (RERANKER, ["short"], {"query": " "}, "A reranker needs a query"),
        (EMBEDDER, ["short"], {"dimensions": "many"}, "many is no number"),
        (EMBEDDER, ["short"], {"dimensions": "9" * 5000}, "is no number"),
        ("none/<b>", ["short"], {}, "'none/<b>' is no model"),
    ],
)
def test_what_is_too_much_is_refused_and_kept_in_the_form(site, model, texts, fields, message):
    site.embedder.requests.clear()
    site.reranker.requests.clear()
    reply = site.play(model, texts, **fields)
    page = Page(reply)
    assert reply.status_code in (400, 404)
    assert message in page.notices[0]
    assert page.fields["texts"] == "\r\n".join(texts)
    assert page.fields["query"] == fields.get("query", "")
    assert not site.embedder.requests
    assert not site.reranker.requests


def test_the_most_that_is_allowed_is_answered(site):
    reply = site.play(EMBEDDER, ["é" * MOST_CHARACTERS] * MOST_TEXTS, "é" * MOST_CHARACTERS)
    assert reply.status_code == 200
    assert len(Page(reply).tables["heat"]) == 1 + 1 + MOST_TEXTS


def test_one_text_alone_has_no_map(site):
    page = Page(site.play(EMBEDDER, ["alone"]))
    assert "heat" not in page.tables
    assert not page.notices


def test_dimensions_beyond_what_the_model_has_are_all_of_them(site):
    assert "<strong>64</strong> of 64" in site.play(EMBEDDER, TEXTS, dimensions="100000").text
    assert "<strong>32</strong> of 64" in site.play(EMBEDDER, TEXTS, dimensions="1").text


def test_a_text_that_the_model_cannot_read_is_the_apis_message(site):
    reply = site.play(EMBEDDER, ["word " * 380, "and " * 380], "", instruction="word " * 200)
    assert reply.status_code == 400
    assert "but this model reads 512. Shorten it" in Page(reply).notices[0]


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}]
)
def test_a_form_of_another_site_is_refused(site, headers):
    site.embedder.requests.clear()
    reply = httpx.post(f"{site.url}/playground", data={"model": EMBEDDER, "texts": "one"}, headers=headers)
    assert reply.status_code == 403
    assert not site.embedder.requests


def test_a_body_without_end_is_refused(site):
    assert site.play(EMBEDDER, ["x" * 2**20]).status_code == 413


def test_the_same_as_curl_is_one_request_each(site):
    command = Page(site.play(EMBEDDER, HOSTILE, QUERY)).codes[0]
    parts = shlex.split(command.replace("\\\n", ""))
    bodies = [json.loads(parts[index + 1]) for index, part in enumerate(parts) if part == "-d"]
    assert [part for part in parts if part.startswith("http")] == [f"{site.url}/v1/embeddings"] * 2
    assert bodies == [
        {"model": EMBEDDER, "input": list(HOSTILE), "input_type": "document"},
        {"model": EMBEDDER, "input": [QUERY], "input_type": "query"},
    ]


@pytest.mark.parametrize(("model", "query"), [(EMBEDDER, QUERY), (EMBEDDER, ""), (RERANKER, QUERY)])
def test_the_same_in_python_asks_the_same(site, monkeypatch, model, query):
    monkeypatch.setenv("QUERNEL_API_KEY", site.key)
    asked = site.reranker if model == RERANKER else site.embedder
    asked.requests.clear()
    page = Page(site.play(model, HOSTILE, query, instruction="Find 'it'"))
    expected = [(request, request.instruction) for request in asked.requests]
    for code in page.codes[1:-1]:
        asked.requests.clear()
        exec(code, {})
        found = [(request, request.instruction) for request in asked.requests]
        assert sorted(found, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("model", [EMBEDDER, RERANKER])
def test_the_same_in_javascript_asks_the_same(site, tmp_path, model):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    asked = site.reranker if model == RERANKER else site.embedder
    asked.requests.clear()
    page = Page(site.play(model, HOSTILE, QUERY, instruction="Find 'it'"))
    expected = sorted(map(str, asked.requests))
    asked.requests.clear()
    program = tmp_path / "program.mjs"
    program.write_text(page.codes[-1], encoding="utf-8")
    subprocess.run([node, program], env={"QUERNEL_API_KEY": site.key}, check=True, timeout=60, capture_output=True)
    assert sorted(map(str, asked.requests)) == expected


def test_without_an_allowance_visitors_are_asked_to_sign_in_and_keep_their_texts(tmp_path):
    with serving(tmp_path, demo_usd_a_day="0") as served:
        page = Page(refused := served.play(EMBEDDER, TEXTS, QUERY))
        assert refused.status_code == 401
        assert "Sign in" in page.notices[0]
        assert "/sign-in?next=%2Fplayground" in page.addresses
        assert split_texts(page.fields["texts"]) == list(TEXTS)
        assert served.play(EMBEDDER, TEXTS, QUERY, part="result").headers["x-quernel-part"] == "result"
        served.browser.post("/sign-in", data={"key": served.key, "next": "/playground"})
        assert served.play(EMBEDDER, TEXTS, QUERY).status_code == 200


def test_a_session_that_ended_is_said_in_place(tmp_path):
    with serving(tmp_path) as served:
        with httpx.Client(base_url=served.url, headers=bearer(served)) as keys:
            made = keys.post("/v1/keys", json={"name": "short"}).json()
            served.browser.post("/sign-in", data={"key": made["key"]})
            assert "On your key" in served.browser.get("/playground").text
            keys.delete(f"/v1/keys/{made['id']}")
            reply = served.play(EMBEDDER, TEXTS, QUERY)
        page = Page(reply)
        assert reply.status_code == 401
        assert "Your session has ended" in page.notices[0]
        assert split_texts(page.fields["texts"]) == list(TEXTS)
        assert served.play(EMBEDDER, TEXTS, QUERY).status_code == 200, "now a visitor like others"


def test_a_gateway_without_such_models_says_so(tmp_path):
    with serving(tmp_path, models=()) as served:
        reply = served.browser.get("/playground")
        assert "No embedding model and no reranker" in reply.text
        assert served.play(EMBEDDER, TEXTS).status_code == 404


def test_addresses_begin_with_what_a_proxy_has_before_them(tmp_path):
    with serving(tmp_path, root_path="/shop") as served:
        page = Page(served.play(EMBEDDER, TEXTS))
        assert "/shop/playground" in page.addresses
        assert f"{served.url}/shop/v1/embeddings" in page.codes[0]


def test_a_limit_says_how_long_to_wait(tmp_path):
    with serving(tmp_path, demo_requests_a_day=1) as served:
        assert served.play(EMBEDDER, TEXTS).status_code == 200
        reply = served.play(EMBEDDER, TEXTS)
        assert reply.status_code == 429
        assert re.search(r"Try again in \d+ (h|min|sec)", Page(reply).notices[0])
        assert "Sign in with a key" in Page(reply).notices[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 second"), (40, "40 seconds"), (700, "12 minutes"), (19_200, "5 h 20 min"), (86_400, "24 h 0 min")],
)
def test_a_wait_is_said_in_words(seconds, words):
    assert waiting(seconds) == words


def test_every_sample_fits_the_form_and_is_read_back():
    for sample in SAMPLES:
        assert split_texts(join_texts(sample.texts)) == list(sample.texts)
        assert 2 <= len(sample.texts) <= MOST_TEXTS
        assert sample.query
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES)
