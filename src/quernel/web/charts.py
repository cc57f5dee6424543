"""Charts as SVG: drawn here, coloured by the style sheet, and read aloud as their tables.

A chart is hidden from screen readers: its page has the same numbers in a table beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROW, LABEL_WIDTH, VALUE_WIDTH, WIDTH = 26, 190, 56, 640
"""Of bars, in units of the view box."""

COLUMNS_TOP, COLUMNS_HEIGHT, AXIS_WIDTH, AXIS_HEIGHT = 8, 200, 66, 26
WIDE, SLIM = 760, 360
"""Of charts of columns: on desks, and on phones."""

LABEL_ROOM = 84
"""What a label below a column takes."""

NEW_LINE = "\n"

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
"""What steps of an axis are multiples of; with powers of ten."""

EXACT = 1e-9
"""So near to a mark is on it."""

SERIES = 6
"""Colours that there are; what comes after has the last."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar.

    Attributes:
        label: What it is.
        value: How long it is.
        text: The value in words.
        is_this: Whether the page is about it.
    """

    label: str
    value: float
    text: str
    is_this: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a chart of columns.

    Attributes:
        label: What it is.
        values: One for each column.
    """

    label: str
    values: Sequence[float]


def bars(found: Sequence[Bar]) -> Markup:
    """Horizontal bars from 0, so that lengths compare, in the order that they are given in."""
    high = max((bar.value for bar in found), default=0.0)
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    parts = []
    for number, bar in enumerate(found):
        top = number * ROW
        length = room * (bar.value / high) if bar.value > 0 else 0.0
        strong = ' class="strong"' if bar.is_this else ""
        parts.append(
            f'<text x="{LABEL_WIDTH - 10}" y="{top + 17}" text-anchor="end"{strong}>{_cut(bar.label, 28)}</text>'
            f'<rect class="bar{" this" if bar.is_this else ""}" x="{LABEL_WIDTH}" y="{top + 5}" '
            f'width="{max(length, 1.0):.1f}" height="{ROW - 9}" rx="3"/>'
            f'<text x="{LABEL_WIDTH + length + 8:.1f}" y="{top + 17}"{strong}>{escape(bar.text)}</text>'
        )
    return _svg(WIDTH, max(len(found), 1) * ROW, parts)


def columns(
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    written: Callable[[float], str],
    is_whole: bool = False,
    width: int = WIDE,
) -> Markup:
    """Stacked columns over time. What is below 0 is in words alone.

    Args:
        labels: Of the columns; as many are shown as there is room for.
        series: What they are made of, the lowest first.
        written: A value in words.
        is_whole: Whether there are whole numbers alone.
        width: Of the view box; text is the larger in it the smaller that is.
    """
    sums = [sum(one.values[index] for one in series) for index in range(len(labels))]
    heights = [sum(max(one.values[index], 0.0) for one in series) for index in range(len(labels))]
    marks = ticks(max(heights, default=0.0), least=1.0 if is_whole else 0.0)
    scale = (COLUMNS_HEIGHT - COLUMNS_TOP) / (marks[-1] or 1.0)
    step = (width - AXIS_WIDTH) / max(len(labels), 1)
    every = max(1, math.ceil(len(labels) * LABEL_ROOM / (width - AXIS_WIDTH)))
    parts = []
    for mark in marks:
        height = COLUMNS_HEIGHT - mark * scale
        kind = "guide" if mark else "axis"
        parts.append(
            f'<line class="{kind}" x1="{AXIS_WIDTH}" x2="{width}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text x="{AXIS_WIDTH - 8}" y="{height + 4:.1f}" text-anchor="end">{escape(written(mark))}</text>'
        )
    for index, label in enumerate(labels):
        left, bottom = AXIS_WIDTH + index * step, float(COLUMNS_HEIGHT)
        said = [f"{one.label}: {written(one.values[index])}" for one in series if one.values[index]]
        said = [f"{label}: {written(sums[index])}", *(said if len(series) > 1 else ())]
        parts.append(
            f'<g class="column"><title>{escape(NEW_LINE.join(said))}</title>'
            f'<rect class="hit" x="{left:.1f}" y="{COLUMNS_TOP}" width="{step:.1f}" '
            f'height="{COLUMNS_HEIGHT - COLUMNS_TOP}"/>'
        )
        for number, one in enumerate(series):
            height = one.values[index] * scale
            if height > 0:
                bottom -= height
                parts.append(
                    f'<rect class="s{_colour(number)}" x="{left + step * 0.14:.1f}" y="{bottom:.1f}" '
                    f'width="{step * 0.72:.1f}" height="{height:.1f}"/>'
                )
        parts.append("</g>")
        middle = left + step / 2
        if index % every == 0 and middle + LABEL_ROOM / 2 <= width:
            parts.append(
                f'<text x="{middle:.1f}" y="{COLUMNS_HEIGHT + 20}" text-anchor="middle">{escape(label)}</text>'
            )
    return _svg(width, COLUMNS_HEIGHT + AXIS_HEIGHT, parts)


def legend(series: Sequence[Series]) -> Markup:
    """What the colours of a chart stand for, in its order."""
    items = (
        f'<li><svg class="chart" viewBox="0 0 10 10" aria-hidden="true"><rect class="s{_colour(number)}" width="10" '
        f'height="10" rx="2"/></svg>{escape(one.label)}</li>'
        for number, one in enumerate(series)
    )
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def ticks(high: float, *, least: float = 0.0) -> list[float]:
    """Round numbers from 0 to at least `high`, for an axis: five at most.

    Args:
        high: The highest value.
        least: The least from one to the next, which is a multiple of it; 0 for any.
    """
    if high <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(high / 3))
    steps = (size * factor for factor in ROUND if size * factor * 4 >= high)
    if least:
        steps = (step for step in steps if step <= least or step % least == 0)
    step = max(next(steps), least)
    return [step * number for number in range(math.ceil(high / step - EXACT) + 1)]


def _colour(number: int) -> int:
    return min(number, SERIES - 1) + 1


def _svg(width: int, height: int, parts: Sequence[str]) -> Markup:
    return Markup(f'<svg class="chart" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>')


def _cut(text: str, most: int) -> Markup:
    return escape(text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}")
