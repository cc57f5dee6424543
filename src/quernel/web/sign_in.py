"""Signing in and out, and whether pages are light or dark."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quernel.web.api import ApiError, Visitor
from quernel.web.pages import THEME_COOKIE, THEMES, form_of, pages_of, session_of, visitor_of
from quernel.web.session import MAX_CREDENTIAL

THEME_SECONDS = 365 * 86_400

WHY = {"ended": "Your session has ended: the key was revoked or has expired."}


async def ask_for_key(request: Request) -> Response:
    """The form that takes a key."""
    if session_of(request) is not None:
        return pages_of(request).go(_next_of(request.query_params.get("next")))
    why = WHY.get(request.query_params.get("why", ""))
    return _form(request, next_page=request.query_params.get("next", ""), problem=why)


async def sign_in(request: Request) -> Response:
    """Begin a session with a key that the API accepts."""
    pages, form = pages_of(request), await form_of(request)
    key, next_page = form.get("key", "").strip(), form.get("next", "")
    if not key or len(key) > MAX_CREDENTIAL or not key.isascii() or not key.isprintable():
        return _form(request, next_page=next_page, problem="That is no key. Keys begin with quernel_.", status=400)
    visitor = Visitor(credential=key, client=visitor_of(request).client)
    try:
        await pages.api.get("/v1/key", visitor)
    except ApiError as error:
        return _form(request, next_page=next_page, problem=error.message, status=error.status)
    response = pages.go(_next_of(next_page))
    pages.sessions.begin(request, response, key)
    return response


async def sign_out(request: Request) -> Response:
    """End a session."""
    pages = pages_of(request)
    response = pages.go("/")
    pages.sessions.end(request, response)
    return response


async def choose_theme(request: Request) -> Response:
    """Light, dark, or as the visitor's system is."""
    form = await form_of(request)
    response = pages_of(request).go(_next_of(form.get("next"), otherwise="/"))
    theme = form.get("theme", "")
    if theme in THEMES:
        response.set_cookie(THEME_COOKIE, theme, max_age=THEME_SECONDS, path="/", httponly=True, samesite="lax")
    return response


def _form(request: Request, *, next_page: str, problem: str | None = None, status: int = 200) -> Response:
    return pages_of(request).show(request, "sign_in.html", status=status, next_page=next_page, problem=problem)


def _next_of(path: str | None, *, otherwise: str = "/console") -> str:
    """A page of ours that a form names; a name of elsewhere is not followed."""
    is_ours = path is not None and path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours and path is not None else otherwise


ROUTES = (
    Route("/sign-in", ask_for_key, methods=["GET"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/theme", choose_theme, methods=["POST"]),
)
