"""Who may act for an account: people of identity providers, with a role each."""

from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import Desk, page
from quernel.web.console.fields import said

ROLES = {
    "viewer": "sees keys, money and usage",
    "member": "also asks models",
    "admin": "also manages keys, settings and members",
    "owner": "as admin, and the account is theirs",
}
"""Role to what it allows."""


async def list_members(desk: Desk) -> Response:
    """Who may act for the account."""
    return await _show(desk)


async def set_member(desk: Desk) -> Response:
    """Somebody who may act for the account from now on, or otherwise."""
    form = await desk.form()
    body = said(subject=form.get("subject", ""), role=form.get("role", ""), email=form.get("email", ""))
    try:
        await desk.ask("PUT", "/v1/members", query=desk.of, body=body)
    except ApiError as error:
        return await _show(desk, body, problem=error)
    return desk.go("/console/members", "member")


async def remove_member(desk: Desk) -> Response:
    """Somebody who may no longer act for the account."""
    subject = (await desk.form()).get("subject", "")
    try:
        await desk.ask("DELETE", "/v1/members", query={**desk.of, "subject": subject})
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go("/console/members", "removed")


async def _show(desk: Desk, asked: dict[str, str] | None = None, *, problem: ApiError | None = None) -> Response:
    found = (await desk.get("/v1/members", **desk.of))["data"]
    return desk.show("members.html", problem=problem, members=found, roles=ROLES, asked=asked or {})


ROUTES = (
    page("/console/members", list_members),
    page("/console/members", set_member, method="POST"),
    page("/console/members/remove", remove_member, method="POST"),
)
