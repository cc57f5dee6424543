"""Signing in and out, with a key or an identity provider, and whether pages are light or dark."""

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quernel.web.api import ApiError, Visitor
from quernel.web.code_flow import ATTEMPT_SECONDS, Attempt, CodeFlow, SignInError, claims_of
from quernel.web.pages import THEME_COOKIE, THEMES, Pages, form_of, pages_of, session_of, visitor_of
from quernel.web.sealed import SealedCookie

THEME_SECONDS = 365 * 86_400

ATTEMPT_COOKIE = "quernel-sign-in"

CALLBACK = "/sign-in/callback"
"""Where issuers send visitors back to."""

MOST_NEXT = 500
"""Characters of the page to go on to, which a cookie must have room for."""

WHY = {"ended": "Your session has ended: the key was revoked or has expired."}

FORBIDDEN = 403


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
    if not key or not key.isascii() or not key.isprintable() or not pages.sessions.fits(key):
        return _form(request, next_page=next_page, problem="That is no key. Keys begin with quernel_.", status=400)
    try:
        await _check(request, key)
    except ApiError as error:
        return _form(request, next_page=next_page, problem=error.message, status=error.status)
    return _begin(request, key, next_page)


async def leave(request: Request) -> Response:
    """On to an identity provider."""
    pages, next_page = pages_of(request), _next_of(request.query_params.get("next"))
    flow = pages.doors.get(request.path_params["door"])
    if flow is None:
        raise HTTPException(404)
    if session_of(request) is not None:
        return pages.go(next_page)
    try:
        attempt, address = await flow.begin(pages.origin(request) + CALLBACK, next_page[:MOST_NEXT])
    except SignInError as error:
        return _form(request, next_page=next_page, problem=str(error), status=502)
    response = pages.go_away(address)
    _attempts(pages).write(request, response, attempt, seconds=ATTEMPT_SECONDS)
    return response


async def come_back(request: Request) -> Response:
    """From an identity provider, with a code for a token."""
    pages = pages_of(request)
    cookie = _attempts(pages)
    attempt = cookie.read(request)
    flow = None if attempt is None else pages.doors.get(attempt.door)
    try:
        if attempt is None or flow is None:
            raise SignInError(
                "No sign-in is under way in this browser: it was finished, or took too long. Begin again."
            )
        tokens = await flow.finish(attempt, request.query_params, pages.origin(request) + CALLBACK)
        token = await _accepted(request, flow, tokens)
    except SignInError as error:
        response = _form(request, next_page=attempt.next_page if attempt else "", problem=str(error), status=400)
    else:
        response = _begin(request, token, attempt.next_page)
    cookie.delete(request, response)  # one reply is all that a sign-in gets
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


async def _check(request: Request, credential: str) -> None:
    """Ask the API whether it accepts a credential.

    Raises:
        ApiError: It does not.
    """
    visitor = Visitor(credential=credential, client=visitor_of(request).client)
    await pages_of(request).api.get("/v1/key", visitor)


async def _accepted(request: Request, flow: CodeFlow, tokens: Sequence[str]) -> str:
    """The first of an issuer's tokens that the gateway accepts.

    Raises:
        SignInError: None is, or it is larger than a cookie.
    """
    refusals = []
    for token in tokens:
        if not pages_of(request).sessions.fits(token):
            text = f"The token of {flow.door.label} has {len(token):,} characters, more than a cookie holds."
            refusals.append((False, f"{text} Have fewer claims put into it, or sign in with a key."))
            continue
        try:
            await _check(request, token)
        except ApiError as error:
            refusals.append((error.status == FORBIDDEN, error.message))
        else:
            return token
    # One that only lacks a claim or an account came further than one for another audience.
    raise SignInError(next((message for came_far, message in refusals if came_far), refusals[0][1]))


def _begin(request: Request, credential: str, next_page: str) -> Response:
    pages = pages_of(request)
    response = pages.go(_next_of(next_page))
    expires = (claims_of(credential) or {}).get("exp")
    is_moment = isinstance(expires, int | float)
    pages.sessions.begin(request, response, credential, expires=expires if is_moment else None)
    return response


def _attempts(pages: Pages) -> SealedCookie[Attempt]:
    return SealedCookie(ATTEMPT_COOKIE, Attempt, pages.sessions.secret)


def _form(request: Request, *, next_page: str, problem: str | None = None, status: int = 200) -> Response:
    pages = pages_of(request)
    doors = [flow.door for flow in pages.doors.values()]
    return pages.show(request, "sign_in.html", status=status, next_page=next_page, problem=problem, doors=doors)


def _next_of(path: str | None, *, otherwise: str = "/console") -> str:
    """A page of ours that a form names; a name of elsewhere is not followed."""
    is_ours = path is not None and path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours and path is not None else otherwise


ROUTES = (
    Route("/sign-in", ask_for_key, methods=["GET"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route(CALLBACK, come_back, methods=["GET"]),
    Route("/sign-in/with/{door}", leave, methods=["GET"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/theme", choose_theme, methods=["POST"]),
)
