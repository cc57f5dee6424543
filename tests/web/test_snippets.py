"""The programs that pages show, taken from the pages and run as they are: what they print is what the API says."""

import ast
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from quernel.gateway.models import GatewayKind
from quernel.web.pages import Pages
from quernel.web.snippets import EMBEDDING_TEXTS, KEY, QUERY, TEMPLATES, curl, snippets_of, within_quotes
from tests.support import chats
from tests.support.gateway import Served
from tests.support.provider import provider
from tests.support.storefront import EMBEDDER, RERANKER, fakes, storefront

ROOT = Path(__file__).parents[2]
PACKAGES = {"ai": ROOT / "tests/clients/ai_sdk/ai7", "openai": ROOT / "examples"}
"""Package of JavaScript to where it is installed."""

SECONDS = 60
ANSWER = 'Paris, "of course".'
DOCUMENTS = EMBEDDING_TEXTS[::-1]
ODD = """od'd/"it's" \\n back\\slash $HOME `id` {model} {origin} %41?a=b#c & <b>é</b> \\"""
"""A name that providers may have for a model: all that can be printed."""

NAMES = {
    "plain": {"embedding": EMBEDDER, "reranker": RERANKER, "chat": chats.CHAT},
    "odd": {kind: f"{ODD} {kind}" for kind in TEMPLATES},
}
PATHS = {"plain": "", "odd": "/the shop's"}
PROGRAMS = [(kind, name) for kind, programs in TEMPLATES.items() for name, *_ in programs]

each_program = pytest.mark.parametrize(("kind", "name"), PROGRAMS)


@dataclass
class Program:
    """A program on a page.

    Attributes:
        name: What its tab says.
        install: The line above it.
        code: Its text.
    """

    name: str
    install: str = ""
    code: str = ""


class Programs(HTMLParser):
    """The programs of a page, as its visitors copy them."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self._copied = self._part = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "data-tab" in given:
            self.found.append(Program(given["data-tab"]))
            self._copied = None
        elif given.get("data-copy", "").startswith("snippet-"):
            self._copied, self._part = given["data-copy"], "install"
        elif tag == "code" and self._copied and given.get("id") == self._copied:
            self._part = "code"

    def handle_endtag(self, tag):
        if tag in ("code", "span"):
            self._part = None

    def handle_data(self, data):
        if self._part:
            program = self.found[-1]
            setattr(program, self._part, getattr(program, self._part) + data)


@dataclass
class Site:
    """A gateway with its pages, and a folder in which the packages of JavaScript are.

    Attributes:
        served: The gateway.
        names: Kind to the name of its model.
        folder: The folder.
        base: Where the API is, as visitors reach it.
    """

    served: Served
    names: dict
    folder: Path
    base: str
    pages: dict = field(default_factory=dict)

    def programs(self, kind):
        """The programs on the page of a model, by name."""
        if kind not in self.pages:
            page = httpx.get(f"{self.base}/models/{quote(self.names[kind])}", headers={"accept": "text/html"})
            assert page.status_code == 200
            self.pages[kind] = {program.name: program for program in Programs(page.text).found}
        return self.pages[kind]

    def run(self, kind, name):
        """What a program prints."""
        program = self.programs(kind)[name]
        ran = subprocess.run(
            self._command(name, program),
            env={**os.environ, KEY: self.served.key},
            cwd=self.folder,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        assert ran.returncode == 0, f"{program.code}\n{ran.stderr}"
        return ran.stdout

    def _command(self, name, program):
        if name == "curl":
            needs("bash", "curl")
            return ["bash", "-c", program.code]
        language, package = name.split(", ")
        if language == "Python":
            assert program.install == f"pip install {package}"
            pytest.importorskip(package, reason=f"{package} is not installed (dependency group `clients`)")
            return [sys.executable, "-c", program.code]
        assert program.install == f"npm install {package}"
        needs("node")
        home = PACKAGES[package]
        if not (home / "node_modules" / package).is_dir():
            pytest.skip(f"{package} is not installed (npm ci --prefix {home.relative_to(ROOT)})")
        return ["node", "--input-type=module", "--eval", program.code]

    def post(self, path, **body):
        """What the API answers."""
        reply = self.served.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def vectors(self, *texts, **more):
        """What the API has for texts."""
        return np.array(
            [
                one["embedding"]
                for one in self.post("/v1/embeddings", model=self.names["embedding"], input=texts, **more)["data"]
            ]
        )


def needs(*commands):
    """Skip where one of these is not installed."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")


@contextmanager
def site(folder, which):
    """A gateway with pages, with one model of each kind."""
    names, root_path = NAMES[which], PATHS[which]
    here = {"slug": "here", "format": "local", "models": [{"model": names[kind]} for kind in ("embedding", "reranker")]}
    packages = folder / "node_modules"
    packages.mkdir()
    for name, home in PACKAGES.items():
        (packages / name).symlink_to(home / "node_modules" / name, target_is_directory=True)
    with (
        provider("openai", itertools.repeat(chats.whole(ANSWER))) as talker,
        storefront(
            folder,
            providers=[here, chats.offer("talker", talker.url, model=names["chat"])],
            catalogue=[{**chats.CATALOGUE[0], "name": names["chat"]}],
            local=fakes(names["embedding"], names["reranker"]),
            root_path=root_path,
        ) as served,
    ):
        yield Site(served, names, folder, served.url + quote(root_path))


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Opens a site when it is first asked for."""
    with ExitStack() as stack:
        yield cache(lambda which: stack.enter_context(site(tmp_path_factory.mktemp(which), which)))


# What they print


def embedding_prints(site, name, printed):
    if name == "curl":
        data = json.loads(printed)["data"]
        np.testing.assert_array_equal([row["embedding"] for row in data], site.vectors(*EMBEDDING_TEXTS))
    elif name == "Python, quernel":
        queries = site.vectors(QUERY, input_type="query")
        similarities = (queries @ site.vectors(*EMBEDDING_TEXTS, input_type="document").T)[0]
        assert [float(number) for number in re.findall(r"-?\d*\.\d*", printed)] == pytest.approx(
            similarities, abs=0.006
        )
        assert similarities[0] != pytest.approx(similarities[1], abs=0.02), "all alike, so the test shows nothing"
    else:
        reply = site.post("/v1/embeddings", model=site.names["embedding"], input=EMBEDDING_TEXTS)
        tokens = f", {reply['usage']['total_tokens']} tokens" if name.endswith(" ai") else ""
        assert printed == f"2 vectors of 64 numbers{tokens}\n"


def reranker_prints(site, name, printed):
    reply = site.post("/v1/rerank", model=site.names["reranker"], query=QUERY, documents=DOCUMENTS)
    ranking = [(row["index"], row["relevance_score"]) for row in reply["results"]]
    assert [index for index, _ in ranking] == [1, 0]
    if name == "curl":
        assert [(row["index"], row["relevance_score"]) for row in json.loads(printed)["results"]] == ranking
    else:
        gap = " " if name.startswith("JavaScript") else "  "
        assert printed == "".join(f"{score:.3f}{gap}{DOCUMENTS[index]}\n" for index, score in ranking)


def chat_prints(site, name, printed):
    answer = json.loads(printed)["choices"][0]["message"]["content"] if name == "curl" else printed.removesuffix("\n")
    assert answer == ANSWER


PRINTS = {"embedding": embedding_prints, "reranker": reranker_prints, "chat": chat_prints}


@each_program
def test_a_program_of_a_page_runs_as_it_is(sites, kind, name):
    site = sites("plain")
    PRINTS[kind](site, name, site.run(kind, name))


@each_program
def test_a_model_whose_name_has_every_sign_and_a_proxys_path_do_not_break_a_program(sites, kind, name):
    site = sites("odd")
    PRINTS[kind](site, name, site.run(kind, name))


@pytest.mark.parametrize("which", NAMES)
def test_a_page_has_all_programs_of_its_kind_and_no_others(sites, which):
    site = sites(which)
    assert set(TEMPLATES) == set(GatewayKind)
    for kind in TEMPLATES:
        shown = site.programs(kind)
        expected = snippets_of(kind, site.names[kind], site.base)
        assert {(one.name, one.install, one.code) for one in shown.values()} == {
            (one.name, one.install or one.name, one.code) for one in expected
        }


def test_the_first_page_has_the_programs_of_the_first_embedding_model(sites):
    site = sites("plain")
    page = httpx.get(f"{site.base}/", headers={"accept": "text/html"})
    assert [one.code for one in Programs(page.text).found] == [one.code for one in site.programs("embedding").values()]


# What is written into them


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(TEXTS)
def test_a_text_between_quotes_is_that_text(text):
    assert ast.literal_eval(f'"{within_quotes(text, "python")}"') == text
    (word,) = shlex.split(f"'\"{within_quotes(text, 'sh')}\"'")
    assert json.loads(word) == text


def test_a_text_between_quotes_is_that_text_in_javascript():
    needs("node")
    signs = [chr(code) for code in (*range(256), 0x2028, 0x2029, 0x1F600)]
    texts = [*signs, *(f"\\{sign}" for sign in signs), "".join(signs), ODD, "</script>", "${1}"]
    code = ",\n".join(f"'{within_quotes(text, 'javascript')}'" for text in texts)
    program = f"process.stdout.write(JSON.stringify([{code}]))"
    ran = subprocess.run(
        ["node", "-"], input=program, capture_output=True, encoding="utf-8", timeout=SECONDS, check=True
    )
    assert json.loads(ran.stdout) == texts


@settings(deadline=None)
@given(TEXTS.filter(lambda text: "\0" not in text))
def test_a_command_for_any_body_sends_that_body(text):
    words = shlex.split(curl("http://[::1]:80/it's", "/v1/embeddings", {"input": text}).replace("\\\n", ""))
    assert words[:2] == ["curl", "http://[::1]:80/it's/v1/embeddings"]
    assert json.loads(words[-1]) == {"input": text}


# The address


def origins(site, **headers):
    """The addresses in the programs of all pages, without what comes after their host and port and a proxy's path."""
    found = set()
    for path in ("/", *(f"/models/{quote(name)}" for name in site.names.values())):
        page = httpx.get(site.base + path, headers={"accept": "text/html", **headers})
        assert page.status_code == 200
        codes = [program.code for program in Programs(page.text).found]
        assert codes
        for code in codes:
            found |= {re.sub(r"/v[14].*", "", address) for address in re.findall(r"https?://[^\s'\"\\]*", code)}
    return found


@pytest.mark.parametrize(
    "host",
    [
        'evil"',
        "evil'",
        "$(id)",
        "`id`",
        "evil;id",
        "evil&id",
        "evil|id",
        "(evil)",
        "evil!",
        "evil,b",
        "a*b",
        "%24(id)",
        "a=b",
        "evil\\",
        "{origin}",
        "{model}",
        "<b>evil",
        "evil/path",
        "evil?a",
        "evil#a",
        "evil@b",
        "evil b",
        "evil:id",
        "evil:999999",
        "evil:1:2",
        "[::1",
        "[;id]",
        "[$(id)]",
        ":80",
        "a" * 254,
        "",
    ],
)
@pytest.mark.parametrize("which", NAMES)
def test_a_host_that_is_no_plain_name_is_in_no_program(sites, which, host):
    site = sites(which)
    assert origins(site, host=host) == {site.base}


@pytest.mark.parametrize(
    "host", ["shop.example.com", "shop.example.com:8443", "under_score-1.local", "LOCALHOST:1", "[2001:db8::1]:8080"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_programs_ask_where_the_visitor_is_behind_a_proxy(sites, host, scheme):
    for which in NAMES:
        site = sites(which)
        path = urlsplit(site.base).path
        assert origins(site, host=host, **{"x-forwarded-proto": scheme}) == {f"{scheme}://{host}{path}"}


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (("10.0.0.1", 80), "http://10.0.0.1:80"),
        (("::1", 1234), "http://[::1]:1234"),
        (("/run/gateway.sock", None), "http://localhost"),
        (None, "http://localhost"),
    ],
)
def test_without_a_host_programs_ask_the_address_that_the_request_came_to(server, expected):
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/", "headers": [], "server": server}
    pages = Pages(api=None, sessions=None, assets=None, config=None, root_path="/a b", templates=None)
    assert pages.origin(Request(scope)) == f"{expected}/a%20b"
