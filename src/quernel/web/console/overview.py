"""The first page of the console: what is left, what was spent, which limits bind, and how to begin."""

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from quernel.web.console.desk import INFER, READ, Desk, page
from quernel.web.console.figures import Figures, Measure, Step, add_up
from quernel.web.console.usage import key_names
from quernel.web.snippets import KEY, snippets_of

DAYS = 30
LATEST = "6"

WHOSE = {"key": "This key", "account": "The account", "address": "This address"}


async def show_overview(desk: Desk) -> Response:
    """What is left, what was spent, which limits bind."""
    figures, latest, names = None, [], {}
    if desk.may(READ):
        latest = (await desk.get("/v1/usage", limit=LATEST))["data"]
        figures = await spent_of_late(desk)
        names = await key_names(desk) if latest else {}
    first = await first_model(desk) if desk.may(INFER) else None
    return desk.show(
        "overview.html",
        figures=figures,
        measure=Measure.COST,
        days=DAYS,
        latest=latest,
        names=names,
        whose=WHOSE,
        is_new=desk.may(READ) and not latest,
        snippets=() if first is None else snippets_of(first["kind"], first["id"], desk.pages.origin(desk.request)),
        key=KEY,
    )


async def spent_of_late(desk: Desk) -> Figures:
    """What the account has used in these days, by model."""
    start = (datetime.now(UTC) - timedelta(days=DAYS - 1)).date().isoformat()
    divided = await desk.get("/v1/usage/report", start=start, by="day,model")
    whole = await desk.get("/v1/usage/report", start=start, by="day")
    return add_up(divided, whole, by="model", step=Step.DAY)


async def first_model(desk: Desk) -> dict[str, Any] | None:
    """The model that an example asks: the first that the key may, of those that make vectors if any does."""
    found = (await desk.get("/v1/models"))["data"]
    allowed = {name.lower() for name in desk.who["models"]}
    usable = [model for model in found if model["providers"] and (not allowed or model["id"].lower() in allowed)]
    embedders = [model for model in usable if model["kind"] == "embedding"]
    return next(iter(embedders or usable), None)


ROUTES = (page("/console", show_overview),)
