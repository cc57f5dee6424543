"""Who changed what, for operators."""

from typing import Any

from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import BAD_REQUEST, Desk, page

LISTED = "50"
FILTERS = ("actor", "action", "target")


async def show_audit(desk: Desk) -> Response:
    """A page of changes."""
    query = {name: desk.query(name) for name in FILTERS}
    problem: ApiError | None = None
    found: dict[str, Any] = {"data": [], "next_cursor": None}
    try:
        found = await desk.get("/v1/audit", **query, limit=LISTED, cursor=desk.query("cursor"))
    except ApiError as error:
        if error.status != BAD_REQUEST:
            raise
        problem = error
    return desk.show(
        "audit.html", problem=problem, changes=found["data"], next_cursor=found["next_cursor"], query=query
    )


ROUTES = (page("/console/audit", show_audit),)
