"""Documentation that cannot rot: links lead somewhere, and Python snippets run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVER_CLIENTS = ("openai", "httpx", "quernel.client")


def snippets():
    for page in PAGES:
        for number, code in enumerate(PYTHON.findall(page.read_text(encoding="utf-8")), 1):
            if not any(f"import {name}" in code or f"from {name} " in code for name in SERVER_CLIENTS):
                yield pytest.param(code, id=f"{page.relative_to(ROOT)}:{number}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    broken = [
        target
        for target, _ in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize("code", list(snippets()))
def test_python_snippets_run_as_they_stand(code, capsys):
    exec(compile(code, "<snippet>", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out, "a snippet shows something"
