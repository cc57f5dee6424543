"""The gateway with its pages: what is a page is answered here, all else by the gateway."""

import logging
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from quernel.web import catalogue, playground, sign_in
from quernel.web.api import Api, ApiError
from quernel.web.assets import PREFIX, Assets
from quernel.web.code_flow import CodeFlow
from quernel.web.config import WebConfig
from quernel.web.console import routes as console
from quernel.web.pages import Pages, make_templates, pages_of, where
from quernel.web.reference import ReferencePage
from quernel.web.session import Sessions, is_of_this_site

logger = logging.getLogger("quernel.web")

SECTIONS = frozenset({"models", "compare", "playground", "docs", "console", "sign-in", "sign-out", "theme", PREFIX[1:]})
"""First parts of the paths of pages; of the API's own only `docs`, which is a page there too."""

ROUTES = (*catalogue.ROUTES, *playground.ROUTES, *console.ROUTES, *sign_in.ROUTES)


class Storefront:
    """An ASGI application of pages and API.

    Args:
        gateway: The API.
        config: What pages say.
        secret: 32 bytes for the cookies of sessions.
        root_path: What a proxy has before every path.
        doors: Issuers by which visitors may sign in.
    """

    def __init__(
        self,
        gateway: ASGIApp,
        *,
        config: WebConfig,
        secret: bytes,
        root_path: str = "",
        doors: Sequence[CodeFlow] = (),
    ) -> None:
        self._gateway = gateway
        self._root_path = root_path
        assets = Assets()
        self._pages = Starlette(
            routes=[
                Route(f"{PREFIX}/{{tag}}/{{name}}", assets.serve),
                Route("/docs", ReferencePage().show, methods=["GET"]),
                *ROUTES,
            ],
            middleware=[Middleware(GZipMiddleware, minimum_size=1000)],
            exception_handlers={ApiError: show_api_error, HTTPException: show_http_error, 500: show_fault},
        )
        self._pages.router.redirect_slashes = False
        self._pages.state.pages = Pages(
            api=Api(gateway),
            sessions=Sessions(secret),
            assets=assets,
            config=config,
            root_path=root_path,
            templates=make_templates(),
            doors={flow.door.name: flow for flow in doors},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = self._page_of(scope) if scope["type"] == "http" else None
        if path is None:
            await self._gateway(scope, receive, send)
            return
        scope["path"] = path
        request = Request(scope, receive)
        scope.setdefault("state", {})["session"] = self._pages.state.pages.sessions.read(request)
        scope["app"] = self._pages
        if scope["method"] not in ("GET", "HEAD") and not is_of_this_site(request):
            await show_foreign(request)(scope, receive, send)
            return
        await self._pages(scope, receive, send)

    def _page_of(self, scope: Scope) -> str | None:
        """The path of a page, without what a proxy may have left before it; `None` where none of ours is asked for."""
        path: str = scope["path"]
        if path == self._root_path or path.startswith(self._root_path + "/"):
            path = path.removeprefix(self._root_path) or "/"
        if path == "/":
            return path if "text/html" in Request(scope).headers.get("accept", "") else None
        return path if path.startswith("/") and path.split("/")[1] in SECTIONS else None


def show_foreign(request: Request) -> Response:
    """The reply to a form of somebody else's page."""
    message = "This came from another page than ours, so nothing was done."
    return pages_of(request).show(request, "error.html", status=403, title="Not from here", message=message)


async def show_api_error(request: Request, error: Exception) -> Response:
    """The page of what the API refused."""
    assert isinstance(error, ApiError), "registered for it"
    pages = pages_of(request)
    if error.status == 401:
        response = pages.go("/sign-in", next=where(request), why="ended" if request.state.session else "")
        pages.sessions.end(request, response)
        return response
    title = {402: "Not enough credit", 403: "Not allowed", 404: "Not here", 429: "Too many"}.get(error.status)
    return pages.show(request, "error.html", status=error.status, title=title or "Refused", message=error.message)


async def show_http_error(request: Request, error: Exception) -> Response:
    """The page of what there is not."""
    assert isinstance(error, HTTPException), "registered for it"
    title = "Not here" if error.status_code == 404 else error.detail
    message = f"There is no page {request.url.path[:200]}." if error.status_code == 404 else error.detail
    return pages_of(request).show(request, "error.html", status=error.status_code, title=title, message=message)


async def show_fault(request: Request, error: Exception) -> Response:
    """The page of a fault of ours; what it was is in the log, without what anybody sent."""
    logger.error("A page failed (%s).", type(error).__name__)
    message = "Something went wrong here. Nothing of what you sent was kept; please try again."
    return pages_of(request).show(request, "error.html", status=500, title="Our fault", message=message)
