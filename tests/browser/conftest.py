"""Chromium, a gateway with a month behind it, and windows to look at it with.

All of it ends with this folder: while Playwright is there, a loop runs in this thread, and other tests could run none.
"""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.window import MILLISECONDS, SCREENS, Window
from tests.support.chromium import chromium as open_chromium
from tests.support.chromium import missing, sign_in
from tests.support.showroom import showroom as open_showroom

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="package")
def showroom(tmp_path_factory):
    """A gateway with accounts, keys and traffic."""
    if missing():
        pytest.skip(missing())
    with open_showroom(tmp_path_factory.mktemp("showroom")) as made:
        yield made


@pytest.fixture(scope="package")
def chromium(showroom):
    """The browser, which begins after the gateway."""
    expect.set_options(timeout=MILLISECONDS)
    with open_chromium("--disable-gpu", "--in-process-gpu") as browser:
        yield browser


@pytest.fixture(scope="package")
def states(chromium, showroom):
    """Role to the cookies of its session; visitors have none."""
    keys = {who: showroom.keys[who] for who in ("customer", "operator", "spent")}
    return {None: None} | {who: sign_in(chromium, showroom.url, key) for who, key in keys.items()}


@pytest.fixture
def look(chromium, showroom, states):
    """Opens windows, of somebody who is signed in or of a visitor; none may have complained in the end."""
    contexts, windows = [], []

    def open_window(who=None, *, screen="desk", colours="light", scripts=True, origin=showroom.url, others=()):
        contexts.append(
            chromium.new_context(
                **SCREENS[screen],
                color_scheme=colours,
                java_script_enabled=scripts,
                reduced_motion="reduce",
                storage_state=states[who],
            )
        )
        windows.append(Window.of(contexts[-1], origin, others=others, has_scripts=scripts))
        return windows[-1]

    yield open_window
    for context in contexts:
        context.close()
    assert [one for window in windows for one in window.complaints] == []


@pytest.fixture(scope="package")
def api(showroom):
    """Role to a client that asks the API with its key; visitors have none."""
    keys = {None: {}} | {who: {"authorization": f"Bearer {key}"} for who, key in showroom.keys.items()}
    made = {who: httpx.Client(base_url=showroom.url, timeout=30, headers=headers) for who, headers in keys.items()}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="package")
def axe():
    """The text of axe-core."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: npm ci --prefix tests/browser")
    return AXE.read_text(encoding="utf-8")
