"""One declaration, three ways to set it: flag over variable over file over default."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from quernel.cli import settings as subject
from quernel.cli.composition import KINDS, LoadSettings, ModelChoice
from quernel.cli.options import Command
from quernel.cli.settings import SECTIONS, ConfigFile, Settings, declaration, settings_options
from quernel.errors import SettingsError
from quernel.server.specs import parse_spec
from quernel.settings import declared_settings, setting


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Part:
    count: int = setting(1, "How many.")
    ratio: float = setting(0.5, "How much.")
    name: str | None = setting(None, "What.")
    loud: bool = setting(False, "Whether.")
    mode: Literal["slow", "fast"] = setting("slow", "How.")
    colour: Colour = setting(Colour.RED, "Which.")
    tags: tuple[str, ...] = setting((), "Some.")

    def __post_init__(self):
        if self.count < 0:
            raise SettingsError(f"count is {self.count}.")


@pytest.fixture(autouse=True)
def part(monkeypatch):
    monkeypatch.setattr(subject, "SECTIONS", {"part": f"{__name__}:Part", **SECTIONS})
    monkeypatch.setattr(subject, "declaration", lambda name: Part if name == "part" else declaration(name))


@pytest.fixture
def build(tmp_path):
    """What a command gets from flags, variables and a file."""

    def call(*flags, env=None, file=None):
        found = []

        @click.command(cls=Command)
        @settings_options("part")
        def command(**given):
            found.append(Settings(given).build("part", Part))

        if file is not None:
            (tmp_path / "quernel.toml").write_text(file)
            flags = (*flags, "--config", str(tmp_path / "quernel.toml"))
        result = CliRunner().invoke(command, flags, env=env, standalone_mode=False)
        if result.exception:
            raise result.exception
        return found[0]

    return call


def test_nothing_said_is_the_default(build):
    assert build() == Part()


@pytest.mark.parametrize("has_flag", [True, False])
@pytest.mark.parametrize("has_variable", [True, False])
@pytest.mark.parametrize("has_file", [True, False])
def test_flag_over_variable_over_file_over_default(build, has_flag, has_variable, has_file):
    found = build(
        *(["--count", "4"] if has_flag else []),
        env={"QUERNEL_COUNT": "3"} if has_variable else None,
        file="[part]\ncount = 2" if has_file else None,
    )
    assert found.count == (4 if has_flag else 3 if has_variable else 2 if has_file else 1)


FULL = Part(count=2, ratio=2.0, name="x", loud=True, mode="fast", colour=Colour.BLUE, tags=("a", "b"))


def test_every_type_as_flag_variable_and_file_key(build):
    assert (
        build(
            *[
                "--count",
                "2",
                "--ratio",
                "2",
                "--name",
                "x",
                "--loud",
                "--mode",
                "fast",
                "--colour",
                "blue",
                "--tags",
                "a",
                "--tags",
                "b",
            ]
        )
        == FULL
    )
    assert (
        build(
            env={
                "QUERNEL_COUNT": "2",
                "QUERNEL_RATIO": "2",
                "QUERNEL_NAME": "x",
                "QUERNEL_LOUD": "1",
                "QUERNEL_MODE": "fast",
                "QUERNEL_COLOUR": "blue",
                "QUERNEL_TAGS": "a b",
            }
        )
        == FULL
    )
    assert (
        build(
            file='[part]\ncount = 2\nratio = 2\nname = "x"\nloud = true\n'
            'mode = "fast"\ncolour = "blue"\ntags = ["a", "b"]'
        )
        == FULL
    )


def test_a_flag_can_switch_off_what_the_file_switches_on(build):
    assert not build("--no-loud", file="[part]\nloud = true").loud


WRONG = {
    "[part]\ncuont = 1": "unknown key 'cuont'. Did you mean 'count'?",
    "[prat]\ncount = 1": "unknown key 'prat'. Did you mean 'part'?",
    "[engine]\nmax_batch = 1": "[engine]: unknown key 'max_batch'. Did you mean 'max_batch_tokens'?",
    "[part]\nzzz = 1": "Known keys: count, ratio, name",
    "[part]\ncount = '1'": "[part] count is '1', which is not a whole number.",
    "[part]\ncount = true": "[part] count is True, which is not a whole number.",
    "[part]\ncount = 1.5": "[part] count is 1.5, which is not a whole number.",
    "[part]\nname = 5": "[part] name is 5, which is not a text.",
    "[part]\nloud = 1": "[part] loud is 1, which is not true or false.",
    "[part]\ntags = 'a'": "[part] tags is 'a', which is not a list.",
    "[part]\nmode = 'odd'": "[part] mode: 'odd' is not one of 'slow', 'fast'.",
    "[part]\ncount = -1": "count is -1.",
    "part = 1": "part is not a table. Write it as [part].",
    "count = ": "is not TOML: Invalid value (at end of document)",
    "model = 5": 'model is 5. Write model = ["NAME", ...].',
    "models = ['x']": "models is ['x']. Write [[models]] tables.",
}


@pytest.mark.parametrize("file", WRONG)
def test_a_wrong_file_is_refused_with_key_and_place(build, file):
    with pytest.raises(SettingsError) as caught:
        build(file=file)
    assert WRONG[file] in str(caught.value)


def test_a_wrong_variable_is_named(build):
    with pytest.raises(click.BadParameter) as caught:
        build(env={"QUERNEL_COUNT": "many"})
    assert "QUERNEL_COUNT" in caught.value.format_message()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_can_be_read(section):
    """Every field of every part has a type that flags and files can carry, and says what it does."""
    part = declaration(section)
    assert declared_settings(part)
    settings_options(section)(lambda: None)
    assert all(field.metadata["help"].endswith((".", "...")) for field in declared_settings(part))
    part()


def test_models_of_a_file(tmp_path):
    path = tmp_path / "quernel.toml"
    path.write_text('model = "a"\n[[models]]\nmodel = "b"\nkind = "reranker"\ndtype = "float32"\n')
    assert ConfigFile.read(path).models == ("a", {"model": "b", "kind": "reranker", "dtype": "float32"})


def test_a_model_choice_names_its_kind():
    load = LoadSettings()
    assert ModelChoice.parse("a/b", load) == ModelChoice("a/b", None, load)
    assert ModelChoice.parse("reranker=./x=y", load) == ModelChoice("./x=y", "reranker", load)
    assert ModelChoice.parse("./x=y", load) == ModelChoice("./x=y", None, load)


def test_a_model_table_differs_from_the_rest():
    table = {"model": "b", "kind": "reranker", "dtype": "float32", "name": "mine", "instruction": "Find code"}
    spec = parse_spec(table, place="file, [[models]]")
    assert (spec.name, spec.defaults.instruction) == ("mine", "Find code")
    choice = ModelChoice.of(spec, LoadSettings(device="cpu"))
    assert choice == ModelChoice("b", "reranker", LoadSettings(device="cpu", dtype="float32"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"modle": "b"}, "model is missing"),
        ({"model": "b", "instuction": "x"}, "unknown key 'instuction'. Did you mean 'instruction'?"),
        ({"model": "b", "dtyp": "float32"}, "Did you mean 'dtype'?"),
        ({"model": "b", "dtype": "float31"}, "float31"),
        ({"model": "b", "max_tokens": True}, "max_tokens"),
        ({"model": "b", "kind": "chat"}, "kind is 'chat'"),
        ({"model": "b", "aliases": "c"}, "aliases is 'c', which is not a list of texts"),
        ({"model": "b", "aliases": [1]}, "aliases is [1]"),
        ({"model": "b", "dimensions": True}, "dimensions is True"),
        ({"model": 1}, "model is 1, which is not a text"),
    ],
)
def test_a_model_table_that_is_wrong_says_where(table, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        ModelChoice.of(parse_spec(table, place="file, [[models]]"), LoadSettings())


def test_values_spelled_for_the_help_are_those_of_the_types():
    from quernel.cli.embed import INPUT_TYPES
    from quernel.cli.requests import TRUNCATIONS
    from quernel.types import InputType, ModelKind, Truncate

    assert tuple(InputType) == INPUT_TYPES
    assert tuple(Truncate) == TRUNCATIONS
    assert tuple(ModelKind) == KINDS
