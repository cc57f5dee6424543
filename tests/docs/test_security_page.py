"""Every test that the page on security names is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "concepts" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([a-z_]+/test_\w+\.py(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_is_there(named):
    file, _, name = named.partition("::")
    assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8") if name else (TESTS / file).is_file()


def test_every_threat_has_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) > 15
    assert [row for row in rows if not re.search(r"`[a-z_]+/test_\w+\.py", row)] == []
