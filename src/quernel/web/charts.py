"""Charts as SVG: drawn here, coloured by the style sheet, and read aloud as their tables.

A chart is hidden from screen readers: its page has the same numbers in a table beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROW, LABEL_WIDTH, VALUE_WIDTH, WIDTH = 26, 190, 56, 640
"""Of bars, in units of the view box."""

COLUMNS_HEIGHT, AXIS_WIDTH, AXIS_HEIGHT = 200, 62, 26
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


def bars(found: Sequence[Bar], *, least: float | None = None) -> Markup:
    """Horizontal bars, in the order that they are given in.

    Args:
        found: The bars.
        least: What the left edge stands for; by default 0, so that lengths compare.
    """
    low = 0.0 if least is None else least
    high = max((bar.value for bar in found), default=1.0)
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    parts = []
    for number, bar in enumerate(found):
        top = number * ROW
        length = room * max(bar.value - low, 0.0) / ((high - low) or 1.0)
        strong = ' class="strong"' if bar.is_this else ""
        parts.append(
            f'<text x="{LABEL_WIDTH - 10}" y="{top + 17}" text-anchor="end"{strong}>{_cut(bar.label, 28)}</text>'
            f'<rect class="bar{" this" if bar.is_this else ""}" x="{LABEL_WIDTH}" y="{top + 5}" '
            f'width="{max(length, 1.0):.1f}" height="{ROW - 9}" rx="3"/>'
            f'<text x="{LABEL_WIDTH + length + 8:.1f}" y="{top + 17}"{strong}>{escape(bar.text)}</text>'
        )
    return _svg(WIDTH, max(len(found), 1) * ROW, parts)


def columns(labels: Sequence[str], series: Sequence[Series], *, top_text: str, width: int = 760) -> Markup:
    """Stacked columns over time.

    Args:
        labels: Of the columns; as many are shown as there is room for.
        series: What they are made of, the lowest first.
        top_text: The height of the highest column in words.
        width: Of the view box.
    """
    sums = [sum(one.values[index] for one in series) for index in range(len(labels))]
    high = max(sums, default=0.0) or 1.0
    step = (width - AXIS_WIDTH) / max(len(labels), 1)
    parts = [
        f'<line class="guide" x1="{AXIS_WIDTH}" x2="{width}" y1="8" y2="8"/>',
        f'<text x="{AXIS_WIDTH - 8}" y="12" text-anchor="end">{escape(top_text)}</text>',
        f'<text x="{AXIS_WIDTH - 8}" y="{COLUMNS_HEIGHT + 4}" text-anchor="end">0</text>',
    ]
    for index, label in enumerate(labels):
        left, bottom = AXIS_WIDTH + index * step, float(COLUMNS_HEIGHT)
        for number, one in enumerate(series):
            height = (COLUMNS_HEIGHT - 8) * one.values[index] / high
            if height > 0:
                bottom -= height
                parts.append(
                    f'<rect class="s{min(number, SERIES - 1) + 1}" x="{left + step * 0.12:.1f}" y="{bottom:.1f}" '
                    f'width="{step * 0.76:.1f}" height="{height:.1f}"/>'
                )
        every = max(1, round(len(labels) / 8))
        if index % every == 0:
            middle = left + step / 2
            parts.append(
                f'<text x="{middle:.1f}" y="{COLUMNS_HEIGHT + 20}" text-anchor="middle">{escape(label)}</text>'
            )
    parts.append(f'<line class="axis" x1="{AXIS_WIDTH}" x2="{width}" y1="{COLUMNS_HEIGHT}" y2="{COLUMNS_HEIGHT}"/>')
    return _svg(width, COLUMNS_HEIGHT + AXIS_HEIGHT, parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> Markup:
    return Markup(f'<svg class="chart" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>')


def _cut(text: str, most: int) -> Markup:
    return escape(text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}")
