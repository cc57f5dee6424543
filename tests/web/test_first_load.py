"""`benchmarks/first_load.py` says which bars a page misses, and ends with 1 where it misses one."""

import runpy
from pathlib import Path

import pytest

from tests.support.showroom import PLACES

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "first_load.py"))

GOOD = {
    "first_byte": 9.0,
    "first_paint": 80.0,
    "first_content": 84.0,
    "loaded": 90.0,
    "bytes": 12_340,
    "requests": 4,
    "elsewhere": 0,
}


@pytest.mark.parametrize(
    ("change", "bars"),
    [
        ({}, []),
        ({"bytes": 150_001}, ["bytes"]),
        ({"elsewhere": 1}, ["elsewhere"]),
        ({"first_content": 301.0}, []),
    ],
)
def test_a_page_misses_a_bar_by_one_load_in_bytes_and_by_its_median_in_time(change, bars):
    assert SCRIPT["missed"]([GOOD, GOOD, {**GOOD, **change}]) == bars


def test_a_page_whose_median_is_late_misses_the_bar():
    late = {**GOOD, "first_content": 301.0}
    assert SCRIPT["missed"]([GOOD, late, late]) == ["paint"]


def test_the_table_has_a_line_for_each_page_with_the_median_and_the_worst():
    loads = [GOOD, {**GOOD, "first_content": 200.0}, {**GOOD, "first_content": 90.0, "bytes": 12_400}]
    lines = SCRIPT["table"]({"home": loads, "usage": [GOOD]}).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| home, `/` | visitor | 12.4 | 4 | 9 | 80 | 90 | 200 |  |"
    assert lines[3].startswith("| usage, `/console/usage` | customer |")


def test_an_unknown_page_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        SCRIPT["main"](["--only", "nothing"])
    assert "nothing" in capsys.readouterr().err


def test_without_chromium_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.support.chromium.find_spec", lambda name: name)
    with pytest.raises(SystemExit, match="install the system's package"):
        SCRIPT["main"](["--only", "home"])


def test_each_page_is_somebodys():
    assert {place.who for place in PLACES.values()} == {"visitor", "customer", "operator"}
