"""From a template to a reply: what every page is given, and the headers that keep others out of it."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup, escape
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from quernel._version import __version__
from quernel.web import numbers
from quernel.web.api import Api, Visitor
from quernel.web.assets import Assets
from quernel.web.code_flow import CodeFlow
from quernel.web.config import WebConfig
from quernel.web.session import Session, Sessions

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; manifest-src 'self'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), browsing-topics=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every page. Nothing is loaded from elsewhere, and nothing inline is run, so what a text says stays text."""

MAX_FORM_BYTES = 2**20

HOST = re.compile(r"([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""A host that means nothing else in an address, a shell or a text between quotes."""

THEMES = ("auto", "light", "dark")
THEME_COOKIE = "quernel-theme"


def coded(text: str) -> Markup:
    """A text whose parts between backticks are code, and whose lines run on."""
    parts = [escape(part) for part in " ".join(text.split()).split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


FILTERS: dict[str, Callable[..., str]] = {"coded": coded} | {
    name: getattr(numbers, name)
    for name in (
        "count",
        "short",
        "money",
        "per_million",
        "per_thousand",
        "milliseconds",
        "percent",
        "size",
        "day",
        "minute",
        "second",
        "rounded",
    )
}


@dataclass(frozen=True)
class Pages:
    """What pages are made with.

    Attributes:
        api: The gateway.
        sessions: Who is signed in.
        assets: Style sheets and scripts.
        config: What the gateway is called.
        root_path: What a proxy has before every path.
        templates: The templates.
        doors: Issuers by which visitors may sign in, by name.
        turn: Held while something is done that a form which is sent twice must not do twice.
    """

    api: Api
    sessions: Sessions
    assets: Assets
    config: WebConfig
    root_path: str
    templates: jinja2.Environment
    doors: Mapping[str, CodeFlow] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def show(self, request: Request, template: str, *, status: int = 200, **content: Any) -> Response:
        """A page.

        Args:
            request: What is answered.
            template: Its file.
            status: HTTP status.
            content: What it shows.
        """
        session = session_of(request)
        theme = request.cookies.get(THEME_COOKIE)
        html = self.templates.get_template(template).render(
            **content,
            site=self.config,
            session=session,
            theme=theme if theme in THEMES else "auto",
            here=request.url.path,
            there=where(request),
            version=__version__,
            link=self.link,
            asset=lambda name: self.link(self.assets.path(name)),
        )
        kept = "no-store" if session is not None else "no-cache"
        return HTMLResponse(html, status_code=status, headers={**HEADERS, "cache-control": kept})

    def go(self, path: str, **query: str) -> Response:
        """On to another page, after something was done."""
        return RedirectResponse(self.link(path, **query), status_code=303, headers=HEADERS)

    def go_away(self, address: str) -> Response:
        """On to a page of somebody else's."""
        return RedirectResponse(address, status_code=303, headers={**HEADERS, "cache-control": "no-store"})

    def link(self, path: str, **query: str | None) -> str:
        """The address of a page of ours."""
        given = {name: value for name, value in query.items() if value}
        return quote(self.root_path) + path + (f"?{urlencode(given)}" if given else "")

    def origin(self, request: Request) -> str:
        """Where the API is, as the visitor reaches it.

        Programs have it in them, to be run by whoever copies them; so a request whose `Host` is no plain name or
        address is shown the address that it came to.
        """
        host = request.headers.get("host", "")
        if HOST.fullmatch(host) is None:
            host = _reached(request.scope)
        return f"{request.scope.get('scheme', 'http')}://{host}{self.link('')}"


def make_templates() -> jinja2.Environment:
    """The templates. What a page is given is escaped, and what it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("quernel.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def pages_of(request: Request) -> Pages:
    """What pages of this application are made with."""
    pages: Pages = request.app.state.pages
    return pages


def where(request: Request) -> str:
    """The page that a visitor looks at, with its query; of the console its first, where a form was sent there.

    The query of an issuer's reply is in no page: it has a code.
    """
    path = request.url.path
    if path.startswith("/sign-in/"):
        return "/sign-in"
    if request.method not in ("GET", "HEAD"):
        return "/console" if path.startswith("/console/") else path
    return f"{path}?{request.url.query}" if request.url.query else path


def session_of(request: Request) -> Session | None:
    """Who is signed in."""
    session: Session | None = request.state.session
    return session


def visitor_of(request: Request) -> Visitor:
    """On whose behalf a page asks the API."""
    session = session_of(request)
    client = ("127.0.0.1", 0) if request.client is None else (request.client.host, request.client.port)
    return Visitor(credential=None if session is None else session.credential, client=client)


async def form_of(request: Request) -> QueryParams:
    """The fields of a form.

    Raises:
        HTTPException: It is larger than any of ours, or of another kind.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0]
    if content_type not in ("", "application/x-www-form-urlencoded"):
        raise HTTPException(415, "A form is sent as application/x-www-form-urlencoded.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, f"A form may have {MAX_FORM_BYTES:,} bytes.")
    return QueryParams(bytes(body))


def _reached(scope: Scope) -> str:
    """The address at which a request came in; a Unix socket has none."""
    host, port = scope.get("server") or ("localhost", None)
    if port is None:
        return "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
