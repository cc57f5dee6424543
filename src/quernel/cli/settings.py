"""Settings dataclasses as flags, environment variables and keys of a TOML file.

A field declared with `quernel.settings.setting` is all three at once: `max_batch_tokens` of the section `engine` is
`--max-batch-tokens`, `QUERNEL_MAX_BATCH_TOKENS` and, in the file given by `--config`,

    model = ["Qwen/Qwen3-Embedding-0.6B"]

    [engine]
    max_batch_tokens = 16384

A flag wins over a variable, a variable over the file, the file over the default. What a file may not hold is an error.
"""

import json
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from quernel.cli.mistralrs_config import is_mistralrs, translate_mistralrs
from quernel.cli.options import F, Option, option
from quernel.errors import SettingsError
from quernel.settings import ENVIRONMENT_PREFIX, check_keys, declared_settings

P = TypeVar("P")

SECTIONS: Mapping[str, str] = {
    "load": "quernel.cli.composition:LoadSettings",
    "engine": "quernel.engine.config:EngineConfig",
    "server": "quernel.server.config:ServerConfig",
    "gateway": "quernel.gateway.config:GatewayConfig",
    "web": "quernel.web.config:WebConfig",
}
"""Section of the file (and heading of the help) to the dataclass that declares its keys."""

MODEL_KEYS = ("model", "models")
"""Keys of the file that stand outside the sections: what `quernel serve` loads."""

GATEWAY_TABLES = ("providers", "catalogue", "issuers")
"""Lists of tables that stand outside the sections: what `quernel gateway` sells, and whom it believes."""

SHORT_FLAGS: Mapping[str, str] = {"port": "-p"}
"""Fields that have a short flag too."""

SCALARS: "Mapping[type, tuple[click.ParamType[Any], tuple[type, ...]]]" = {
    bool: (click.BOOL, (bool,)),
    int: (click.INT, (int,)),
    float: (click.FLOAT, (float, int)),
    str: (click.STRING, (str,)),
    Path: (click.Path(path_type=Path), (str,)),
}
"""Type of a field to how a flag or variable is read, and which TOML values it takes."""


def declaration(section: str) -> type:
    """The settings dataclass of a section."""
    module, _, name = SECTIONS[section].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def environment_name(setting: Field[Any]) -> str:
    """The environment variable of a field."""
    return ENVIRONMENT_PREFIX + setting.name.upper()


def flag_name(setting: Field[Any]) -> str:
    """The flag of a field."""
    return "--" + setting.name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class FieldType:
    """How the values of a field are read.

    Attributes:
        parser: Reads a flag's or variable's text.
        accepted: Types of TOML values.
        repeats: Whether the field is a tuple, so that the flag repeats and the file holds a list.
    """

    parser: "click.ParamType[Any]"
    accepted: tuple[type, ...]
    repeats: bool = False

    @classmethod
    def of(cls, annotation: Any) -> "FieldType":
        """The type of a field from its annotation; `None` in a union says only that there may be no value."""
        if get_origin(annotation) in (Union, types.UnionType):
            (annotation,) = (member for member in get_args(annotation) if member is not type(None))
        if get_origin(annotation) is tuple:
            element = cls.of(get_args(annotation)[0])
            return cls(element.parser, element.accepted, repeats=True)
        if get_origin(annotation) is Literal:
            return cls(click.Choice([str(choice) for choice in get_args(annotation)]), (str,))
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return cls(click.Choice([str(member.value) for member in annotation]), (str,))
        return cls(*SCALARS[annotation])

    def from_file(self, value: Any, place: str) -> Any:
        """A value of the TOML file, checked as a flag's text is.

        Raises:
            SettingsError: Not of this type.
        """
        if self.repeats:
            if not isinstance(value, list):
                raise SettingsError(f"{place} is {value!r}, which is not a list.", param=place)
            return tuple(FieldType(self.parser, self.accepted).from_file(element, place) for element in value)
        # In Python a bool is an int; in a file `port = true` is a mistake.
        if not isinstance(value, self.accepted) or (isinstance(value, bool) and bool not in self.accepted):
            raise SettingsError(f"{place} is {value!r}, which is not {_name(self.parser)}.", param=place)
        try:
            return self.parser.convert(value, None, None)
        except click.BadParameter as error:
            raise SettingsError(f"{place}: {error.message}", param=place) from error


def default_text(setting: Field[Any]) -> str:
    """The default of a field as documentation shows it; empty where there is none."""
    if setting.default in (None, ()):
        return ""
    if isinstance(setting.default, tuple):
        return " ".join(setting.default)
    return str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)


def _name(parser: "click.ParamType[Any]") -> str:
    return {"integer": "a whole number", "float": "a number", "boolean": "true or false"}.get(parser.name, "a text")


def settings_options(*sections: str, only: Sequence[str] = ()) -> Callable[[F], F]:
    """Give a command `--config` and the flags of these sections; `Settings` turns what it gets into dataclasses.

    Args:
        sections: Headings of the flags.
        only: The fields that get a flag; all, where none are named. The others are the file's to set.
    """

    def decorate(command: F) -> F:
        command = option(
            "--config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            envvar=ENVIRONMENT_PREFIX + "CONFIG",
            help="Settings from this TOML file, or from one of mistral.rs. Flags and variables win over it.  "
            f"[{ENVIRONMENT_PREFIX}CONFIG]",
        )(command)
        for section in reversed(sections):
            part = declaration(section)
            annotations = get_type_hints(part)
            for setting in reversed([one for one in declared_settings(part) if not only or one.name in only]):
                command = _flag(setting, FieldType.of(annotations[setting.name]), section)(command)
        return command

    return decorate


def _flag(setting: Field[Any], kind: FieldType, section: str) -> Callable[[F], F]:
    flag = flag_name(setting)
    is_switch = kind.parser is click.BOOL
    default = default_text(setting)
    shown = f"; default: {default}" if default else ""
    attributes: dict[str, Any] = {} if is_switch else {"type": kind.parser, "multiple": kind.repeats}
    names = [f"{flag}/--no-{flag[2:]}" if is_switch else flag, setting.name]
    if setting.name in SHORT_FLAGS:
        names.insert(0, SHORT_FLAGS[setting.name])
    decorator: Callable[[F], F] = click.option(
        *names,
        cls=Option,
        section=f"{section.capitalize()} settings",
        envvar=environment_name(setting),
        default=None,
        help=f"{setting.metadata['help']}  [{environment_name(setting)}{shown}]",
        **attributes,
    )
    return decorator


@dataclass(frozen=True)
class ConfigFile:
    """What a `--config` file says, its keys checked.

    Attributes:
        name: Its path, for messages.
        sections: Tables by section.
        models: `model = [...]` as texts, `[[models]]` as tables.
        tables: The lists of `GATEWAY_TABLES` that it has.
        notes: What of another system's file has no meaning here.
    """

    name: str = "no file"
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: tuple[str | Mapping[str, Any], ...] = ()
    tables: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Read a TOML file, ours or that of mistral.rs, or mistral.rs's JSON selector.

        Raises:
            SettingsError: Not TOML, or a key that nobody reads.
        """
        language = "TOML"
        try:
            text = path.read_text(encoding="utf-8")
            if text.lstrip().startswith("{"):
                language, raw = "JSON", json.loads(text)
            else:
                raw = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not {language}: {error}.", param="config") from error
        notes: list[str] = []
        if is_mistralrs(raw):
            raw, notes = translate_mistralrs(raw, place=str(path))
        check_keys(raw, (*SECTIONS, *MODEL_KEYS, *GATEWAY_TABLES), place=str(path))
        sections = {name: raw[name] for name in SECTIONS if name in raw}
        for name, table in sections.items():
            if not isinstance(table, dict):
                raise SettingsError(f"{path}: {name} is not a table.", param=name, hint=f"Write it as [{name}].")
            keys = [setting.name for setting in declared_settings(declaration(name))]
            check_keys(table, keys, place=f"{path}, [{name}]")
        models = [*_entries(raw, "model", str, path), *_entries(raw, "models", dict, path)]
        tables = {name: tuple(_entries(raw, name, dict, path)) for name in GATEWAY_TABLES if name in raw}
        return cls(str(path), sections, tuple(models), tables, tuple(notes))


def _entries(raw: Mapping[str, Any], key: str, kind: type, path: Path) -> list[Any]:
    entries = raw.get(key, [])
    if isinstance(entries, kind):
        entries = [entries]
    if not isinstance(entries, list) or not all(isinstance(entry, kind) for entry in entries):
        form = 'model = ["NAME", ...]' if kind is str else f"[[{key}]] tables"
        raise SettingsError(f"{path}: {key} is {entries!r}.", param=key, hint=f"Write {form}.")
    return entries


class Settings:
    """The settings of one run: what the flags and variables gave, over what the file says.

    Args:
        given: The command's remaining arguments: `config` and fields of its sections, `None` where not given.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        path: Path | None = given["config"]
        self.file = ConfigFile() if path is None else ConfigFile.read(path)

    def build(self, section: str, part: type[P]) -> P:
        """The settings object of one section.

        Raises:
            SettingsError: A value is not of its field's type, or the part refuses it.
        """
        annotations = get_type_hints(part)
        values: dict[str, Any] = {}
        for setting in declared_settings(part):
            given = self._given.get(setting.name)
            in_file = self.file.sections.get(section, {})
            if given not in (None, ()):
                values[setting.name] = given
            elif setting.name in in_file:
                place = f"{self.file.name}, [{section}] {setting.name}"
                kind = FieldType.of(annotations[setting.name])
                values[setting.name] = kind.from_file(in_file[setting.name], place)
        return part(**values)
