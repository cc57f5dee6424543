"""What was used and spent, over time and by model, provider, key, tag or user: as a chart, as tables, and as CSV."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import BAD_REQUEST, EVERYBODY, Desk, page
from quernel.web.console.figures import MEASURE_NAMES, Figures, Measure, Step, add_up
from quernel.web.pages import HEADERS

RANGES: Mapping[str, str] = {"24h": "24 hours", "7d": "7 days", "30d": "30 days", "12m": "12 months"}
USUAL_RANGE = "30d"

DIVISIONS: Mapping[str, str] = {
    "model": "Model",
    "provider": "Provider",
    "key": "Key",
    "tag": "Tag",
    "user": "User",
    "operation": "Operation",
    "credential": "Credential",
}
"""What a report is divided by, besides time."""

ACCOUNT = "account"

FILTERS = ("model", "provider", "key", "user")

LONGEST_BY_HOUR, LONGEST_BY_DAY = timedelta(days=2), timedelta(days=92)
"""Longer spans have wider columns."""

MONTHS = 12
MOST_NAMES = "1000"


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time, and how much of it a column is.

    Attributes:
        start: Its beginning, as the API takes it.
        end: Its end, itself not in it; empty for now.
        step: A column.
    """

    start: str
    end: str
    step: Step


def span_of(chosen: str, first: str, last: str, now: datetime) -> Span:
    """The span that a page's address names.

    Args:
        chosen: A word of `RANGES`, where no days are named.
        first: The first day.
        last: The last day, itself in it.
        now: The time.

    Raises:
        ValueError: The days are none, or in the wrong order.
    """
    today = now.date()
    if first or last:
        begin = date.fromisoformat(first) if first else today - timedelta(days=29)
        end = (date.fromisoformat(last) if last else today) + timedelta(days=1)
        if end <= begin:
            raise ValueError("the last day is before the first")
        length = end - begin
        by_day = Step.DAY if length <= LONGEST_BY_DAY else Step.MONTH
        return Span(begin.isoformat(), end.isoformat(), Step.HOUR if length <= LONGEST_BY_HOUR else by_day)
    match chosen:
        case "24h":
            full = now.replace(minute=0, second=0, microsecond=0)
            return Span((full - timedelta(hours=23)).isoformat(), "", Step.HOUR)
        case "7d":
            return Span((today - timedelta(days=6)).isoformat(), "", Step.DAY)
        case "12m":
            years, months = divmod(today.year * 12 + today.month - MONTHS, 12)
            return Span(date(years, months + 1, 1).isoformat(), "", Step.MONTH)
        case _:
            return Span((today - timedelta(days=29)).isoformat(), "", Step.DAY)


async def show_usage(desk: Desk) -> Response:
    """What was used in a span of time."""
    problem: ApiError | str | None = None
    figures = None
    try:
        figures = await figures_of(desk)
    except ValueError:
        problem = "Name days as YYYY-MM-DD, the last not before the first."
    except ApiError as error:
        if error.status != BAD_REQUEST:
            raise
        problem = error
    measure = measure_of(desk)
    models = (await desk.get("/v1/models"))["data"]
    names = await key_names(desk)
    return desk.show(
        "usage.html",
        problem=problem,
        figures=figures,
        measure=measure,
        measures={one.value: name for one, name in MEASURE_NAMES.items()},
        division=division_of(desk),
        divisions=divisions_of(desk),
        ranges=RANGES,
        range="" if desk.query("from") or desk.query("to") else desk.query("range") or USUAL_RANGE,
        query={name: desk.query(name) for name in ("from", "to", *FILTERS)},
        choices={
            "model": {model["id"]: model["id"] for model in models},
            "provider": {slug: slug for slug in sorted({slug for model in models for slug in model["providers"]})},
            "key": names,
        },
    )


async def figures_of(desk: Desk) -> Figures:
    """The figures that the page's address asks for.

    Raises:
        ValueError: Its days are none.
        ApiError: The API refuses it.
    """
    span = span_of(desk.query("range"), desk.query("from"), desk.query("to"), datetime.now(UTC))
    division = division_of(desk)
    try:
        divided, whole = await _reports(desk, span, division)
    except ApiError as error:
        if span.step is not Step.HOUR or error.status != BAD_REQUEST:
            raise
        span = Span(span.start, span.end, Step.DAY)  # so long ago there are sums by the day alone
        divided, whole = await _reports(desk, span, division)
    names = await names_of(desk, division)
    return add_up(divided, whole, by=division, step=span.step, name=lambda group: names.get(group, group))


async def _reports(desk: Desk, span: Span, division: str) -> tuple[Mapping[str, object], Mapping[str, object]]:
    asked = _asked(desk, span)
    time = span.step.grouping
    divided = await desk.get("/v1/usage/report", **asked, by=f"{time},{division}")
    return divided, await desk.get("/v1/usage/report", **asked, by=time)


def _asked(desk: Desk, span: Span) -> dict[str, str | None]:
    where = {name: desk.query(name) for name in FILTERS}
    return {**desk.of, **where, "start": span.start, "end": span.end}


async def give_csv(desk: Desk) -> Response:
    """The same as a file for spreadsheets: the API's, which the cookie cannot be asked with."""
    try:
        span = span_of(desk.query("range"), desk.query("from"), desk.query("to"), datetime.now(UTC))
    except ValueError:
        return await show_usage(desk)
    query = {**_asked(desk, span), "by": f"{span.step.grouping},{division_of(desk)}", "format": "csv"}
    reply = await desk.ask("GET", "/v1/usage/report", query=query)
    named = {name: reply.headers[name] for name in ("content-type", "content-disposition")}
    return Response(reply.content, headers={**HEADERS, **named, "cache-control": "no-store"})


async def names_of(desk: Desk, division: str) -> dict[str, str]:
    """What groups of a division are called whose names are ids."""
    if division == ACCOUNT:
        found = await desk.get("/v1/accounts", limit=MOST_NAMES)
        return {account["id"]: account["name"] or account["slug"] for account in found["data"]}
    return await key_names(desk) if division == "key" else {}


async def key_names(desk: Desk) -> dict[str, str]:
    """The names of keys by their ids, as far as one page of them goes."""
    found = await desk.get("/v1/keys", **desk.of, limit=MOST_NAMES)
    return {key["id"]: key["name"] for key in found["data"]}


def divisions_of(desk: Desk) -> dict[str, str]:
    """What the page can be divided by."""
    return {ACCOUNT: "Account", **DIVISIONS} if desk.account == EVERYBODY else dict(DIVISIONS)


def division_of(desk: Desk) -> str:
    """What the page is divided by."""
    chosen = desk.query("by")
    return chosen if chosen in divisions_of(desk) else "model"


def measure_of(desk: Desk) -> Measure:
    """What the page's chart is of."""
    chosen = desk.query("measure")
    return Measure(chosen) if chosen in set(Measure) else Measure.COST


ROUTES = (page("/console/usage", show_usage), page("/console/usage.csv", give_csv))
