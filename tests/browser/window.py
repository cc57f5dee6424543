"""A window of Chromium that is watched: what it loads and complains about, and what can be read in it."""

import re
from dataclasses import dataclass, field
from decimal import Decimal

from playwright.sync_api import Page

SCREENS = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}

MILLISECONDS = 10_000
"""The longest that anything is waited for."""

LEFT = "net::ERR_ABORTED"
"""What becomes of a request whose page is left before it is answered."""

OF_COLOURS = ("color-contrast", "link-in-text-block")
"""Rules of axe-core that colours decide; for the others it makes no difference whether a page is light or dark."""

BLOCKED = """document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`blocked by ${event.effectiveDirective}: ${event.blockedURI}`);
});"""

DRAWN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"

ROWS = """(table) => {
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
  return [...table.tBodies[0].rows].map((row) => Object.fromEntries(
    [...row.cells].map((cell, index) => [heads[index], cell.innerText.trim()])));
}"""

TILES = """() => Object.fromEntries([...document.querySelectorAll(".tile:not([hidden])")].map(
  (tile) => [tile.querySelector("dt").innerText, tile.querySelector("dd").innerText]))"""

ALIKE = 12
"""Of each kind, such as the lines of a table, axe-core looks at so many: thousands would take it long."""

UNFOLD = """(most) => {
  const seen = {};
  for (const one of document.querySelectorAll("details")) {
    seen[one.className] = (seen[one.className] ?? 0) + 1;
    one.open = seen[one.className] <= most;
  }
}"""

TRIM = """(most) => {
  for (const parent of document.querySelectorAll("main *")) {
    const seen = {};
    for (const child of [...parent.children]) {
      const kind = `${child.localName} ${child.className}`;
      seen[kind] = (seen[kind] ?? 0) + 1;
      if (seen[kind] > most) child.remove();
    }
  }
}"""

RUN_AXE = """async (rules) => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...(rules && { runOnly: rules }) });
  return violations.flatMap(({ id, impact, nodes }) => nodes.map(
    ({ target, failureSummary }) => `${impact}, ${id}: ${target.join(" ")}: ${failureSummary}`));
}"""


@dataclass
class Window:
    """A page in a context of its own.

    Attributes:
        page: The page.
        origin: Where the gateway is.
        has_scripts: Whether the page's scripts are run.
        complaints: What went wrong: errors and warnings in the console, uncaught errors, what was blocked, what could
            not be loaded, and what was asked of somebody else.
    """

    page: Page
    origin: str
    has_scripts: bool = True
    complaints: list = field(default_factory=list)

    @classmethod
    def of(cls, context, origin, *, others=(), has_scripts=True):
        """A new one; `others` are origins that it may go to besides."""
        context.set_default_timeout(MILLISECONDS)
        context.add_init_script(BLOCKED)
        complaints, ours = [], tuple(f"{one}/" for one in (origin, *others))
        context.on("console", lambda said: said.type in ("error", "warning") and complaints.append(said.text))
        context.on("weberror", lambda found: complaints.append(f"uncaught: {found.error}"))
        context.on("requestfailed", lambda asked: asked.failure == LEFT or complaints.append(f"failed: {asked.url}"))
        context.on("request", lambda asked: asked.url.startswith(ours) or complaints.append(f"elsewhere: {asked.url}"))
        return cls(context.new_page(), origin, has_scripts, complaints)

    @property
    def path(self):
        """The path and the query of the page."""
        return self.page.url.removeprefix(self.origin)

    def open(self, path):
        """Go to a page, until all of it is there and its scripts have run; the reply."""
        reply = self.page.goto(self.origin + path)
        if self.has_scripts:
            self.page.evaluate(DRAWN)
        return reply

    def forgive(self, text):
        """Forget complaints that have this text; there must be some, and no others."""
        assert self.complaints
        assert [one for one in self.complaints if text not in one] == []
        self.complaints.clear()

    def region(self, name):
        """The region of this name."""
        return self.page.get_by_role("region", name=name, exact=True)

    def table(self, region):
        """The rows of the table in a region: the heading of each column to what the cell below it says."""
        return self.region(region).locator("table").evaluate(ROWS)

    def tiles(self):
        """The tiles of the page: what each is to its lines."""
        return {name: text.split("\n") for name, text in self.page.evaluate(TILES).items()}

    def barriers(self, axe):
        """What axe-core finds wrong with the page as it is now, unfolded, and where it is too wide.

        The page is trimmed by that, and good for nothing else.

        Args:
            axe: The text of axe-core. Chromium lets debuggers put it into a page whatever the page's policy is.
        """
        self.page.evaluate(UNFOLD, ALIKE)
        found = []
        for screen in SCREENS.values():
            self.page.set_viewport_size(screen["viewport"])
            width = self.page.evaluate("document.scrollingElement.scrollWidth")
            found += [f"{width} wide"] if width > screen["viewport"]["width"] else []
        self.page.evaluate(TRIM, ALIKE)
        self.page.evaluate(axe)
        for name in ("phone", "desk"):
            self.page.set_viewport_size(SCREENS[name]["viewport"])
            for colours, rules in (("dark", OF_COLOURS), ("light", None)):
                self.page.emulate_media(color_scheme=colours)
                found += [f"{name}, {colours}, {one}" for one in self.page.evaluate(RUN_AXE, rules)]
        return found


def number(text):
    """The number that a text begins with, as it is written for people: of `-$1,234.50 a month` -1234.50."""
    found = re.match(r"(-?)\$?([\d,]+(?:\.\d+)?)", text.strip())
    assert found, text
    return Decimal(found[1] + found[2].replace(",", ""))


UNITS = {"": 0, "K": 3, "M": 6, "B": 9, "T": 12, "ms": 0, "s": 3, "%": -2}
"""What follows a rounded number to the power of ten that it stands for; times are in milliseconds."""


def says(text, value):
    """Whether a text is this number, rounded to the digits that it shows; for none it is a dash."""
    if value is None:
        return text == "\N{EM DASH}"
    found = re.fullmatch(r"\$?([\d,]+)(?:\.(\d+))?\s*(\S*)", text)
    assert found, text
    whole, digits, unit = found[1].replace(",", ""), found[2] or "", UNITS[found[3]]
    shown = Decimal(f"{whole}.{digits or 0}").scaleb(unit)
    return abs(shown - Decimal(str(value))) <= Decimal("0.5001").scaleb(unit - len(digits))
