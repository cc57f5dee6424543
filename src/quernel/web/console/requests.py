"""Requests, the newest first, and a page for each: who served it, what was tried, how long it took and what it cost.

What was asked and answered is not in the books, so it is not here either.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.responses import Response

from quernel.web.console.desk import EVERYBODY, OPERATE, READ, Desk, page
from quernel.web.console.usage import key_names

FILTERS = ("model", "provider", "key", "user", "start", "end")
MOST_LISTED = "1000"


async def list_requests(desk: Desk) -> Response:
    """A page of requests."""
    query = {name: desk.query(name) for name in FILTERS}
    found, problem = await desk.listed("/v1/usage", **desk.of, **{**query, "end": _next_day(query["end"])})
    models = (await desk.get("/v1/models"))["data"]
    return desk.show(
        "requests.html",
        problem=problem,
        requests=found["data"],
        next_cursor=found["next_cursor"],
        query=query,
        names=await key_names(desk),
        choices={
            "model": sorted({model["id"] for model in models}),
            "provider": sorted({slug for model in models for slug in model["providers"]}),
        },
    )


def _next_day(day: str) -> str:
    """Where a span ends of which a day is the last; what is no day is for the API to refuse."""
    try:
        return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
    except ValueError:
        return day


async def show_request(desk: Desk) -> Response:
    """One request."""
    generation = (await desk.get("/v1/generation", id=desk.name("id")))["data"]
    cost = f"{Decimal(str(generation['total_cost'])):f}"
    row: dict[str, Any] | None = None
    names: dict[str, str] = {}
    if desk.may(READ):
        # The API finds a request by its moment: it has no other address for all that is known of one.
        moment = datetime.fromisoformat(generation["created_at"])
        account = EVERYBODY if desk.may(OPERATE) else None
        start, end = (at.isoformat() for at in (moment, moment + timedelta(milliseconds=1)))
        found = await desk.get("/v1/usage", account=account, start=start, end=end, limit=MOST_LISTED)
        row = next((one for one in found["data"] if one["id"] == generation["id"]), None)
        names = await key_names(desk)
    return desk.show("request.html", generation=generation, cost=cost, row=row, names=names)


ROUTES = (page("/console/requests", list_requests), page("/console/requests/{id}", show_request))
