"""Who changed what, for operators."""

from starlette.responses import Response

from quernel.web.console.desk import Desk, page

FILTERS = ("actor", "action", "target")


async def show_audit(desk: Desk) -> Response:
    """A page of changes."""
    query = {name: desk.query(name) for name in FILTERS}
    found, problem = await desk.listed("/v1/audit", **query)
    return desk.show(
        "audit.html", problem=problem, changes=found["data"], next_cursor=found["next_cursor"], query=query
    )


ROUTES = (page("/console/audit", show_audit),)
