"""A gateway with its pages on this machine, and a browser without scripts to look at them with."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from quernel.cli.gateway import doors_of
from quernel.gateway.app import create_gateway_app
from quernel.gateway.config import GatewayConfig
from quernel.gateway.fetch import fetch_json_document
from quernel.gateway.opening import Tables, open_gateway
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from quernel.web.code_flow import CodeFlow
from quernel.web.config import WebConfig
from quernel.web.storefront import Storefront
from tests.support.canaries import no_canaries
from tests.support.certificates import make_certificate
from tests.support.gateway import Served

EMBEDDER, RERANKER = "fake/embedding", "fake/reranker"

LOCAL = {
    "slug": "local",
    "format": "local",
    "zdr": True,
    "no_training": True,
    "models": [
        {"model": EMBEDDER, "prices": [{"usd_per_million_tokens": "1000"}]},
        {"model": RERANKER, "prices": [{"usd_per_thousand_documents": "2"}]},
    ],
}

AWAY = {
    "slug": "away",
    "format": "openai",
    "base_url": "https://away.example.com/v1",
    "byok": True,
    "enabled": False,
    "models": [{"model": EMBEDDER, "prices": [{"usd_per_million_tokens": "3000"}]}],
}


def fakes(embedder=EMBEDDER, reranker=RERANKER):
    """An embedding model and a reranker of these names."""
    return {embedder: FakeEmbeddingModel(embedder), reranker: FakeRerankModel(reranker)}


@contextmanager
def storefront(
    folder,
    *,
    providers=(LOCAL, AWAY),
    catalogue=(),
    local=None,
    issuers=(),
    environment=None,
    root_path="",
    https=False,
    prepare=lambda parts: None,
    **settings,
):
    """A gateway with pages on SQLite in that folder; by default with two providers, of which one is switched off.

    `https` gives it a certificate that nobody but its own client trusts; `prepare` does something with its parts before
    it is served.
    """
    parts = open_gateway(
        GatewayConfig(**settings),
        database=f"sqlite:///{folder}/gateway.db",
        tables=Tables(providers=providers, catalogue=catalogue, issuers=issuers),
        local=fakes() if local is None else local,
        environment=environment or {},
    )
    prepare(parts)
    certificate, verify = make_certificate(Path(folder)) if https else ({}, True)
    config = ServerConfig(port=0, shutdown_grace_seconds=1, access_log=False, root_path=root_path, **certificate)
    fetch = partial(fetch_json_document, session=parts.http)
    app = Storefront(
        create_gateway_app(parts, config=config),
        config=WebConfig(),
        secret=parts.mint.digest("sessions of the storefront"),
        root_path=root_path,
        doors=[CodeFlow(door, fetch) for door in doors_of(issuers, environment or {})],
    )
    headers = {"authorization": f"Bearer {parts.first_key}"}
    options = {"headers": headers, "timeout": 30, "verify": verify}
    with no_canaries(), running(app, config) as url, httpx.Client(base_url=url, **options) as http:
        yield Served(url, parts.first_key, parts, http)


@dataclass
class Form:
    """A form as it is on a page, with what its fields hold."""

    action: str
    method: str
    fields: list = field(default_factory=list)

    def filled(self, **changes):
        """What is sent when these fields are filled in; a list ticks these boxes alone, `None` sends nothing."""
        sent = [(name, value) for name, value in self.fields if name not in changes]
        for name, value in changes.items():
            values = value if isinstance(value, list) else [] if value is None else [value]
            sent += [(name, one) for one in values]
        return sent


class Page(HTMLParser):
    """A page, taken apart."""

    VOID = frozenset({"input", "meta", "link", "br", "hr", "img"})

    def __init__(self, reply):
        super().__init__()
        self.reply = reply
        self.status = reply.status_code
        self.path = urlsplit(str(reply.url)).path
        self.html = reply.text
        self.forms, self.links, self.rows, self.tags, self.words = [], [], [], [], []
        self._row = self._select = None
        self._area = None
        self.feed(reply.text)

    @property
    def text(self):
        """What is read on it."""
        return " ".join(" ".join(self.words).split())

    def form(self, action):
        """The form that is sent to an address of that end."""
        return next(form for form in self.forms if urlsplit(form.action).path.endswith(action))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get")))
        elif tag == "a":
            self.links.append(given.get("href", ""))
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")
        elif tag == "textarea":
            self._area = [given["name"], ""]
        elif tag == "select":
            self._select = [given.get("name"), None]
        elif tag == "option" and self._select is not None:
            if "selected" in given or self._select[1] is None:
                self._select[1] = given.get("value")
        elif tag == "input" and self.forms and given.get("name"):
            is_box = given.get("type") in ("checkbox", "radio")
            if not is_box or "checked" in given:
                self.forms[-1].fields.append((given["name"], given.get("value", "")))

    def handle_endtag(self, tag):
        if tag == "tr" and self._row is not None:
            self.rows.append([" ".join(cell.split()) for cell in self._row])
            self._row = None
        elif tag == "select" and self._select is not None:
            if self.forms and self._select[0]:
                self.forms[-1].fields.append((self._select[0], self._select[1] or ""))
            self._select = None
        elif tag == "textarea":
            self.forms[-1].fields.append(tuple(self._area))
            self._area = None

    def handle_data(self, data):
        self.words.append(data)
        if self._row:
            self._row[-1] += data
        if self._area is not None:
            self._area[1] += data


class Browser(httpx.Client):
    """Looks at pages and sends their forms, as a browser does that runs no scripts."""

    def __init__(self, served, **options):
        super().__init__(
            base_url=served.url,
            headers={"accept": "text/html", "sec-fetch-site": "same-origin"},
            timeout=30,
            follow_redirects=True,
            **options,
        )

    def open(self, path, **query):
        """The page at an address."""
        return Page(self.get(path, params=query or None))

    def submit(self, page, action, **changes):
        """The page that comes of a form."""
        form = page.form(action)
        return Page(self.post(form.action, data=_pairs(form.filled(**changes))))

    def sign_in(self, key, **changes):
        """The page that comes of signing in with a key."""
        return self.submit(self.open("/sign-in"), "/sign-in", key=key, **changes)


def _pairs(sent):
    found = {}
    for name, value in sent:
        found.setdefault(name, []).append(value)
    return found
