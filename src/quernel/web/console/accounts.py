"""Accounts, for operators: a list, making one, and a page for each with its money, status and what it is granted."""

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import LISTED, Desk, page, segment
from quernel.web.console.fields import is_ticked, limits_of, said, words_of

CREDITS = {"purchase": "Purchase", "grant": "Gift", "refund": "Refund", "adjustment": "Adjustment"}
STATUSES = {
    "active": ("Activate", "Its requests are answered again."),
    "suspended": ("Suspend", "Its requests are refused until it is activated again."),
    "closed": ("Close", "Its requests are refused. Its money and usage stay in the books."),
}
"""Status to what is done to an account that gets it, and what that means."""

LISTS = ("models", "providers", "regions", "issuers")
RULES = ("zdr", "no_training", "capture")


async def list_accounts(desk: Desk) -> Response:
    """All accounts, or on to the one that was looked for."""
    wanted = desk.query("slug")
    if wanted:
        found = await desk.get(f"/v1/accounts/{segment(wanted)}")
        return desk.pages.go(f"/console/accounts/{found['slug']}")
    return await _show_list(desk, {})


async def create_account(desk: Desk) -> Response:
    """A new account."""
    form = await desk.form()
    asked = said(**{name: form.get(name, "") for name in ("slug", "name", "kind", "welcome")})
    try:
        made = (await desk.ask("POST", "/v1/accounts", body=asked)).content
    except ApiError as error:
        return await _show_list(desk, asked, problem=error)
    return desk.go(f"/console/accounts/{made['slug']}", "created")


async def show_account(desk: Desk) -> Response:
    """An account."""
    return await _show(desk)


async def change_account(desk: Desk) -> Response:
    """An account, changed."""
    try:
        changed = (await desk.ask("PATCH", _path(desk), body=_body_of(await desk.form()))).content
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go(f"/console/accounts/{changed['slug']}", "changed")


async def set_status(desk: Desk) -> Response:
    """An account whose requests are answered from now on, or no more."""
    try:
        await desk.ask("PATCH", _path(desk), body={"status": (await desk.form()).get("status", "")})
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go(f"/console/accounts/{desk.name('name')}", "changed")


async def credit_account(desk: Desk) -> Response:
    """Money for an account, once for each reference."""
    form = await desk.form()
    body = said(**{name: form.get(name, "") for name in ("amount", "kind", "reference", "note")})
    try:
        reply = (await desk.ask("POST", f"{_path(desk)}/credit", body=body)).content
    except ApiError as error:
        return await _show(desk, credit=body, problem=error)
    return desk.go(f"/console/accounts/{desk.name('name')}", "credited" if reply["entered"] else "entered")


def _path(desk: Desk) -> str:
    return f"/v1/accounts/{segment(desk.name('name'))}"


def _body_of(form: QueryParams) -> dict[str, Any]:
    return {
        "name": form.get("name", "").strip(),
        "limits": limits_of(form),
        **{name: words_of(form, name) for name in LISTS},
        **{name: is_ticked(form, name) for name in RULES},
    }


async def _show_list(desk: Desk, asked: Mapping[str, Any], *, problem: ApiError | None = None) -> Response:
    found = await desk.get("/v1/accounts", limit=LISTED, cursor=desk.query("cursor"))
    return desk.show(
        "accounts.html", problem=problem, accounts=found["data"], next_cursor=found["next_cursor"], asked=asked
    )


async def _show(desk: Desk, *, credit: Mapping[str, Any] | None = None, problem: ApiError | None = None) -> Response:
    return desk.show(
        "account.html",
        problem=problem,
        found=await desk.get(_path(desk)),
        credit=credit or {"reference": f"console-{secrets.token_hex(6)}"},
        credits=CREDITS,
        statuses=STATUSES,
        lists=LISTS,
    )


ROUTES = (
    page("/console/accounts", list_accounts),
    page("/console/accounts", create_account, method="POST"),
    page("/console/accounts/{name}", show_account),
    page("/console/accounts/{name}", change_account, method="POST"),
    page("/console/accounts/{name}/status", set_status, method="POST"),
    page("/console/accounts/{name}/credit", credit_account, method="POST"),
)
