"""The guide "Does it help?" in miniature: an adapter, trained on one half of a collection, helps the half held back.

The collection is made here: queries ask for things by words of a house jargon that no other text explains, as products'
code names are. What has to be learned is what the words stand for, and every word occurs in both halves.
"""

import json
import random
import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("ir_measures")

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/guides/train.md"
MEANINGS = {
    "zorvex": "invoice", "plimtar": "holiday", "quandle": "server", "brixom": "contract", "felvano": "warehouse",
    "draskil": "salary", "mervoid": "camera", "tolbrin": "engine", "haxuple": "recipe", "wendaro": "passport",
    "jistalo": "garden", "corvect": "library",
}  # fmt: skip
ASPECTS = {
    "delay": "comes later than it should",
    "price": "costs more money now",
    "repair": "is broken and must be mended",
    "owner": "belongs to another person",
    "colour": "was painted in a new shade",
    "theft": "was stolen in the night",
    "loan": "may be borrowed for a week",
    "size": "is far too big to carry",
}


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    draw, documents, queries, judged = random.Random(0), [], [], []
    for number, (word, meaning) in enumerate(MEANINGS.items()):
        for place, (aspect, sentence) in enumerate(ASPECTS.items()):
            name = f"{number}-{place}"
            documents.append({"_id": f"d{name}", "title": "", "text": f"The {meaning} of our firm {sentence}."})
            queries.append({"_id": f"q{name}", "text": f"{word} {aspect}"})
            judged.append(f"q{name}\td{name}\t1")
    draw.shuffle(documents)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


def test_an_adapter_helps_the_half_that_was_held_back(run, collection, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8").partition("## Does it help?")[2].partition("\n## ")[0]
    commands = re.findall(r"^(?:quernel|python) .*$", text, re.MULTILINE)
    recipe = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1]
    assert "steps = 40" in recipe
    Path("adapt.toml").write_text(recipe.replace("steps = 40", "steps = 16"), encoding="utf-8")
    assert [command.split()[:2] for command in commands] == [
        ["python", "examples/halve.py"], ["quernel", "mine"], ["quernel", "train"], ["quernel", "evaluate"]
    ]  # fmt: skip
    for command in commands:
        program, *arguments = command.split()
        if program == "python":
            script = runpy.run_path(str(ROOT / arguments[0]))
            assert script["halve"](collection, Path(arguments[2])) == {"train": 48, "test": 48}
        else:
            result = run(*arguments)
            assert result.exit_code == 0, result.stderr
    [compared] = json.loads(Path("report/results.json").read_text())["comparisons"]
    assert compared["low"] > 0, compared
