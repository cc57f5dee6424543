"""`docs/take_screenshots.py` names pages that there are, and packs a picture without changing the colours of a page."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from tests.support.showroom import PLACES

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "take_screenshots.py"))


def test_every_picture_is_of_a_page_that_there_is():
    names = [shot.name for shot in SCRIPT["SHOTS"]]
    assert len(set(names)) == len(names)
    assert {shot.place for shot in SCRIPT["SHOTS"]} <= set(PLACES)


def test_help_names_the_pictures(capsys):
    with pytest.raises(SystemExit, match="0"):
        SCRIPT["main"](["--help"])
    shown = "".join(capsys.readouterr().out.split())  # lines break within names
    assert all(shot.name in shown for shot in SCRIPT["SHOTS"])


def test_an_unknown_picture_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        SCRIPT["main"](["--only", "nothing"])
    assert "nothing" in capsys.readouterr().err


def test_without_chromium_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.support.chromium.find_spec", lambda name: name)
    with pytest.raises(SystemExit, match="install the system's package"):
        SCRIPT["main"](["-o", str(tmp_path / "pictures")])
    assert not (tmp_path / "pictures").exists()


def test_a_packed_picture_has_the_colours_that_most_of_it_has():
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    noise[20:], noise[20:40, :100] = (251, 248, 241), (240, 235, 228)
    plain = io.BytesIO()
    image.fromarray(noise).save(plain, "PNG")
    packed = SCRIPT["pack"](plain.getvalue())
    assert len(packed) < len(plain.getvalue()) / 2
    pixels = np.asarray(image.open(io.BytesIO(packed)).convert("RGB"))
    np.testing.assert_array_equal(pixels[20:], noise[20:])
    assert np.abs(pixels[:20].astype(int) - noise[:20]).mean() < 64
