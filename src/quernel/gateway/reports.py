"""Reports of what was used, as they are asked for and written."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quernel.errors import InvalidRequestError
from quernel.gateway.limits import DAY_MS
from quernel.gateway.money import format_dollars
from quernel.gateway.usage import HOUR_MS, MEASURES, Grouping, Line, Report
from quernel.protocols.gateway_admin import ReportLine, UsageReport, format_time

DAYS = 30
"""How far a report goes back where nobody says."""

MONEY = frozenset({"cost", "upstream_cost"})
"""Measures that are money."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Where the text of a cell begins with one of these, a spreadsheet would compute it."""


def build_report(
    by: str,
    *,
    now: int,
    start: int | None = None,
    end: int | None = None,
    account: str | None = None,
    where: Mapping[str, str | None] | None = None,
    tags: str | None = None,
) -> Report:
    """What a report is to be about.

    Args:
        by: What it is divided by, with commas between.
        now: The time, in milliseconds since 1970.
        start: From when; 30 days before `end` where nothing is said.
        end: Until when; the end of this hour where nothing is said.
        account: Of whom; `None` for all.
        where: Column to the value that it must have; `None` for any.
        tags: Tags of which a request must have one, with commas between.

    Raises:
        InvalidRequestError: No such grouping, or times that are no full hours or in the wrong order.
    """
    end = now - now % HOUR_MS + HOUR_MS if end is None else end
    start = max(end - end % DAY_MS - DAYS * DAY_MS if start is None else start, 0)
    for name, moment in (("start", start), ("end", end)):
        if moment % HOUR_MS:
            raise InvalidRequestError(
                f"{name} is {format_time(moment)}.", param=name, hint="Usage is kept by the hour: name a full one."
            )
    if start >= end:
        raise InvalidRequestError(
            f"end is {format_time(end)}, which is not after start, {format_time(start)}.",
            param="end",
            hint="Name a later end or an earlier start.",
        )
    return Report(
        start=start,
        end=end,
        by=parse_groupings(by),
        account=account,
        where={column: value for column, value in (where or {}).items() if value is not None},
        tags=[tag for tag in (tags or "").split(",") if tag],
    )


def parse_groupings(text: str) -> tuple[Grouping, ...]:
    """What a report is divided by, from words with commas between.

    Raises:
        InvalidRequestError: No such word, or none.
    """
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if word not in set(Grouping)]
    if unknown:
        raise InvalidRequestError(f"by holds {unknown[0]!r}.", param="by", hint=f"Of {', '.join(Grouping)}.")
    return tuple(dict.fromkeys(Grouping(word) for word in words))


def show_report(wanted: Report, lines: Sequence[Line]) -> UsageReport:
    """A report as a reply."""
    return UsageReport(
        start=format_time(wanted.start),
        end=format_time(wanted.end),
        by=[grouping.value for grouping in wanted.by],
        data=[ReportLine(group=_named(line), **_measured(line)) for line in lines],
    )


def write_report(wanted: Report, lines: Sequence[Line]) -> str:
    """A report as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    measures = [f"{measure}_usd" if measure in MONEY else measure for measure in MEASURES]
    writer.writerow([*(grouping.value for grouping in wanted.by), *measures])
    for line in lines:
        named, measured = _named(line), _measured(line)
        cells = [_cell(named[grouping.value]) for grouping in wanted.by]
        writer.writerow([*cells, *(measured[measure] for measure in MEASURES)])
    return file.getvalue()


def _named(line: Line) -> dict[str, str]:
    return {Grouping(grouping).value: value for grouping, value in line.group.items()}


def _measured(line: Line) -> dict[str, Any]:
    shown: Mapping[str, Callable[[Any], Any]] = dict.fromkeys(MONEY, format_dollars) | {
        "milliseconds": lambda number: round(number, 3)
    }
    return {measure: shown.get(measure, int)(getattr(line, measure)) for measure in MEASURES}


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
