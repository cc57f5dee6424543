"""The API reference over a real gateway: all that the description says is on it, and its commands run as they are."""

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import httpx
import pytest
from markupsafe import escape

from quernel.gateway.routes import GATEWAY_ENDPOINTS, TAGS
from quernel.protocols.fields import CHANGES_NOTHING
from quernel.server.openapi import build_openapi
from quernel.web.config import WebConfig
from quernel.web.pages import HEADERS, make_templates
from quernel.web.reference import MOST_ADDRESSES, _Reader, draw_operations, read_reference
from quernel.web.snippets import KEY
from quernel.web.storefront import Storefront
from tests.support.storefront import Browser, Page, storefront

MOST_BYTES = 60_000
SECONDS = 30
HOSTILE = """<script>alert(1)</script><b>"it's" & {{ 7 * 7 }}"""


@dataclass
class Shown:
    """An operation on the page.

    Attributes:
        id: Its id.
        group: The heading above it.
        terms: Names of its parameters and fields, but not those of objects within.
        must: Those of them that are required.
        code: Its command.
        links: Where its links lead.
        words: All that is read in it.
    """

    id: str
    group: str
    terms: list = field(default_factory=list)
    must: list = field(default_factory=list)
    code: str = ""
    links: list = field(default_factory=list)
    words: list = field(default_factory=list)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


class Operations(HTMLParser):
    """The operations of the page."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self._group, self._depth, self._part = "", 0, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "h2":
            self._group, self._part = "", "group"
        elif tag == "details":
            if given.get("class") == "op":
                self.found.append(Shown(given["id"], self._group))
            self._depth += 1
        elif self._depth:
            shown = self.found[-1]
            if tag == "dt" and self._depth == 1:
                shown.terms.append("")
                self._part = "term"
            elif given.get("class") == "must" and self._depth == 1:
                shown.must.append(shown.terms[-1])
                self._part = None
            elif tag == "code" and given.get("id", "").endswith("-curl"):
                self._part = "code"
            elif tag == "a":
                shown.links.append(given["href"])

    def handle_endtag(self, tag):
        if tag in ("h2", "dt", "code"):
            self._part = None
        if tag == "details":
            self._depth -= 1

    def handle_data(self, data):
        if self._part == "group":
            self._group += data
        if self._depth:
            shown = self.found[-1]
            shown.words.append(data)
            if self._part == "term":
                shown.terms[-1] += data.strip()
            elif self._part == "code":
                shown.code += data


@pytest.fixture(scope="module", params=["", "/the shop's"], ids=["root", "below"])
def site(request, tmp_path_factory):
    with storefront(tmp_path_factory.mktemp("site"), root_path=request.param) as served:
        yield served, quote(request.param)


@pytest.fixture
def served(site):
    return site[0]


@pytest.fixture
def base(site):
    """Where the gateway is for who comes by a proxy."""
    return site[0].url + site[1]


@pytest.fixture
def browser(site):
    with Browser(site[0]) as browser:
        browser.base_url = site[0].url + site[1]
        yield browser


@pytest.fixture
def page(browser):
    return browser.open("/docs")


@pytest.fixture
def shown(page):
    """The operations on the page, by id; the bodies of errors are not among them."""
    return {one.id: one for one in Operations(page.html).found if one.group != "Errors"}


@pytest.fixture
def document(served):
    return httpx.get(f"{served.url}/openapi.json").json()


@pytest.fixture
def described(document):
    """The operations of the description: id to method, path and what it says."""
    return {
        said["operationId"]: (method.upper(), path, said)
        for path, methods in document["paths"].items()
        for method, said in methods.items()
    }


def shapes_of(document, content):
    """The objects that a body is."""
    ((media_type, said),) = content.items()
    schema = said["schema"] if media_type == "application/json" else {}
    options = schema.get("anyOf", [schema])
    names = [(option.get("items", option)).get("$ref", "").rpartition("/")[2] for option in options]
    return [document["components"]["schemas"][name] for name in names if name]


def parts_of(said):
    return json.dumps([said.get(part) for part in ("parameters", "requestBody", "responses")])


def twins_of(described):
    """The operations that have the same parts as one before them, to that one."""
    first = {}
    return {name: first.setdefault(parts_of(said), name) for name, (*_, said) in described.items()}


# What is on it


def test_every_operation_is_on_the_page_once(page, shown, described):
    assert page.status == 200
    assert sorted(shown) == sorted(described)
    assert page.html.count('<details class="op"') == len({one.id for one in Operations(page.html).found})
    for name, (method, path, _) in described.items():
        assert shown[name].text.startswith(f"{method} {path} ")


def test_operations_stand_under_their_tag_in_the_order_of_the_tags(page, shown, document, described):
    assert list(dict.fromkeys(one.group for one in shown.values())) == [tag["name"] for tag in document["tags"]]
    for name, (*_, said) in described.items():
        assert [shown[name].group] == said["tags"]
    for tag in document["tags"]:
        assert "".join(tag["description"].split("`")[:1]) in page.text


def test_every_field_of_every_operation_is_there(shown, document, described):
    twins = twins_of(described)
    seen = 0
    for name, (*_, said) in described.items():
        if twins[name] != name:
            continue
        expected = [parameter["name"] for parameter in said.get("parameters", ())]
        bodies = [said["requestBody"]] if "requestBody" in said else []
        for body in (*bodies, said["responses"]["200"]):
            for shape in shapes_of(document, body["content"]):
                expected += [
                    key for key, schema in shape["properties"].items() if schema.get("description") != CHANGES_NOTHING
                ]
        assert sorted(shown[name].terms) == sorted(expected), name
        seen += len(expected)
    assert seen > 300


def test_what_a_request_must_have_is_marked_and_comes_first(shown):
    assert shown["post_v1_embeddings"].must == ["input"]
    assert shown["post_v1_embeddings"].terms[0] == "input"
    assert shown["post_v1_rerank"].must == ["query", "documents"]
    assert shown["get_v1_generation"].must == ["id"]
    assert shown["post_v4_ai_embedding_model"].must == []  # as its twin
    assert shown["post_v1_ai_embedding_model"].must == ["ai-model-id"]


def test_fields_that_change_nothing_are_one_line(shown, document):
    fields = document["components"]["schemas"]["RerankBody"]["properties"]
    ignored = [name for name, schema in fields.items() if schema.get("description") == CHANGES_NOTHING]
    assert len(ignored) > 3
    one = shown["post_v1_rerank"]
    assert not set(ignored) & set(one.terms)
    assert "".join(one.words).count(f"changes nothing: {', '.join(ignored)}.") == 1


def test_errors_are_one_list(shown, described):
    twins = twins_of(described)
    for name, (*_, said) in described.items():
        for status, reply in said["responses"].items():
            if status != "200" and twins[name] == name:
                codes = re.findall(r"`(\w+)`", reply["description"])
                assert codes
                assert f"{status} {', '.join(codes)}" in shown[name].text
    assert "400 invalid_request, empty_input, input_too_long" in shown["post_v1_embeddings"].text


def test_bodies_of_errors_are_linked_and_told_once(page, shown, document):
    told = [one for one in Operations(page.html).found if one.group == "Errors"]
    assert {one.id for one in told} == {"ErrorReply", "GatewayErrorReply", "TeiErrorReply"}
    for one in told:
        assert one.terms == list(document["components"]["schemas"][one.id]["properties"])
    assert "#TeiErrorReply" in shown["post_embed"].links
    assert shown["post_rerank"].links == ["#ErrorReply", "#TeiErrorReply"]


def test_the_scope_or_that_no_key_is_taken_stands_beside_the_path(shown, described):
    scopes = set()
    for name, (method, path, said) in described.items():
        scope = re.search(r"Scope `(\w+)`\.$", said["summary"])
        pill = f"scope {scope[1]} " if scope else "" if "401" in said["responses"] else "no key "
        summary = re.sub(r" ?Scope `\w+`\.$", "", said["summary"]).replace("`", "")
        assert shown[name].text.startswith(f"{method} {path} {pill}{summary.split(' ')[0]} "), name
        scopes.add(pill)
    assert scopes == {"", "no key ", "scope read ", "scope manage ", "scope operate ", "scope metrics "}


def test_an_operation_that_repeats_another_refers_to_it(shown, described):
    for name, first in twins_of(described).items():
        method, path, _ = described[first]
        is_told = f"are those of {method} {path}" in shown[name].text
        assert is_told == (name != first)
        assert (f"#{first}" in shown[name].links) == is_told
    assert "POST /v1/embeddings" in shown["post_embeddings"].text


# The page


def test_each_id_is_there_once_and_every_link_leads_somewhere(page, browser, base):
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    wanted = {link[1:] for link in page.links if link.startswith("#")}
    for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls", "data-copy"):
        wanted |= {word for _, given in page.tags for word in given.get(name, "").split()}
    assert wanted <= set(ids)
    root = urlsplit(base).path
    for link in {link for link in page.links if link.startswith("/")}:
        assert link.startswith(f"{root}/")
        assert browser.get(link.removeprefix(root)).status_code == 200
    assert f"{root}/openapi.json" in page.links


def test_nothing_on_it_is_inline(page, browser):
    assert dict(browser.get("/docs").headers).items() >= HEADERS.items()
    assert not any("style" in given or any(name.startswith("on") for name in given) for _, given in page.tags)
    assert not any(tag == "style" for tag, _ in page.tags)
    assert all(given.get("src") for tag, given in page.tags if tag == "script")


def test_it_is_small_enough_to_be_there_at_once(browser):
    html = browser.get("/docs").content
    assert len(gzip.compress(html, 6)) < MOST_BYTES


def test_it_is_the_page_of_the_header(browser):
    current = [given for tag, given in browser.open("/docs").tags if given.get("aria-current") == "page"]
    assert [urlsplit(given["href"]).path.rpartition("/")[2] for given in current] == ["docs"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_takes_nothing(browser, method):
    assert browser.request(method, "/docs").status_code == 405


def test_below_it_there_is_nothing(browser):
    assert browser.open("/docs/none").status == 404


# Its commands


def run(code, key, folder):
    """What a command prints; a refusal is a failure."""
    for command in ("bash", "curl"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")
    (folder / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    environment = {**os.environ, KEY: key, "CURL_HOME": str(folder)}
    ran = subprocess.run(
        ["bash", "-c", code], env=environment, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False
    )
    assert ran.returncode == 0, f"{code}\n{ran.stderr}"
    return ran.stdout


def test_every_command_runs_as_it_is(served, base, shown, described, tmp_path):
    commands = {name: one.code for name, one in shown.items() if one.code}
    assert commands.keys() >= {
        "post_v1_embeddings",
        "post_v2_rerank",
        "post",
        "post_score",
        "get_v1_models",
        "get_v1_keys",
    }
    for name, code in commands.items():
        _, path, said = described[name]
        assert quote(path) in code
        printed = run(code, served.key if "authorization" in code else "", tmp_path)
        assert printed
        if "application/json" in said["responses"]["200"]["content"]:
            json.loads(printed)


def test_a_command_gives_what_the_api_gives(served, shown, tmp_path):
    printed = json.loads(run(shown["post_v1_embeddings"].code, served.key, tmp_path))
    texts = ["Paris is the capital of France.", "Bananas are yellow."]
    reply = served.http.post("/v1/embeddings", json={"input": texts}).json()
    assert [row["embedding"] for row in printed["data"]] == [row["embedding"] for row in reply["data"]]


def test_what_has_to_be_filled_in_is_no_command(shown, described):
    for name, (method, _, said) in described.items():
        has_blank = any(parameter["required"] for parameter in said.get("parameters", ()))
        if has_blank or method in ("PATCH", "PUT", "DELETE"):
            assert not shown[name].code, name
        elif method == "GET":
            assert shown[name].code
            assert (KEY in shown[name].code) == ("401" in said["responses"])


def test_every_visitor_has_the_address_by_which_they_came(served, base):
    root = urlsplit(base).path
    hosts = [f"shop-{number}.example.com" for number in range(MOST_ADDRESSES + 2)]
    for host in (*hosts, hosts[0]):
        html = httpx.get(f"{base}/docs", headers={"host": host}).text
        codes = [one.code for one in Operations(html).found if one.code]
        assert all(f"http://{host}{root}/" in code for code in codes)
        assert len(codes) > 20
    html = httpx.get(f"{base}/docs", headers={"host": "evil;id"}).text
    assert "evil" not in html
    assert served.url in html


# How it is read


def test_the_description_is_asked_for_once_and_again_after_a_failure():
    async def gateway(scope, receive, send):
        asked.append(scope["path"])
        status, body = replies.pop(0)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def ask():
        transport = httpx.ASGITransport(front)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return [(await client.get("/docs")).status_code for _ in range(3)]

    asked = []
    replies = [
        (503, b'{"error": {"message": "Not now."}}'),
        (200, json.dumps(build_openapi(GATEWAY_ENDPOINTS)).encode()),
    ]
    front = Storefront(gateway, config=WebConfig(), secret=bytes(32))
    assert asyncio.run(ask()) == [503, 200, 200]
    assert asked == ["/openapi.json"] * 2


def document_of(schema, **more):
    """A document of one operation that takes `Body`, whose one field is of that schema."""
    shapes = {"Body": {"properties": {"field": schema}, **more}, "Part": {"properties": {"one": {"type": "string"}}}}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}
    reply = {"description": "Success.", "content": {"application/json": {"schema": {"type": "object"}}}}
    said = {
        "operationId": "post_it",
        "summary": "It.",
        "tags": ["A tag"],
        "requestBody": {"content": content},
        "responses": {"200": reply},
    }
    return {
        "tags": [{"name": "A tag", "description": "About it."}],
        "paths": {"/it": {"post": said}},
        "components": {"schemas": {**shapes, "Kind": {"enum": ["a", "b"]}}},
    }


def drawn(document):
    return draw_operations(make_templates(), read_reference(document), "http://gateway")


def field_of(schema, **more):
    ((operation,),) = (group.operations for group in read_reference(document_of(schema, **more)).groups)
    ((found,),) = (shape.fields for shape in operation.request.shapes)
    return found


A, B = "<code>&#34;a&#34;</code>", "<code>&#34;b&#34;</code>"
PART, KIND = {"$ref": "#/components/schemas/Part"}, {"$ref": "#/components/schemas/Kind"}
STRING, INTEGER, NUMBER, NULL = ({"type": name} for name in ("string", "integer", "number", "null"))


def list_of(schema):
    return {"type": "array", "items": schema}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (STRING, "string"),
        ({}, "anything"),
        (list_of({}), "list of anything"),
        (list_of(list_of(NUMBER)), "list of lists of numbers"),
        ({"anyOf": [STRING, NULL]}, "string or null"),
        ({"anyOf": [STRING, list_of(STRING)]}, "string or list of strings"),
        ({"anyOf": [STRING, list_of({"anyOf": [STRING, INTEGER]})]}, "string, or list of strings or integers"),
        ({"anyOf": [STRING, STRING]}, "string"),
        ({"anyOf": [STRING, PART, INTEGER]}, "string, Part or integer"),
        ({"enum": ["a"]}, A),
        ({"enum": [True, -1]}, "<code>true</code> or <code>-1</code>"),
        (KIND, f"{A} or {B}"),
        (list_of(KIND), f"list of {A} or {B}"),
        (PART, "Part"),
        (list_of(PART), "list of Part"),
        ({"type": "object"}, "object"),
        ({"type": "object", "additionalProperties": STRING}, "object of strings"),
        (list_of({"type": "object", "additionalProperties": {"type": "object"}}), "list of objects of objects"),
    ],
)
def test_a_type_is_said_in_words(schema, words):
    assert _Reader({"Part": {"properties": {}}, "Kind": {"enum": ["a", "b"]}})._words(schema) == words


def test_null_is_not_said_where_it_is_what_is_left_out():
    nullable = {"anyOf": [STRING, NULL]}
    assert field_of({**nullable, "default": None}).type == "string"
    assert field_of(nullable).type == "string or null"
    assert field_of({**nullable, "default": "a"}).type == "string or null"


@pytest.mark.parametrize(
    ("schema", "about"),
    [
        (STRING, ""),
        ({**STRING, "description": "What `it` is."}, "What <code>it</code> is."),
        ({"description": "One.", "anyOf": [{**STRING, "description": "Two."}, NULL]}, "One. Two."),
        ({**STRING, "description": "Lines\n\n    run on."}, "Lines run on."),
        ({**STRING, "default": "a"}, f"By default {A}."),
        ({"type": "boolean", "default": False}, "By default <code>false</code>."),
        ({**INTEGER, "default": 0}, "By default <code>0</code>."),
        ({**STRING, "default": ""}, ""),
        ({**STRING, "examples": ["a", "b"]}, f"Such as {A}."),
        ({**INTEGER, "minimum": 1}, "At least 1."),
        ({**INTEGER, "minimum": 1, "maximum": 128}, "1 to 128."),
        ({**INTEGER, "minimum": 0, "maximum": 2**63 - 1}, ""),
        ({"anyOf": [{**STRING, "maxLength": 200}, NULL], "default": None}, "At most 200 characters."),
    ],
)
def test_a_field_says_what_it_is_what_bounds_it_and_what_it_is_by_default(schema, about):
    assert field_of(schema).about == about


def test_objects_within_objects_are_told_and_none_within_itself():
    found = field_of(list_of(PART))
    assert [(shape.name, [one.name for one in shape.fields]) for shape in found.shapes] == [("Part", ["one"])]
    assert field_of({"$ref": "#/components/schemas/Body"}).shapes == ()


def test_a_body_is_an_example_where_all_that_it_must_have_has_one():
    def example(schema, **more):
        return read_reference(document_of(schema, **more)).groups[0].operations[0].example

    assert example({**STRING, "examples": ["it's"]}, required=["field"]) == {"field": "it's"}
    assert example(STRING, required=["field"]) is example(STRING) is None


def test_hostile_texts_stay_texts():
    document = document_of(
        {"enum": [HOSTILE], "default": HOSTILE, "examples": [HOSTILE], "description": f"`{HOSTILE}`"}
    )
    plain = tags_of(drawn(document_of({"enum": ["a"], "default": "a", "examples": ["a"], "description": "`a`"})))
    shapes = document["components"]["schemas"]
    shapes["Body"] |= {"description": HOSTILE, "required": [HOSTILE]}
    shapes["Body"]["properties"] |= {HOSTILE: {"type": HOSTILE}, f"{HOSTILE}!": {"description": CHANGES_NOTHING}}
    shapes["Part"]["description"] = HOSTILE
    document["tags"] = [{"name": HOSTILE, "description": HOSTILE}]
    said = document["paths"].pop("/it")["post"]
    document["paths"][HOSTILE] = {"post": said | {"operationId": HOSTILE, "summary": HOSTILE, "tags": [HOSTILE]}}
    html = drawn(document)
    assert html.count(escape(HOSTILE)) > 8
    assert "<script" not in html
    assert "49" not in html
    assert tags_of(html) - plain <= {"span", "p", "code", "pre"}


def tags_of(html):
    page = Page(httpx.Response(200, text=html, request=httpx.Request("GET", "http://gateway")))
    return {tag for tag, _ in page.tags}


# Tags


def test_every_operation_has_one_tag_of_the_list(document, described):
    tags = [tag["name"] for tag in document["tags"]]
    assert tags == [tag.name for tag in TAGS]
    assert len(tags) == len(set(tags))
    assert all(tag["description"] for tag in document["tags"])
    assert all(len(said["tags"]) == 1 and said["tags"][0] in tags for *_, said in described.values())


def test_the_description_of_a_gateway_is_valid_openapi():
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(build_openapi(GATEWAY_ENDPOINTS))
