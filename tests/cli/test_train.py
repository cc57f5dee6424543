"""The guide's commands on little data: train, resume, mine, merge."""

import json

import pytest

from tests.support.checkpoints import make_checkpoint

WORDS = ["cat", "dog", "fish", "sun", "moon", "star", "red", "blue"]


@pytest.fixture
def place(tmp_path):
    make_checkpoint(tmp_path / "base")
    rows = [{"query": f"find the {word}", "pos": f"this is the {word}"} for word in WORDS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(
        f"""
        [model]
        start = "{tmp_path / "base"}"
        [[data]]
        path = "pairs.jsonl"
        [lora]
        rank = 2
        [[stages]]
        steps = 6
        rate = 1e-3
        batch = 4
        save_every = 3
        """
    )
    return tmp_path


def test_train_then_resume_then_merge(run, place):
    result = run("train", place / "recipe.toml", "-o", place / "out")
    assert result.exit_code == 0, result.stderr
    assert "pairs: 8 rows" in result.stderr
    assert "step 6 of 6" in result.stderr
    assert result.stdout == ""
    result = run("train", place / "recipe.toml", "-o", place / "out")
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert run("train", place / "recipe.toml", "-o", place / "out", "--resume", "--quiet").exit_code == 0
    result = run("merge", place / "base", "--adapter", place / "out/adapter", "-o", place / "by-hand")
    assert result.exit_code == 0, result.stderr
    result = run(
        "merge", place / "by-hand", place / "base", "--method", "linear", "--weights", "1,3", "-o", place / "m"
    )
    assert result.exit_code == 0, result.stderr
    assert run("embed", "-m", place / "m", "hello").exit_code == 0


def test_a_teacher_is_asked(run, place):
    recipe = place / "recipe.toml"
    text = recipe.read_text().replace(
        "[model]", '[loss]\ndistillation = 1.0\n[model]\nteacher = "quernel/tiny-embedding"'
    )
    recipe.write_text(text)
    result = run("train", recipe, "-o", place / "taught", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert '"distillation"' in (place / "taught/log.jsonl").read_text()


def test_mine(run, place):
    extra = place / "more.jsonl"
    extra.write_text('{"text": "an unrelated stone"}\n')
    result = run(
        "mine", place / "pairs.jsonl", "-o", place / "mined.jsonl", "--count", "2", "--candidates", extra,
        "--scores", "quernel/tiny-reranker",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in (place / "mined.jsonl").read_text().splitlines()]
    assert [row["query"] for row in rows] == [f"find the {word}" for word in WORDS]
    for row in rows:
        assert len(row["neg"]) == 2
        assert row["pos"][0] not in row["neg"]
        assert len(row["neg_scores"]) == 2
        assert len(row["pos_scores"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine", "pairs.jsonl", "-o", "x", "--range", "all"), "range is 'all'"),
        (("mine", "pairs.jsonl", "-o", "x", "--candidates", "recipe.toml"), "line 1 has no text"),
        (("merge", "base", "-o", "x"), "1 models"),
        (("merge", "base", "base", "--weights", "a,b", "-o", "x"), "weights is 'a,b'"),
    ],
)
def test_wrong_options_are_named(run, place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (place / "x").exists()
