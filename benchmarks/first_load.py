"""What the first look at a page of the storefront takes: bytes, requests, and the time until something is painted.

    python benchmarks/first_load.py [--rounds 7] [--only NAME ...] [--json FILE]

Every page of a gateway with a month behind it (`tests/support/showroom.py`), each as whoever it is for, in Chromium
with an empty cache, on this machine: gateway, providers and browser share its cores. Bytes are what came over the wire
for all that a page loads, heads included, the most of any round; times are medians and the worst, from the beginning of
the navigation. Pages take turns. It ends with 1 where a page loads more than 150 kB, paints its first content later
than 300 ms in the median, or asks another origin for anything.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, StorageState

ROOT = Path(__file__).parents[1]

MOST_BYTES = 150_000
MOST_PAINT_MS = 300

LONGEST_MS = 20_000
"""The longest that a page is waited for."""

TIMES = """() => new Promise((done) => {
  const tell = () => {
    const paint = Object.fromEntries(performance.getEntriesByType("paint").map((one) => [one.name, one.startTime]));
    const [page] = performance.getEntriesByType("navigation");
    if (paint["first-contentful-paint"] === undefined) return false;
    done({
      first_byte: page.responseStart,
      first_paint: paint["first-paint"] ?? paint["first-contentful-paint"],
      first_content: paint["first-contentful-paint"],
      loaded: page.loadEventEnd,
    });
    return true;
  };
  if (!tell()) new PerformanceObserver(tell).observe({ type: "paint", buffered: true });
})"""


def load(browser: "Browser", address: str, cookies: "StorageState | None") -> dict[str, float]:
    """What one look at a page with an empty cache took."""
    asked: dict[str, str] = {}
    arrived: dict[str, int] = {}

    def note_request(event: dict[str, Any]) -> None:
        if not event["request"]["url"].startswith("data:"):
            asked[event["requestId"]] = event["request"]["url"]

    def note_end(event: dict[str, Any]) -> None:
        arrived[event["requestId"]] = event["encodedDataLength"]

    with browser.new_context(storage_state=cookies, viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.set_default_timeout(LONGEST_MS)
        wire = context.new_cdp_session(page)
        wire.on("Network.requestWillBeSent", note_request)
        wire.on("Network.loadingFinished", note_end)
        wire.send("Network.enable")
        reply = page.goto(address, wait_until="networkidle")
        if reply is None or reply.status != 200 or page.url != address:
            raise SystemExit(f"{address} does not answer, or leads elsewhere: {page.url}.")
        times = page.evaluate(TIMES)
    others = [url for url in asked.values() if urlsplit(url).netloc != urlsplit(address).netloc]
    sizes = [arrived.get(request, 0) for request in asked]
    return {**times, "bytes": sum(sizes), "requests": len(asked), "elsewhere": len(others)}


def measure(rounds: int, names: Sequence[str]) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Name of each page to what its loads took, and the browser's version."""
    from tests.support.chromium import chromium, sign_in
    from tests.support.showroom import PLACES, showroom

    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, showroom(Path(folder)) as room, chromium() as browser:
        cookies = {"visitor": None} | {
            who: sign_in(browser, room.url, room.keys[who]) for who in ("customer", "operator")
        }
        load(browser, f"{room.url}{room.path('sign-in')}", None)  # the browser itself begins
        for turn in range(rounds):
            for name in names:
                place = PLACES[name]
                found[name].append(load(browser, f"{room.url}{room.path(name)}", cookies[place.who]))
            print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
        return dict(found), browser.version


def describe_machine() -> str:
    """Its processor and how many of it."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, IndexError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = text.partition("model name")[2].splitlines()[0].lstrip("\t: ")
    return f"{cpu}, {os.cpu_count()} cores"


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What was measured, as Markdown."""
    from tests.support.showroom import PLACES

    lines = [
        "| page | as | kB | requests | first byte, ms | first paint, ms | first content, ms | worst | missed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, loads in found.items():
        middle = {what: statistics.median(one[what] for one in loads) for what in loads[0]}
        worst = max(one["first_content"] for one in loads)
        cells = (
            f"{name}, `{PLACES[name].path.partition('?')[0]}`",
            PLACES[name].who,
            f"{most(loads, 'bytes') / 1000:.1f}",
            f"{most(loads, 'requests')}",
            *(f"{middle[what]:.0f}" for what in ("first_byte", "first_paint", "first_content")),
            f"{worst:.0f}",
            ", ".join(missed(loads)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def most(loads: Sequence[Mapping[str, float]], what: str) -> float:
    """The most of something that any load had."""
    return max(one[what] for one in loads)


def missed(loads: Sequence[Mapping[str, float]]) -> list[str]:
    """The bars that a page misses."""
    bars = {
        "bytes": most(loads, "bytes") > MOST_BYTES,
        "paint": statistics.median(one["first_content"] for one in loads) > MOST_PAINT_MS,
        "elsewhere": most(loads, "elsewhere") > 0,
    }
    return [name for name, is_missed in bars.items() if is_missed]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a page misses a bar."""
    sys.path.insert(0, str(ROOT))
    from tests.support.chromium import missing
    from tests.support.showroom import PLACES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(PLACES), default=list(PLACES), metavar="NAME")
    parser.add_argument("--json", type=Path, help="file for the numbers of each load")
    given = parser.parse_args(arguments)
    if missing():
        raise SystemExit(missing())
    found, version = measure(given.rounds, given.only)
    print(f"{describe_machine()}; Chromium {version}; `python {' '.join(sys.argv)}`.\n")
    print(table(found))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(any(missed(loads) for loads in found.values()))


if __name__ == "__main__":
    sys.exit(main())
