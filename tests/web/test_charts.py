"""Charts: well-formed, to scale, inside their frames, and of nothing but numbers and text."""

import itertools
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel.web.charts import (
    COLUMNS_HEIGHT,
    COLUMNS_TOP,
    LABEL_ROOM,
    LABEL_WIDTH,
    ROW,
    SERIES,
    SLIM,
    VALUE_WIDTH,
    WIDE,
    WIDTH,
    Bar,
    Series,
    bars,
    columns,
    legend,
    ticks,
)

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"""
ROOM = WIDTH - LABEL_WIDTH - VALUE_WIDTH


class Drawn:
    """A chart, taken apart: it must be well-formed."""

    def __init__(self, markup):
        self.root = ElementTree.fromstring(markup)
        self.width, self.height = (float(number) for number in self.root.get("viewBox").split()[2:])
        self.tags = {element.tag for element in self.root.iter()}

    def texts(self, tag="text"):
        return [element.text for element in self.root.iter(tag)]

    def numbers(self, name, *, of="rect", where=lambda element: True):
        return [float(element.get(name)) for element in self.root.iter(of) if where(element)]

    def check(self):
        """All that is drawn is inside the frame."""
        assert self.root.get("aria-hidden") == "true"
        assert self.tags <= {"svg", "g", "title", "rect", "line", "text"}
        for rect in self.root.iter("rect"):
            left, top, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            assert all(math.isfinite(number) for number in (left, top, width, height))
            assert left >= 0
            assert top >= 0
            assert width >= 0
            assert height >= 0
            assert left + width <= self.width + 0.2
            assert top + height <= self.height + 0.2
        return self


def drawn_bars(*values):
    return Drawn(bars([Bar("a", value, f"{value}") for value in values])).check()


def drawn_columns(*values, labels=None, **more):
    labels = labels or [f"day {index}" for index in range(len(values[0]) if values else 0)]
    series = [Series(f"s{number}", one) for number, one in enumerate(values)]
    return Drawn(columns(labels, series, written=lambda value: f"{value:g}", **more)).check()


def stacks(chart):
    """Heights of the parts of each column."""
    return [
        [float(rect.get("height")) for rect in group.iter("rect") if rect.get("class") != "hit"]
        for group in chart.root.iter("g")
    ]


# Bars


def test_bars_are_as_long_as_their_values_are_great():
    assert drawn_bars(80, 40, 20, 0).numbers("width") == [ROOM, ROOM / 2, ROOM / 4, 1.0]


def test_no_bars_are_an_empty_chart():
    chart = drawn_bars()
    assert list(chart.root) == []
    assert chart.height == ROW


@pytest.mark.parametrize(
    ("values", "lengths"),
    [
        ([0, 0], [1, 1]),
        ([-5, -1], [1, 1]),
        ([10, -10], [ROOM, 1]),
        ([1e308, 5e307], [ROOM, ROOM / 2]),
        ([1e-308, 1e-309], [ROOM, ROOM / 10]),
        ([1e300, 1], [ROOM, 1]),
    ],
)
def test_bars_of_any_values_stay_in_the_frame(values, lengths):
    assert drawn_bars(*values).numbers("width") == pytest.approx(lengths, abs=0.06)


def test_the_bar_of_the_page_stands_out():
    chart = Drawn(bars([Bar("one", 2, "2.00"), Bar("two", 1, "1.00", is_this=True)])).check()
    assert [rect.get("class") for rect in chart.root.iter("rect")] == ["bar", "bar this"]
    assert [text.get("class") for text in chart.root.iter("text")] == [None, None, "strong", "strong"]


def test_labels_are_text_and_long_ones_are_cut():
    chart = Drawn(bars([Bar(HOSTILE, 1, HOSTILE), Bar("x" * 28, 1, "1"), Bar("x" * 29, 1, "1")])).check()
    cut = f"{HOSTILE[:27]}\N{HORIZONTAL ELLIPSIS}"
    long = "x" * 27 + "\N{HORIZONTAL ELLIPSIS}"
    assert chart.texts() == [cut, HOSTILE, "x" * 28, "1", long, "1"]


# Columns


def test_columns_are_stacked_to_scale():
    chart = drawn_columns([4, 0, 2], [4, 8, 0])
    height = COLUMNS_HEIGHT - COLUMNS_TOP
    assert stacks(chart) == [[height / 2, height / 2], [height], [height / 4]]
    assert chart.texts("title") == ["day 0: 8\ns0: 4\ns1: 4", "day 1: 8\ns1: 8", "day 2: 2\ns0: 2"]


def test_no_columns_are_axes_alone():
    for chart in (drawn_columns(), drawn_columns([]), drawn_columns([], [])):
        assert stacks(chart) == []
        assert chart.texts() == ["0", "1"]


def test_columns_of_nothing_are_empty():
    assert stacks(drawn_columns([0, 0], [0.0, 0.0])) == [[], []]


def test_what_is_below_zero_is_in_words_alone():
    chart = drawn_columns([10, -4], [-8, -1])
    assert stacks(chart) == [[COLUMNS_HEIGHT - COLUMNS_TOP], []]
    assert chart.texts("title") == ["day 0: 2\ns0: 10\ns1: -8", "day 1: -5\ns0: -4\ns1: -1"]


@pytest.mark.parametrize("width", [WIDE, SLIM])
@pytest.mark.parametrize("count", [1, 2, 9, 12, 31, 366])
def test_columns_of_any_number_stay_in_the_frame_and_labels_do_not_touch(count, width):
    chart = drawn_columns([1e300] * count, [1e-300] * count, width=width)
    assert len(stacks(chart)) == count
    places = chart.numbers("x", of="text", where=lambda text: text.get("text-anchor") == "middle")
    assert 1 <= len(places) <= count
    assert all(right - left >= LABEL_ROOM - 0.2 for left, right in itertools.pairwise(places))
    assert all(LABEL_ROOM / 2 <= place <= width - LABEL_ROOM / 2 + 0.1 for place in places)


def test_columns_labels_and_series_are_text():
    markup = columns([HOSTILE], [Series(HOSTILE, [1]), Series(HOSTILE, [2])], written=lambda value: HOSTILE)
    chart = Drawn(markup).check()
    assert chart.texts("title") == [f"{HOSTILE}: {HOSTILE}\n{HOSTILE}: {HOSTILE}\n{HOSTILE}: {HOSTILE}"]
    assert set(chart.texts()) == {HOSTILE}
    assert "<script>" not in legend([Series(HOSTILE, [1])])


def test_series_beyond_the_colours_have_the_last():
    series = [Series(f"s{number}", [1.0]) for number in range(SERIES + 3)]
    chart = Drawn(columns(["day"], series, written=str)).check()
    classes = [rect.get("class") for rect in chart.root.iter("rect")]
    assert classes[1:] == [f"s{min(number, SERIES)}" for number in range(1, SERIES + 4)]
    key = ElementTree.fromstring(legend(series))
    assert [rect.get("class") for rect in key.iter("rect")] == classes[1:]
    assert [item[0].tail for item in key] == [one.label for one in series]


def test_no_series_have_an_empty_legend():
    assert legend([]) == '<ul class="legend"></ul>'


# Axes


@settings(deadline=None)
@given(st.one_of(st.floats(1e-300, 1e300), st.integers(1, 10**18)))
def test_an_axis_reaches_the_highest_value_in_a_few_equal_steps(high):
    found = ticks(high)
    assert found[0] == 0
    assert high * (1 - 1e-6) <= found[-1] < high * 3
    assert 2 <= len(found) <= 5
    assert found == pytest.approx([found[1] * number for number in range(len(found))])


@settings(deadline=None)
@given(st.one_of(st.integers(1, 100), st.integers(1, 10**18)))
def test_an_axis_of_whole_numbers_has_no_others(high):
    found = ticks(high, least=1.0)
    assert 2 <= len(found) <= 5
    assert found[-1] >= high * (1 - 1e-6)
    assert all(mark == int(mark) for mark in found)


@pytest.mark.parametrize(
    ("high", "marks"),
    [(1, [0, 1]), (4, [0, 1, 2, 3, 4]), (5, [0, 2, 4, 6]), (9, [0, 5, 10]), (90, [0, 25, 50, 75, 100])],
)
def test_marks_of_whole_numbers(high, marks):
    assert ticks(high, least=1.0) == marks


@pytest.mark.parametrize("high", [0, -1, -1e300])
def test_an_axis_of_nothing_is_one_step(high):
    assert ticks(high) == [0.0, 1.0]
