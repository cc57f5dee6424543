"""The guide's commands run as they stand, one after the other, in one folder with the files that it shows."""

import re
import shlex
from importlib import resources
from pathlib import Path

import pytest

from tests.cli.conftest import Run

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
GUIDE = GUIDES / "command-line.md"
SPEED = GUIDES / "speed.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)

needs_builtin = pytest.mark.skipif(
    not resources.files("quernel").joinpath("builtin/tiny-reranker").is_dir(), reason="the built-in models are not here"
)


def blocks() -> list[tuple[str, str, str]]:
    return BLOCK.findall(GUIDE.read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line.removeprefix("$ ")) for line in text.splitlines() if line.startswith("$ ")]


@needs_builtin
def test_every_command_of_the_guide_runs(run: Run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUERNEL_CACHE_DIR", str(tmp_path))
    num_commands = 0
    for language, note, text in blocks():
        if language != "console":
            if note:
                Path(note).write_text(text, encoding="utf-8")
            continue
        for words in commands(text):
            program, *arguments = until_redirection(words)
            assert program == "quernel"
            result = run(*arguments, input=redirected(words, "<"))
            assert result.exit_code == (1 if note == "fails" else 0), result.stderr
            if note == "fails":
                assert result.stderr in text
            num_commands += 1
    assert num_commands > 10


@needs_builtin
def test_the_commands_of_the_guide_to_speed_run(run: Run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        line for language, _, text in BLOCK.findall(SPEED.read_text(encoding="utf-8")) for line in text.splitlines()
    ]
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "quernel"
        short = ("--repetitions", "1") if arguments[0] == "bench" else ()
        result = run(*arguments, *short)
        assert result.exit_code == 0, result.stderr
    assert len(lines) == 4


def until_redirection(words: list[str]) -> list[str]:
    return words[: min((words.index(sign) for sign in "<>" if sign in words), default=len(words))]


def redirected(words: list[str], sign: str) -> str | None:
    return Path(words[words.index(sign) + 1]).read_text() if sign in words else None


def test_examples_of_output_have_the_form_of_the_output(run: Run, reranker, embedder):
    """Numbers in the guide are examples; the keys and columns around them are not."""
    text = GUIDE.read_text(encoding="utf-8")
    table = run("rerank", "capital of France", "Bananas are yellow.", "Paris is the capital of France.")
    assert table.stdout.splitlines()[0] in text
    lines = run("rerank", "q", "d", "--json")
    for key in re.findall(r'"(\w+)":', lines.stdout):
        assert f'"{key}":' in text
