"""Takes the pictures of the storefront: `python docs/take_screenshots.py [--only NAME...] [-o FOLDER]`.

Pages are those of a gateway with a month behind it (`tests/support/showroom.py`), looked at with the Chromium of this
machine under the address https://models.example.com, which is this machine's for that browser alone. Figures of live
traffic, times and the text of a new key are others each time; all else is the same on the same day and the same fonts:
Debian's fonts-noto-core and fonts-noto-cjk.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from tests.support.showroom import Showroom

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images" / "storefront"

HOST = "models.example.com"
WIDTH, HEIGHT = 1280, 800
THEMES = ("light", "dark")
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}

SAMPLE = "Six languages"
"""Of the playground; the built-in models do well with it."""

COLOURS = 256
ABOVE = 200
"""Pixels above a heading, where the bar of the page is, and in the playground the slider."""

MILLISECONDS = 20_000
"""The longest that anything on a page is waited for."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture.

    Attributes:
        name: Its name, without what says how it was taken.
        place: The page, by its name in the showroom.
        do: What is done there first.
        height: How much of the page is in it.
        phone: Whether there is one of a phone, too.
    """

    name: str
    place: str
    do: Callable[["Page"], None] = lambda page: None
    height: int = HEIGHT
    phone: bool = False


def run_sample(title: str, dimensions: int | None = None, begin: str = "h1") -> Callable[["Page"], None]:
    """What fills in a sample of the playground, runs it, looks at so much of the vectors, and goes to a heading.

    On a phone the page has gone to the result by itself, and stays there.
    """

    def do(page: "Page") -> None:
        page.get_by_role("link", name=title, exact=True).click()
        page.get_by_role("button", name="Run").click()
        page.wait_for_selector("[data-outcome]")
        if dimensions is not None:
            page.get_by_role("slider", name="Dimensions").fill(str(dimensions))
            page.get_by_text(f"{dimensions} of").wait_for()
        page.mouse.move(0, 0)  # what it lies over is lit
        if not page.evaluate("matchMedia('(pointer: coarse)').matches"):
            top = page.locator(begin).first.evaluate("(found) => found.getBoundingClientRect().top + scrollY")
            page.evaluate(f"scrollTo(0, {top - ABOVE})")

    return do


def make_key(page: "Page") -> None:
    """Make a key, whose text the next page shows."""
    page.get_by_label("Name").fill("Catalogue import")
    page.locator("form[data-once] button").last.click()
    page.wait_for_selector("#key-text")


SHOTS = (
    Shot(name="home", place="home", phone=True),
    Shot(name="models", place="models", phone=True),
    Shot(name="model-builtin", place="model", phone=True),
    Shot(name="model", place="model-remote", height=1360),
    Shot(name="compare", place="compare"),
    Shot(name="playground", place="playground", do=run_sample(SAMPLE, 64), height=1000, phone=True),
    Shot(name="playground-map", place="playground", do=run_sample(SAMPLE, begin="#heat-title"), height=1240),
    Shot(name="playground-rerank", place="playground-reranker", do=run_sample(SAMPLE), height=1000),
    Shot(name="sign-in", place="sign-in"),
    Shot(name="overview", place="overview", phone=True),
    Shot(name="keys", place="keys", phone=True),
    Shot(name="key-new", place="key-new", do=make_key),
    Shot(name="usage", place="usage", phone=True),
    Shot(name="requests", place="requests"),
    Shot(name="ledger", place="ledger"),
    Shot(name="providers", place="providers"),
)


def take(browser: "Browser", room: "Showroom", cookies: Mapping[str, Any], shot: Shot) -> Iterable[tuple[str, bytes]]:
    """The pictures of one page by their names."""
    from tests.support.showroom import PLACES

    desk: dict[str, Any] = {"viewport": {"width": WIDTH, "height": shot.height}}
    ways = [(theme, {**desk, "color_scheme": theme}) for theme in THEMES]
    if shot.phone:
        ways.append(("phone", {**PHONE, "color_scheme": THEMES[0]}))
    for way, screen in ways:
        visitor: dict[str, Any] = {
            "storage_state": cookies[PLACES[shot.place].who],
            "ignore_https_errors": True,
            "locale": "en-GB",
        }
        with browser.new_context(**screen, **visitor, reduced_motion="reduce") as context:
            context.set_default_timeout(MILLISECONDS)
            page = context.new_page()
            page.goto(f"https://{HOST}{room.path(shot.place)}", wait_until="networkidle")
            shot.do(page)
            yield f"{shot.name}-{way}", page.screenshot(animations="disabled", caret="hide")


def pack(png: bytes) -> bytes:
    """A picture in the colours that it has most of, where Pillow is there to write it; else as it is.

    A page has few that matter, and letters that fade into them: what is left out becomes the nearest that stays.
    """
    with suppress(ImportError):
        from PIL import Image

        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        colours, places, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
        kept = colours[np.argsort(-counts, kind="stable")[:COLOURS]]
        apart = ((colours[:, None].astype(np.int32) - kept[None]) ** 2).sum(axis=-1)
        few = Image.fromarray(apart.argmin(axis=1).astype(np.uint8)[places].reshape(pixels.shape[:2]))
        few.putpalette(kept.tobytes())
        packed = io.BytesIO()
        few.save(packed, "PNG", optimize=True)
        return min(png, packed.getvalue(), key=len)
    return png


def main(arguments: list[str] | None = None) -> None:
    """Take those that are asked for."""
    names = [shot.name for shot in SHOTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder of the pictures")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    from tests.support.chromium import chromium, missing, sign_in
    from tests.support.showroom import showroom

    if missing():
        raise SystemExit(missing())
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, showroom(Path(folder), https=True) as room:
        here = f"--host-resolver-rules=MAP {HOST} {room.url.removeprefix('https://')}"
        with chromium(here) as browser:
            cookies = {"visitor": None} | {
                who: sign_in(browser, f"https://{HOST}", room.keys[who], ignore_https_errors=True)
                for who in ("customer", "operator")
            }
            for shot in SHOTS:
                if shot.name in given.only:
                    for name, png in take(browser, room, cookies, shot):
                        packed = pack(png)
                        (given.output / f"{name}.png").write_bytes(packed)
                        print(f"{name}.png  {len(packed):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
