"""The Chromium of this machine, by Playwright: nothing is downloaded."""

import shutil
from contextlib import contextmanager
from importlib.util import find_spec

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

SWITCHES = (
    "--no-sandbox",
    "--font-render-hinting=none",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
"""A container has no sandbox to give; the others make letters and colours the same on every machine."""


def find_chromium():
    """Where it is; `None` where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing():
    """What has to be installed before pages can be looked at; empty where nothing has."""
    if find_spec("playwright") is None:
        return "There is no Playwright: pip install playwright. It needs no `playwright install`."
    if find_chromium() is None:
        return f"There is no Chromium ({', '.join(NAMES)}): install the system's package, such as apt install chromium."
    return ""


@contextmanager
def chromium(*switches):
    """It, running, without a window.

    Raises:
        SystemExit: It is not installed; the message says what to do.
    """
    if missing():
        raise SystemExit(missing())
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=[*SWITCHES, *switches])
        try:
            yield browser
        finally:
            browser.close()


def sign_in(browser, url, key, **options):
    """The cookies of a visitor who has signed in with a key, for `storage_state` of a new context."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.goto(f"{url}/sign-in")
        page.fill("input[name=key]", key)
        page.click("form[action$='/sign-in'] button")
        page.wait_for_url("**/console")
        return context.storage_state()
