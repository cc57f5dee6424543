"""The command line as a whole: instant help, errors in two lines, exit codes."""

import subprocess
import sys
from importlib import import_module

import pytest

from quernel import __version__
from quernel.cli.main import COMMANDS, cli
from quernel.errors import (
    InternalError,
    InvalidRequestError,
    ModelLoadError,
    OverloadedError,
    SettingsError,
)
from tests.cli.conftest import Run

NAMES = [name for commands in COMMANDS.values() for name in commands]
HEAVY = ("torch", "numpy", "starlette", "uvicorn", "pyarrow", "huggingface_hub", "tqdm", "orjson")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in NAMES)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr))\n"
        "from quernel.cli.main import cli\n"
        f"cli({arguments})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: ")
    assert result.stderr == "[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_line_in_the_help_is_the_commands_own(name):
    command = import_module(f"quernel.cli.{name}").command
    line = next(commands[name] for commands in COMMANDS.values() if name in commands)
    assert command.get_short_help_str(limit=100) == line


def test_without_arguments_it_prints_the_help(run: Run):
    assert run().exit_code == 0
    assert run().stdout == run("--help").stdout


def test_the_version(run: Run):
    assert run("--version").stdout == f"quernel, version {__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(run: Run):
    result = run("embad")
    assert result.exit_code == 2
    assert result.stderr == "error: No such command 'embad'. Did you mean 'embed'?\nhint: See 'quernel --help'.\n"


ERRORS = [
    (SettingsError("Wrong.", hint="Mend it."), 2, "error: Wrong.\nhint: Mend it.\n"),
    (InvalidRequestError("Bad."), 1, "error: Bad.\n"),
    (ModelLoadError("Broken."), 1, "error: Broken.\n"),
    (OverloadedError("Full."), 1, "error: Full.\n"),
    (InternalError("Ours."), 1, "error: Ours.\n"),
    (OSError(28, "No space left on device", "out.npy"), 1, "error: No space left on device: out.npy\n"),
    (KeyboardInterrupt(), 130, "error: interrupted\n"),
]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    ERRORS,
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_two_lines_and_a_code(run: Run, monkeypatch, error, code, message):
    result = run_failing(run, monkeypatch, error)
    assert result.exit_code == code
    assert result.stderr.removeprefix("\n") == message
    assert result.stdout == ""


def test_a_fault_of_ours_asks_for_a_report(run: Run, monkeypatch):
    result = run_failing(run, monkeypatch, KeyError("x"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: KeyError: 'x'\nhint: This is a fault of ours:")


def test_debug_shows_the_traceback_as_well(run: Run, monkeypatch):
    by_flag = run_failing(run, monkeypatch, SettingsError("Wrong."), "--debug")
    by_variable = run_failing(run, monkeypatch, SettingsError("Wrong."), env={"QUERNEL_DEBUG": "1"})
    for result in (by_flag, by_variable):
        assert "Traceback" in result.stderr
        assert result.stderr.endswith("error: Wrong.\n")
        assert result.exit_code == 2


def run_failing(run: Run, monkeypatch, error, *flags, env=None):
    def fail(*_):
        raise error

    monkeypatch.setattr("quernel.cli.embed.open_embedder", fail)
    import_module("quernel.cli.embed")
    return run(*flags, "embed", "x", env=env)


def test_a_closed_pipe_ends_quietly():
    code = (
        "import sys\n"
        "from quernel.cli.main import cli\n"
        "import quernel.cli.models as models\n"
        "models.cached_bytes = lambda folder: {}\n"
        "sys.stdout.close = lambda: None\n"
        "cli(['models', '--json'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait() == 1


def test_options_are_unambiguous():
    """No flag is declared twice, and settings of two sections never share a name."""
    for name in NAMES:
        parameters = cli.get_command(None, name).params
        flags = [flag for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)]
        names = [parameter.name for parameter in parameters]
        assert len(flags) == len(set(flags))
        assert len(names) == len(set(names))
