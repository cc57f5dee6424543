"""Each script of `benchmarks/` starts, with no more installed than what the tests need, and says what it does."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def run_from_folder(monkeypatch):
    """A script finds those beside it; afterwards they are gone, since their names could be anybody's."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in {script.stem for script in FOLDER.glob("*.py")} & set(sys.modules):
        del sys.modules[name]


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda script: script.stem)
def test_help_tells_what_a_script_does(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    told = capsys.readouterr().out
    assert told.startswith(f"usage: {script.name}")
    assert f"python benchmarks/{script.name}" in told
