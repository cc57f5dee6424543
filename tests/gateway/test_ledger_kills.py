"""The kill test of `benchmarks/ledger_kills.py`, small: nothing acknowledged is lost, and nothing is invented."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ledger_kills.py"

OPERATIONS, KILLS = 3_000, 6


def test_books_are_exact_after_gateways_were_killed(database_url, tmp_path):
    numbers = tmp_path / "numbers.json"
    more = ["--compare-every", "3", "--minutes", "0.5", "--json", str(numbers)]
    command = [sys.executable, SCRIPT, "--operations", str(OPERATIONS), "--kills", str(KILLS), *more]
    ran = subprocess.run([*command, "--database", database_url], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert (found["lost"], found["invented"], found["wrong"]) == (0, 0, [])
    assert found["kills"] >= KILLS
    assert found["operations"] >= OPERATIONS, "it stopped before it was done"
    assert found["charges"] > OPERATIONS / 10
    assert found["unknown"], "nobody was killed in the middle"
