"""Writes the reference pages from the code: `python docs/generate_reference.py`, or with `--check` only compares."""

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import click

import quernel
from quernel.cli.main import cli
from quernel.cli.settings import SECTIONS, declaration, default_text, environment_name, flag_name
from quernel.errors import QuernelError
from quernel.gateway.admin_routes import ADMIN
from quernel.gateway.metrics import GATEWAY_MEASURES
from quernel.gateway.routes import CHAT, OWN, SDK
from quernel.protocols.error_body import error_type
from quernel.protocols.tei import TEI_ERRORS
from quernel.server.metrics import MEASURES, PROCESS_MEASURES, Measure
from quernel.server.middleware import HTTP_CODES
from quernel.server.openapi import build_openapi
from quernel.server.routes import ENDPOINTS, Endpoint
from quernel.settings import declared_settings
from quernel.train.lora import LoraSettings
from quernel.train.objectives import EmbeddingLoss, RerankLoss
from quernel.train.recipe import DataSettings, StageSettings, StartSettings
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
    for context in contexts(cli, root, **as_shown):
        blocks += [f"## {context.command_path}", fenced(context.get_help())]
    return page(blocks)


def contexts(command: click.Command, context: click.Context, **as_shown: Any) -> Iterator[click.Context]:
    """That of a command and those of all commands below it."""
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, f"{name} is listed but not there"
            yield from contexts(child, child.make_context(name, [], parent=context, **as_shown), **as_shown)


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


def recipe_page() -> str:
    """Every key of a recipe of `quernel train`."""
    blocks = [
        "# Recipes",
        "The keys of the TOML file that `quernel train` reads ([guide](../guides/train.md)). Beside the tables there "
        "is `keep_out`: a folder of evaluation sets whose texts rows may not share.",
    ]
    for heading, table in RECIPE_TABLES.items():
        about, _, listed = (inspect.getdoc(table) or "").partition("Attributes:")
        meanings: dict[str, str] = {}
        for line in listed.partition("Source:")[0].splitlines():
            if match := DOCSTRING_ITEM.fullmatch(line):
                name, meanings[match[1]] = match[1], match[2]
            elif line.strip():
                meanings[name] += f" {line.strip()}"
        rows = ["| key | default | |", "| --- | --- | --- |"]
        for field in dataclasses.fields(table):
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            default = "required" if required else "" if field.default in EMPTY else f"`{toml_of(field.default)}`"
            rows.append(f"| `{field.name}` | {default} | {meanings[field.name]} |")
        blocks += [f"## {heading}", about.partition("\n")[0], "\n".join(rows)]
    return page(blocks)


def toml_of(value: Any) -> str:
    """A value as a TOML file has it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def metrics_page() -> str:
    """Every metric of `GET /metrics`."""
    process = ", ".join(f"`{name}`" for name in PROCESS_MEASURES)
    about = (
        "What `GET /metrics` answers, for Prometheus. No label comes from a client. Dashboards for Grafana are "
        "[grafana.json](../grafana.json) and, of a gateway, [grafana-gateway.json](../grafana-gateway.json)."
    )
    about_gateway = (
        "What `quernel gateway` answers besides; those above are of its requests and of the models in its process. "
        "Providers and models are named as the configuration does, `weights` are `full` or a quantization. "
        "[A gateway](../guides/gateway.md#watching-it) has alerts."
    )
    return page(
        [
            "# Metrics",
            about,
            metrics_table(MEASURES),
            f"Of the process itself: {process} and others.",
            "## Of a gateway",
            about_gateway,
            metrics_table(GATEWAY_MEASURES),
        ]
    )


def metrics_table(measures: Sequence[Measure]) -> str:
    """Name, type, labels and meaning of metrics."""
    rows = ["| metric | type | labels | |", "| --- | --- | --- | --- |"]
    for measure in measures:
        labels = ", ".join(f"`{label}`" for label in measure.labels)
        rows.append(f"| `{measure.full_name}` | {measure.kind} | {labels} | {measure.about} |")
    return "\n".join(rows)


def routes_page(endpoints: Sequence[Endpoint], title: str, about: str) -> str:
    """Every route with the fields of its request and reply and the errors it answers."""
    document = build_openapi(endpoints)
    rows = ["| route | |", "| --- | --- |"]
    blocks = ["## Each route"]
    for endpoint in endpoints:
        path = endpoint.path.replace(":path", "")
        rows.append(f"| `{endpoint.method} {path}` | {endpoint.summary} |")
        operation = document["paths"][path][endpoint.method.lower()]
        blocks.append(f"### `{endpoint.method} {path}`")
        blocks.append(endpoint.summary)
        for place in ("header", "query"):
            asked = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == place]
            if not asked:
                continue
            fields = [f"| {place} | type | |", "| --- | --- | --- |"]
            for parameter in asked:
                required = " (required)" if parameter["required"] else ""
                shown = schema_type(parameter["schema"])
                fields.append(f"| `{parameter['name']}`{required} | {shown} | {parameter.get('description', '')} |")
            blocks.append("\n".join(fields))
        if "requestBody" in operation:
            blocks.append(f"Request: {content_of(operation['requestBody'])}")
        replies = ["| status | | body |", "| ---: | --- | --- |"]
        for status, reply in operation["responses"].items():
            replies.append(f"| {status} | {reply['description']} | {content_of(reply)} |")
        blocks.append("\n".join(replies))
    blocks.append("## Shapes")
    for name, schema in document["components"]["schemas"].items():
        blocks += [f"### {name}", schema.get("description", "")]
        if "enum" in schema:
            blocks.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".")
        if "properties" in schema:
            fields = ["| field | type | |", "| --- | --- | --- |"]
            for field, shape in schema["properties"].items():
                required = " (required)" if field in schema.get("required", ()) else ""
                fields.append(f"| `{field}`{required} | {schema_type(shape)} | {shape.get('description', '')} |")
            blocks.append("\n".join(fields))
    return page([f"# {title}", about, "\n".join(rows), *(block for block in blocks if block)])


def content_of(part: Mapping[str, Any]) -> str:
    """The media type or the shapes of a request or reply."""
    ((media_type, content),) = part["content"].items()
    is_json = media_type == "application/json"
    return schema_type(content["schema"]) if is_json else f"`{media_type}`"


def schema_type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words, with links to the shapes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(schema_type(option) for option in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {schema_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and "additionalProperties" in schema:
        return "object"
    return str(schema.get("type", "any"))


def errors_page() -> str:
    """Every error: its code, its status in each dialect, and what it means."""
    rows = ["| code | class | status | `type` | TEI's status | |", "| --- | --- | ---: | --- | ---: | --- |"]
    for error in error_classes(QuernelError):
        cells = (
            f"`{error.code}`",
            f"`{error.__name__}`",
            str(error.status),
            f"`{error_type(error.status)}`",
            str(TEI_ERRORS.status(error.status, error.code)),
            first_line(error),
        )
        rows.append(f"| {' | '.join(cells)} |")
    for status, code in HTTP_CODES.items():
        meaning = {404: "No such route.", 405: "The route has another method."}[status]
        theirs = TEI_ERRORS.status(status, code)
        rows.append(f"| `{code}` | | {status} | `{error_type(status)}` | {theirs} | {meaning} |")
    about = (
        "The codes are stable, and what programs should look at; messages are for people and may change. "
        "`type` is OpenAI's word. The classes are those of `quernel.errors`, which the Python client raises too."
    )
    return page(["# Errors", about, "\n".join(rows)])


def error_classes(root: type[QuernelError]) -> Iterator[type[QuernelError]]:
    """A class of errors and all below it."""
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


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


RECIPE_TABLES: Mapping[str, Any] = {
    "[model]": StartSettings,
    "[[data]]": DataSettings,
    "[loss] of an embedding model": EmbeddingLoss,
    "[loss] of a reranker": RerankLoss,
    "[lora]": LoraSettings,
    "[[stages]]": StageSettings,
}
EMPTY = (None, "", (), dataclasses.MISSING)

PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "settings.md": settings_page,
    "python.md": python_page,
    "recipe.md": recipe_page,
    "metrics.md": metrics_page,
    "routes.md": lambda: routes_page(
        ENDPOINTS, "Routes", "What `quernel serve` answers; [HTTP](http.md) says what is common to all routes."
    ),
    "gateway.md": lambda: routes_page(
        (*SDK, CHAT, *OWN, *ADMIN),
        "Routes of the gateway",
        "What `quernel gateway` answers besides the [routes](routes.md) of a server that ask models: the AI SDK's, the "
        "catalogue, money, and all that `quernel keys`, `accounts`, `usage` and `providers` do, over HTTP. Errors "
        "are in [errors](errors.md); [A gateway](../guides/gateway.md) shows it in use.",
    ),
    "errors.md": errors_page,
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
