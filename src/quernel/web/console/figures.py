"""A report of the API as a page shows it: a chart over time, the table of its numbers, and a line for each group.

Nothing is measured here. The API's lines are added up, money exactly, and the greatest groups get a colour each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from markupsafe import Markup

from quernel.web.charts import SERIES, SLIM, WIDE, Series, columns, legend
from quernel.web.numbers import count, money, short

COUNTED = ("requests", "errors", "items", "tokens", "output_tokens", "documents")
PAID = ("cost", "upstream_cost")

OTHERS = "All others"
NOBODY = "\N{EM DASH}"
"""What a group of no name is called: no user, no tag, or no provider that answered."""


class Step(StrEnum):
    """How much time a column of a chart is."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    @property
    def grouping(self) -> str:
        """What the API is asked to divide by."""
        return "hour" if self is Step.HOUR else "day"


LETTERS: Mapping[Step, int] = {Step.HOUR: len("2026-01-31T14"), Step.DAY: len("2026-01-31"), Step.MONTH: len("2026-01")}
"""How much of a moment, as ISO 8601, says which column it is in."""


class Measure(StrEnum):
    """What a chart is of."""

    COST = "cost"
    REQUESTS = "requests"
    TOKENS = "tokens"
    DOCUMENTS = "documents"
    ERRORS = "errors"


MEASURE_NAMES: Mapping[Measure, str] = {
    Measure.COST: "Spend",
    Measure.REQUESTS: "Requests",
    Measure.TOKENS: "Tokens read",
    Measure.DOCUMENTS: "Documents ranked",
    Measure.ERRORS: "Failed requests",
}


@dataclass(slots=True)
class Sums:
    """What lines of a report come to.

    Attributes:
        requests: Requests, failed ones too.
        errors: Those that failed.
        items: Texts and documents.
        tokens: Tokens that models read.
        output_tokens: Tokens that they wrote.
        documents: Documents that they ranked.
        cost: What was charged, in dollars.
        upstream_cost: What it is at the providers' prices.
        milliseconds: Time of all requests together.
    """

    requests: int = 0
    errors: int = 0
    items: int = 0
    tokens: int = 0
    output_tokens: int = 0
    documents: int = 0
    cost: Decimal = Decimal(0)
    upstream_cost: Decimal = Decimal(0)
    milliseconds: float = 0.0

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + line[name])
        for name in PAID:
            setattr(self, name, getattr(self, name) + Decimal(line[name]))
        self.milliseconds += line["milliseconds"]

    @property
    def mean_milliseconds(self) -> float | None:
        """Of a request."""
        return self.milliseconds / self.requests if self.requests else None


@dataclass(frozen=True)
class Figures:
    """A report, added up.

    Attributes:
        step: How much time a column is.
        places: The columns, as the beginnings of moments in ISO 8601.
        groups: What is used by each group, the greatest first.
        cells: What is used by each group in each column.
        total: What is used altogether.
        over_time: The same in each column.
        name: What a group is called.
    """

    step: Step
    places: Sequence[str]
    groups: Mapping[str, Sums]
    cells: Mapping[tuple[str, str], Sums]
    total: Sums
    over_time: Mapping[str, Sums]
    name: Callable[[str], str]

    @property
    def labels(self) -> list[str]:
        """What the columns are called."""
        return [_label(place, self.step) for place in self.places]

    def bands(self, measure: Measure) -> list[tuple[str, list[Decimal | int]]]:
        """The greatest groups and the others together, each with its number in every column."""
        most = SERIES if len(self.groups) <= SERIES else SERIES - 1
        names = sorted(self.groups, key=lambda group: -getattr(self.groups[group], measure))
        found = [(self.name(group), self._numbers((group,), measure)) for group in names[:most]]
        return [*found, (OTHERS, self._numbers(names[most:], measure))] if len(names) > most else found

    def chart(self, measure: Measure) -> Markup:
        """The chart, once for desks and once for phones, with what its colours mean."""
        series = [Series(label, [float(number) for number in numbers]) for label, numbers in self.bands(measure)]
        is_money = measure is Measure.COST
        drawn = (
            (
                kind,
                columns(
                    self.labels, series, written=_dollars if is_money else short, is_whole=not is_money, width=width
                ),
            )
            for kind, width in (("wide", WIDE), ("slim", SLIM))
        )
        charts = Markup("").join(Markup('<div class="{}">{}</div>').format(kind, chart) for kind, chart in drawn)
        return charts + (legend(series) if len(series) > 1 else Markup(""))

    def rows(self, measure: Measure) -> list[tuple[str, list[str], str]]:
        """The numbers of the chart in words: each column's label, its bands, and what is used in it altogether."""
        bands = [numbers for _, numbers in self.bands(measure)]
        empty = Sums()
        return [
            (
                label,
                [written(numbers[index], measure) for numbers in bands],
                written(getattr(self.over_time.get(place, empty), measure), measure),
            )
            for index, (place, label) in enumerate(zip(self.places, self.labels, strict=True))
        ]

    def _numbers(self, groups: Sequence[str], measure: Measure) -> list[Decimal | int]:
        empty = Sums()
        return [
            sum(getattr(self.cells.get((place, group), empty), measure) for group in groups) for place in self.places
        ]


def written(number: Decimal | int, measure: Measure) -> str:
    """A number of a measure in words, exactly."""
    return money(str(number)) if measure is Measure.COST else count(int(number))


def add_up(
    divided: Mapping[str, Any],
    whole: Mapping[str, Any],
    *,
    by: str,
    step: Step,
    name: Callable[[str], str] = lambda group: group,
) -> Figures:
    """The figures of a report.

    Args:
        divided: The API's report, divided by time and by a group.
        whole: The same, divided by time alone: a request with two tags is in it once.
        by: The group.
        step: How much time a column is.
        name: What a group is called.
    """
    letters = LETTERS[step]
    groups: dict[str, Sums] = {}
    cells: dict[tuple[str, str], Sums] = {}
    for line in divided["data"]:
        group, place = line["group"][by], line["group"][step.grouping][:letters]
        groups.setdefault(group, Sums()).add(line)
        cells.setdefault((place, group), Sums()).add(line)
    total = Sums()
    over_time: dict[str, Sums] = {}
    for line in whole["data"]:
        total.add(line)
        over_time.setdefault(line["group"][step.grouping][:letters], Sums()).add(line)
    return Figures(
        step=step,
        places=places_of(divided["start"], divided["end"], step),
        groups=dict(sorted(groups.items(), key=lambda found: (-found[1].cost, -found[1].requests, found[0]))),
        cells=cells,
        total=total,
        over_time=over_time,
        name=lambda group: name(group) if group else NOBODY,
    )


def places_of(start: str, end: str, step: Step) -> list[str]:
    """The columns from a moment until another, as beginnings of moments."""
    letters = LETTERS[step]
    moment, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    width = timedelta(hours=1) if step is Step.HOUR else timedelta(days=1)
    found: dict[str, None] = {}
    while moment < last:
        found[moment.astimezone(UTC).isoformat()[:letters]] = None
        moment += width
    return list(found)


def _label(place: str, step: Step) -> str:
    match step:
        case Step.HOUR:
            return f"{place[-2:]}:00"
        case Step.DAY:
            day = datetime.fromisoformat(place)
            return f"{day.day} {day:%b}"
        case Step.MONTH:
            return f"{datetime.fromisoformat(place + '-01'):%b %Y}"


def _dollars(value: float) -> str:
    return money(f"{Decimal(f'{value:.12g}'):f}")
