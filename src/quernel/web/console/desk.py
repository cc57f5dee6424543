"""A page of the console while it is made: who looks at it, and at whose account.

What somebody may not do is not offered to them; that they may not is for the API to say. Whoever operates the gateway
looks at other accounts with `?account=`, which then goes along from page to page.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quernel.web.api import ApiError, ApiReply, Visitor
from quernel.web.pages import Pages, form_of, pages_of, session_of, visitor_of, where

READ, MANAGE, OPERATE, INFER, METRICS = "read", "manage", "operate", "infer", "metrics"
SCOPES: Mapping[str, str] = {
    INFER: "Ask models.",
    READ: "See the account's keys, money and usage.",
    MANAGE: "Make and revoke keys, and change the account's settings and members.",
    METRICS: "Read /metrics, which is of all accounts together: for Prometheus.",
    OPERATE: "Everything, for every account, with providers and prices: the operator's.",
}
"""Scope to what it allows."""

EVERYBODY = "*"
"""All accounts, where the operator looks at them together."""

LISTED = "50"
"""Lines of a list on one page."""

BAD_REQUEST, UNAUTHORISED, FORBIDDEN = 400, 401, 403

NAVIGATION = (
    (
        "",
        (
            ("/console", "Overview", None),
            ("/console/keys", "Keys", READ),
            ("/console/usage", "Usage", READ),
            ("/console/requests", "Requests", READ),
            ("/console/ledger", "Credits", READ),
            ("/console/members", "Members", READ),
            ("/console/settings", "Settings", READ),
        ),
    ),
    (
        "Gateway",
        (
            ("/console/providers", "Providers", None),
            ("/console/accounts", "Accounts", OPERATE),
            ("/console/audit", "Audit", OPERATE),
            ("/console/books", "Books", OPERATE),
        ),
    ),
)
"""Heading to its pages: path, name, and the scope without which it is not offered."""

OF_ACCOUNT = ("/console/keys", "/console/usage", "/console/requests", "/console/ledger")
"""Pages that the operator can look at for all accounts together."""

OF_ONE_ACCOUNT = (*OF_ACCOUNT, "/console/members", "/console/settings")
"""Pages that the operator can look at for another account."""

DONE: Mapping[str, str] = {
    "changed": "Changed. Every gateway acts upon it within a second.",
    "revoked": "The key is revoked. It is refused everywhere within a second.",
    "member": "Saved.",
    "removed": "Removed.",
    "stored": "The key is stored, encrypted, and used from now on.",
    "dropped": "The key is forgotten.",
    "created": "Made.",
    "credited": "Entered.",
    "entered": "That reference was entered before, so nothing was entered now.",
    "switched": "Switched.",
    "priced": "The price is entered. Requests from its beginning on are charged at it.",
    "rechecked": "Its vectors are compared anew with the next look.",
}
"""What was done, by the word that an address has for it."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A page while it is made.

    Attributes:
        request: What is answered.
        pages: What pages are made with.
        visitor: On whose behalf the API is asked.
        who: What the API says of them.
        account: The account that is looked at, where it is another than theirs; `*` for all.
    """

    request: Request
    pages: Pages
    visitor: Visitor
    who: Mapping[str, Any]
    account: str | None

    def may(self, scope: str | None) -> bool:
        """Whether the visitor has a scope."""
        return scope is None or scope in self.who["scopes"]

    @property
    def of(self) -> Mapping[str, str | None]:
        """The parameter with which the API is asked for the account that is looked at."""
        return {"account": self.account}

    async def get(self, path: str, **query: str | None) -> Any:
        """The JSON of a reply of the API. Errors as `Api.ask`."""
        return await self.pages.api.get(path, self.visitor, **query)

    async def ask(
        self, method: str, path: str, *, query: Mapping[str, str | None] | None = None, body: object = None
    ) -> ApiReply:
        """A reply of the API. Errors as `Api.ask`."""
        return await self.pages.api.ask(method, path, self.visitor, query=query, body=body)

    async def listed(self, path: str, **query: str | None) -> tuple[Mapping[str, Any], ApiError | None]:
        """A page of a list, from `?cursor=` on; an empty one, and why, where the API refuses a filter.

        Raises:
            ApiError: It refuses for another reason.
        """
        try:
            found = await self.get(path, **query, limit=LISTED, cursor=self.query("cursor"))
        except ApiError as error:
            if error.status != BAD_REQUEST:
                raise
            return {"data": [], "next_cursor": None}, error
        return found, None

    async def form(self) -> QueryParams:
        """The fields of the form that was sent. Errors as `form_of`."""
        return await form_of(self.request)

    def query(self, name: str) -> str:
        """A parameter of the page's address."""
        return self.request.query_params.get(name, "").strip()

    def name(self, parameter: str) -> str:
        """What the page's path names."""
        found: str = self.request.path_params[parameter]
        return found

    def link(self, path: str, **query: str | None) -> str:
        """The address of a page of the console, of the same account."""
        return self.pages.link(path, **{**self.of, **query})

    def go(self, path: str, done: str, **query: str | None) -> Response:
        """On to a page that says what was done."""
        given = {name: value for name, value in {**self.of, **query, "done": done}.items() if value}
        return self.pages.go(path, **given)

    def show(self, template: str, *, problem: ApiError | str | None = None, **content: Any) -> Response:
        """A page.

        Args:
            template: Its file, in `console/`.
            problem: Why what was sent was not done.
            content: What it shows.

        Raises:
            ApiError: The problem is that the visitor is not known any more.
        """
        status = 200 if problem is None else 400
        if isinstance(problem, ApiError):
            if problem.status == UNAUTHORISED:
                raise problem
            status = problem.status
        return self.pages.show(
            self.request,
            f"console/{template}",
            status=status,
            who=self.who,
            may=self.may,
            to=self.link,
            account=self.account,
            navigation=self._navigation(),
            is_of_accounts=self.may(OPERATE) and self.request.url.path in OF_ACCOUNT,
            problem=problem,
            done=DONE.get(self.query("done")) if problem is None else None,
            **content,
        )

    def _navigation(self) -> list[tuple[str, list[tuple[str, str, bool]]]]:
        """Headings with what is offered under each: address, name, and whether it is this page."""
        here = self.request.url.path
        of_account = OF_ACCOUNT if self.account == EVERYBODY else OF_ONE_ACCOUNT
        return [
            (
                heading,
                [
                    (
                        self.link(path) if path in of_account else self.pages.link(path),
                        name,
                        here == path or (path != "/console" and here.startswith(f"{path}/")),
                    )
                    for path, name, scope in pages
                    if self.may(scope)
                ],
            )
            for heading, pages in NAVIGATION
        ]


Handler = Callable[[Desk], Awaitable[Response]]


def page(path: str, handler: Handler, *, method: str = "GET", scope: str | None = None) -> Route:
    """The route of a page of the console, for those who are signed in.

    Args:
        path: Its path.
        handler: Makes it.
        method: How it is asked for.
        scope: What it is for nobody without, where the API would not be asked for anything that takes it.
    """

    async def handle(request: Request) -> Response:
        pages = pages_of(request)
        if session_of(request) is None:
            return pages.go("/sign-in", next=where(request))
        visitor = visitor_of(request)
        who = await pages.api.get("/v1/key", visitor)
        account = request.query_params.get("account", "").strip()
        is_own = account in ("", who["account"], who["account_slug"])
        desk = Desk(request=request, pages=pages, visitor=visitor, who=who, account=None if is_own else account)
        if not desk.may(scope):
            message = f"This key lacks the scope {scope!r}. Ask whoever manages the account for one that has it."
            return pages.show(request, "error.html", status=FORBIDDEN, title="Not allowed", message=message)
        return await handler(desk)

    return Route(path, handle, methods=[method])


def segment(name: str) -> str:
    """A name as a part of a path of the API."""
    return quote(name, safe="")
