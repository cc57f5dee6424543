"""Keys: a list, making one, and a page for each, where it is changed, given a new secret and revoked.

The text of a key is in the reply to the form that made it and nowhere else. A form that is sent again, by a reload or
a second click, finds the key that it made before, and makes no other.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import EVERYBODY, INFER, LISTED, MANAGE, SCOPES, Desk, page, segment
from quernel.web.console.fields import chosen, is_ticked, joined, limits_of, words_of
from quernel.web.console.overview import first_model
from quernel.web.snippets import KEY, snippets_of

GRACES = (("0", "at once"), ("3600", "after an hour"), ("86400", "after a day"), ("604800", "after a week"))
"""Seconds for which the old secret of a key stays good, and how that is said."""

BLANK: Mapping[str, Any] = {
    "name": "",
    "scopes": [INFER],
    "models": [],
    "providers": [],
    "limits": {},
    "zdr": False,
    "no_training": False,
    "tags": [],
    "expires": None,
}
"""A key that nothing was said of yet."""


async def list_keys(desk: Desk) -> Response:
    """The account's keys."""
    found = await desk.get("/v1/keys", **desk.of, limit=LISTED, cursor=desk.query("cursor"))
    return desk.show("keys.html", keys=found["data"], next_cursor=found["next_cursor"], now=_now())


async def ask_for_key(desk: Desk) -> Response:
    """The form for a new key."""
    return await _show_form(desk, BLANK, asked=_now())


async def create_key(desk: Desk) -> Response:
    """A new key, with its text; or the page of the one that this form has made before."""
    form = await desk.form()
    body, asked = _body_of(form), form.get("asked", "")
    async with desk.pages.turn:  # a form that is sent twice at once makes its key once, too
        try:
            made = await _made_before(desk, body["name"], asked)
            if made is not None:
                return desk.show("key_made.html", key=made)
            reply = (await desk.ask("POST", "/v1/keys", query=desk.of, body=body)).content
        except ApiError as error:
            return await _show_form(desk, body, asked=asked, problem=error)
    return await _show_text(desk, reply)


async def show_key(desk: Desk) -> Response:
    """A key."""
    return await _show_key(desk, await _find(desk))


async def change_key(desk: Desk) -> Response:
    """A key, renamed or with other rules."""
    key, form = await _find(desk), await desk.form()
    body = _body_of(form)
    if form.get("expires", "") == (key["expires"] or "")[:10]:
        del body["expires"]  # it stays what it was, to the second
    try:
        await desk.ask("PATCH", f"/v1/keys/{segment(key['id'])}", body=body)
    except ApiError as error:
        return await _show_key(desk, key, asked={**key, **body}, problem=error)
    return desk.go(f"/console/keys/{key['id']}", "changed")


async def rotate_key(desk: Desk) -> Response:
    """A key with a new secret, which is shown; or its page, where this form has done that before."""
    form = await desk.form()
    grace = form.get("grace", "0")
    async with desk.pages.turn:
        key = await _find(desk)
        if form.get("rotated", "") != (key["rotating_until"] or ""):
            return desk.show("key_made.html", key=key)
        try:
            body = {"grace_seconds": int(grace) if grace in dict(GRACES) else grace}
            reply = (await desk.ask("POST", f"/v1/keys/{segment(key['id'])}/rotate", body=body)).content
        except ApiError as error:
            return await _show_key(desk, key, problem=error)
    response = await _show_text(desk, reply)
    if key["id"] == desk.who["id"]:  # this session's own: it goes on with the new secret
        desk.pages.sessions.begin(desk.request, response, reply["key"])
    return response


async def revoke_key(desk: Desk) -> Response:
    """A key, ended."""
    key = await _find(desk)
    try:
        await desk.ask("DELETE", f"/v1/keys/{segment(key['id'])}")
    except ApiError as error:
        return await _show_key(desk, key, problem=error)
    return desk.go("/console/keys", "revoked")


async def _find(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = await desk.get(f"/v1/keys/{segment(desk.name('id'))}")
    return found


async def _made_before(desk: Desk, name: str, asked: str) -> dict[str, Any] | None:
    """The key of that name that the visitor has made since they were shown the form; `None` where there is none."""
    maker = f"{desk.who['credential']}:{desk.who['id']}"
    found = await desk.get("/v1/keys", **desk.of, limit=LISTED)
    return next(
        (
            key
            for key in found["data"]
            if key["name"] == name and key["created_by"] == maker and key["created"] >= asked
        ),
        None,
    )


async def _show_form(
    desk: Desk, asked_for: Mapping[str, Any], *, asked: str, problem: ApiError | None = None
) -> Response:
    return desk.show("key_new.html", problem=problem, key=asked_for, asked=asked, **await _choices(desk, asked_for))


async def _show_key(
    desk: Desk, key: Mapping[str, Any], *, asked: Mapping[str, Any] | None = None, problem: ApiError | None = None
) -> Response:
    """The page of a key, with the form that changes it as it was filled in."""
    is_over = key["revoked"] is not None or (key["expires"] is not None and key["expires"] <= _now())
    return desk.show(
        "key.html",
        problem=problem,
        key=key,
        fields=asked or key,
        is_over=is_over,
        is_own=key["id"] == desk.who["id"],
        may_change=desk.may(MANAGE) and not is_over,
        graces=GRACES,
        now=_now(),
        **await _choices(desk, asked or key),
    )


async def _show_text(desk: Desk, reply: Mapping[str, Any]) -> Response:
    """The one page on which the text of a key is."""
    first = await first_model(desk)
    origin = desk.pages.origin(desk.request)
    snippets = () if first is None or INFER not in reply["scopes"] else snippets_of(first["kind"], first["id"], origin)
    return desk.show("key_text.html", key=reply, variable=KEY, snippets=snippets)


async def _choices(desk: Desk, key: Mapping[str, Any]) -> dict[str, Any]:
    """What may be ticked: what the visitor can give, and what the key has."""
    models = (await desk.get("/v1/models"))["data"]
    providers = {slug: None for model in models for slug in model["providers"]}
    given = [scope for scope in SCOPES if desk.may(scope) or scope in key["scopes"]]
    return {
        "scopes": {scope: SCOPES.get(scope, "") for scope in given},
        "models": joined([model["id"] for model in models], key["models"]),
        "providers": joined(providers, key["providers"]),
        "is_everybody": desk.account == EVERYBODY,
    }


def _body_of(form: QueryParams) -> dict[str, Any]:
    return {
        "name": form.get("name", "").strip(),
        "scopes": chosen(form, "scopes"),
        "models": chosen(form, "models"),
        "providers": chosen(form, "providers"),
        "limits": limits_of(form),
        "zdr": is_ticked(form, "zdr"),
        "no_training": is_ticked(form, "no_training"),
        "tags": words_of(form, "tags"),
        "expires": form.get("expires", "").strip() or None,
    }


def _now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


ROUTES = (
    page("/console/keys", list_keys),
    page("/console/keys/new", ask_for_key, scope=MANAGE),
    page("/console/keys/new", create_key, method="POST"),
    page("/console/keys/{id}", show_key),
    page("/console/keys/{id}", change_key, method="POST"),
    page("/console/keys/{id}/rotate", rotate_key, method="POST"),
    page("/console/keys/{id}/revoke", revoke_key, method="POST"),
)
