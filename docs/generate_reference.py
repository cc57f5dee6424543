"""Writes the reference pages from the code: `python docs/generate_reference.py`, or with `--check` only compares."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import quernel
from quernel.cli.main import cli
from quernel.cli.settings import SECTIONS, declaration, default_text, environment_name, flag_name
from quernel.server.metrics import MEASURES
from quernel.settings import declared_settings
from quernel.types import Vectors

FOLDER = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by docs/generate_reference.py; change the code, then run `make docs`. -->"
GUIDE = "../guides/command-line.md"
HELP_WIDTH = 100

DOCSTRING_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Source):$")
DOCSTRING_ITEM = re.compile(r"    (\w+): (.*)")


def cli_page() -> str:
    """The help of every command."""
    blocks = ["# Command line", f"What `quernel COMMAND --help` prints. How to use it: [guide]({GUIDE})."]
    as_shown = {"resilient_parsing": True, "terminal_width": HELP_WIDTH, "max_content_width": HELP_WIDTH}
    root = cli.make_context("quernel", [], **as_shown)
    blocks += ["## quernel", fenced(cli.get_help(root))]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None, f"{name} is listed but not there"
        context = command.make_context(name, [], parent=root, **as_shown)
        blocks += [f"## quernel {name}", fenced(command.get_help(context))]
    return page(blocks)


def settings_page() -> str:
    """Every setting: key, flag, variable, default, meaning."""
    blocks = [
        "# Settings",
        "Each is a flag, an environment variable, and a key in its section of the file given by `--config`. A flag "
        f"wins over a variable, a variable over the file, the file over the default ([example]({GUIDE}#settings)).",
    ]
    for section in SECTIONS:
        part = declaration(section)
        rows = ["| key | flag | variable | default | |", "| --- | --- | --- | --- | --- |"]
        for setting in declared_settings(part):
            default = f"`{default_text(setting)}`" if default_text(setting) else ""
            cells = (f"`{setting.name}`", f"`{flag_name(setting)}`", f"`{environment_name(setting)}`", default)
            rows.append(f"| {' | '.join(cells)} | {setting.metadata['help']} |")
        blocks += [f"## [{section}]", first_line(part), "\n".join(rows)]
    return page(blocks)


def metrics_page() -> str:
    """Every metric of `GET /metrics`."""
    rows = ["| metric | type | |", "| --- | --- | --- |"]
    for measure in MEASURES:
        name = measure.name + ("_total" if measure.kind == "counter" else "")
        rows.append(f"| `{name}` | {measure.kind} | {measure.about} |")
    about = "What `GET /metrics` answers, for Prometheus. Each has the label `model`."
    return page(["# Metrics", about, "\n".join(rows)])


def python_page() -> str:
    """The public names of the package with their docstrings."""
    blocks = ["# Python", "What `import quernel` offers. Errors: `quernel.errors`. Protocols: `quernel.types`."]
    for name in quernel.__all__:
        thing = getattr(quernel, name)
        if not isinstance(thing, type):
            continue
        blocks += [f"## {name}", *described(thing)]
        for member_name, member in members(thing):
            blocks += [f"### {name}.{member_name}", fenced(call_of(member_name, member)), markdown_of(member)]
    return page(blocks)


def described(thing: type) -> Iterator[str]:
    """A class: how it is called, or what values it has, and its docstring."""
    if issubclass(thing, Enum):
        yield markdown_of(thing)
        yield "\n".join(f'- `{member.name}`: `"{member.value}"`' for member in thing)
    else:
        yield fenced(thing.__name__ + signature_of(thing).removesuffix(" -> None"))
        yield markdown_of(thing)
        home = next(base for base in thing.__mro__ if "__init__" in vars(base))
        if home is not thing:  # The arguments are documented where they are taken.
            yield "**Args**" + markdown_of(home).partition("**Args**")[2]


def members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that Quernel defines, inherited ones too."""
    if issubclass(thing, Enum | Exception):
        return
    for base in thing.__mro__:
        if base.__module__.startswith("quernel"):
            for name, member in vars(base).items():
                is_shown = inspect.isfunction(member) or isinstance(member, property)
                if is_shown and not name.startswith("_") and getattr(thing, name).__doc__ == member.__doc__:
                    yield name, member


def call_of(name: str, member: Any) -> str:
    """How a method is called, or what type a property has."""
    if isinstance(member, property):
        return f"{name}: {short(inspect.formatannotation(inspect.signature(member.fget).return_annotation))}"
    return f"{'async ' if inspect.iscoroutinefunction(member) else ''}{name}{signature_of(member)}"


def signature_of(function: Callable[..., Any]) -> str:
    """The parameters, one a line where they are many; defaults that are enum members by name."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(default=Named(parameter.default)) if isinstance(parameter.default, Enum) else parameter
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    written = short(str(signature.replace(parameters=parameters)))
    if len(written) <= HELP_WIDTH:
        return written
    inside, _, returned = written[1:].rpartition(")")
    return "(\n    " + split_commas(inside) + ",\n)" + returned


def short(annotations: str) -> str:
    """Annotations as the source writes them: without modules, and with `Vectors` for what it stands for."""
    named = annotations.replace(inspect.formatannotation(Vectors), "Vectors")
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", named)


class Named:
    """Stands in a signature for an enum member, and is written as its name."""

    def __init__(self, member: Enum) -> None:
        self.member = member

    def __repr__(self) -> str:
        return str.__repr__(self.member.value) if isinstance(self.member, str) else str(self.member)


def split_commas(parameters: str) -> str:
    """Parameters on a line each; commas inside brackets stay."""
    return re.sub(r", (?![^\[(]*[\])])", ",\n    ", parameters)


def markdown_of(thing: Any) -> str:
    """A Google-style docstring as Markdown: its sections become lists."""
    lines = inspect.cleandoc(thing.__doc__ or "").splitlines()
    out: list[str] = []
    is_section = False
    for line in lines:
        heading = DOCSTRING_SECTION.match(line)
        if heading:
            out += [f"**{heading[1]}**", ""]
            is_section = True
        elif not is_section or not line.strip():
            out.append(line)
        elif item := DOCSTRING_ITEM.match(line):
            out.append(f"- `{item[1]}`: {item[2]}")
        else:
            out.append(f"  {line.strip()}" if out[-1].startswith(("-", " ")) else line.strip())
    return "\n".join(out)


def first_line(thing: type) -> str:
    """The first line of a docstring."""
    return inspect.cleandoc(thing.__doc__ or "").partition("\n")[0]


def fenced(text: str) -> str:
    """A code block. It names no language: it is to be read, not run."""
    return f"```\n{text.rstrip()}\n```"


def page(blocks: list[str]) -> str:
    """A Markdown file of these blocks."""
    return "\n\n".join([NOTICE, *blocks]) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "settings.md": settings_page,
    "python.md": python_page,
    "metrics.md": metrics_page,
}


def main() -> int:
    """Write or compare; the number of stale pages is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")
    is_check = parser.parse_args().check
    stale = 0
    for name, make in PAGES.items():
        path, text = FOLDER / name, make()
        if is_check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            print(f"{path} is not up to date: run `make docs`.", file=sys.stderr)
            stale += 1
        elif not is_check:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
