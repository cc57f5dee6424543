"""The API reference: the gateway's description of its own routes, `/openapi.json`, as a page.

The page says what the description says and nothing else, so it cannot go out of date. It is read once, since it stays
the same for as long as the gateway runs.

Source: https://spec.openapis.org/oas/v3.1.0; its schemas are JSON Schema 2020-12.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import orjson
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from quernel.errors import AuthenticationError
from quernel.protocols.fields import CHANGES_NOTHING
from quernel.web.pages import coded, pages_of, visitor_of
from quernel.web.snippets import KEY, curl

SCOPE = re.compile(r" Scope `(\w+)`\.$")
"""The scope that an operation takes, at the end of its summary."""

CODE = re.compile(r"`(\w+)`")
NO_WORD = re.compile(r"[^a-z0-9]+")

PLURALS = {"string": "strings", "integer": "integers", "number": "numbers", "boolean": "booleans", "object": "objects"}

MOST_SHOWN = 2**53
"""A limit above this is that of the type, which is no news."""

MOST_ADDRESSES = 8
"""Addresses of the gateway for which the page is kept. Most have one; each beyond these is drawn anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field or parameter.

    Attributes:
        name: Its name.
        place: Where a parameter stands: `path`, `query` or `header`.
        type: What it may be, in words.
        about: What it says.
        is_required: Whether a request must have it.
        shapes: The objects that it may be or hold.
    """

    name: str
    place: str = ""
    type: Markup
    about: Markup
    is_required: bool
    shapes: tuple["Shape", ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """An object.

    Attributes:
        name: What clients that are made from the description call it.
        about: What it is.
        fields: Its fields, first those that it must have.
        ignored: Names of the fields that change nothing.
    """

    name: str
    about: Markup
    fields: tuple[Field, ...]
    ignored: tuple[str, ...]

    @property
    def is_wrapping(self) -> bool:
        """Whether what it has to tell is in a shape of its fields: it is a list, or a page of one."""
        return len(self.fields) <= 2 and sum(len(field.shapes) for field in self.fields) == 1


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent or answered.

    Attributes:
        type: What it is, in words; empty where it is the one object of `shapes`.
        shapes: The objects that it may be or hold.
    """

    type: Markup
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path.

    Attributes:
        id: Its name in the description, and on the page.
        method: The method.
        path: The path, with its parameters in braces.
        about: What it gives.
        scope: The scope that a key must have, where it says so.
        takes_key: Whether it is refused without a key.
        parameters: What its address and headers say.
        request: What is sent.
        example: A body that can be sent as it is; `None` too where a parameter has to be given.
        reply: What is answered.
        errors: Status to the codes that it may have.
        error_shapes: Names of the bodies of errors.
        twin: An operation before it that takes and gives the same.
    """

    id: str
    method: str
    path: str
    about: Markup
    scope: str | None
    takes_key: bool
    parameters: tuple[Field, ...]
    request: Content | None
    example: Mapping[str, Any] | None
    reply: Content
    errors: Mapping[str, Sequence[str]]
    error_shapes: tuple[str, ...]
    twin: "Operation | None"

    def command(self, origin: str) -> str | None:
        """The operation as a command of a shell; `None` where somebody has to fill something in.

        Args:
            origin: Where the gateway is: an address in which all that is not plain is written with `%`.
        """
        if self.example is not None:
            return curl(origin, self.path, self.example)
        if self.method != "get" or any(parameter.is_required for parameter in self.parameters):
            return None
        return curl(origin, self.path, takes_key=self.takes_key)


@dataclass(frozen=True, slots=True)
class Group:
    """Operations that have a tag in common.

    Attributes:
        id: Its name on the page.
        name: The tag.
        about: What they are for.
        operations: The operations.
    """

    id: str
    name: str
    about: Markup
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the page shows.

    Attributes:
        groups: The operations.
        errors: The bodies of errors.
    """

    groups: tuple[Group, ...]
    errors: tuple[Shape, ...]


class ReferencePage:
    """The page. It reads the description when it is first asked for."""

    def __init__(self) -> None:
        self._reference: Reference | None = None
        self._draw = lru_cache(maxsize=MOST_ADDRESSES)(draw_operations)

    async def show(self, request: Request) -> Response:
        """Answer with it."""
        pages = pages_of(request)
        reference = self._reference
        if reference is None:
            reference = self._reference = read_reference(await pages.api.get("/openapi.json", visitor_of(request)))
        origin = pages.origin(request)
        return pages.show(
            request,
            "reference.html",
            groups=reference.groups,
            num_operations=sum(len(group.operations) for group in reference.groups),
            num_errors=len(reference.errors),
            origin=origin,
            key=KEY,
            operations=self._draw(pages.templates, reference, origin),
        )


def draw_operations(templates: jinja2.Environment, reference: Reference, origin: str) -> Markup:
    """All operations: most of the page, and the same for all who come to the same address."""
    template = templates.get_template("reference_operations.html")
    return Markup(template.render(groups=reference.groups, errors=reference.errors, origin=origin))


def read_reference(document: Mapping[str, Any]) -> Reference:
    """What the page shows of an OpenAPI document."""
    reader = _Reader(document["components"]["schemas"])
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    found: dict[str, list[Operation]] = {name: [] for name in tags}
    first: dict[bytes, Operation] = {}
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            parts = orjson.dumps([said.get(part) for part in ("parameters", "requestBody", "responses")])
            operation = reader.operation(method, path, said, first.get(parts))
            first.setdefault(parts, operation)
            found[said["tags"][0]].append(operation)
    groups = [
        Group(NO_WORD.sub("-", name.lower()), name, coded(tags[name]), tuple(operations))
        for name, operations in found.items()
    ]
    names = [name for group in groups for operation in group.operations for name in operation.error_shapes]
    return Reference(tuple(groups), tuple(reader.shape(name, is_sent=False) for name in dict.fromkeys(names)))


class _Reader:
    """Puts schemas into words.

    Args:
        schemas: The named ones.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self._schemas = schemas

    def operation(self, method: str, path: str, said: Mapping[str, Any], twin: Operation | None) -> Operation:
        """An operation, as the description has it."""
        summary = said["summary"]
        scope = SCOPE.search(summary)
        replies = said["responses"]
        errors = {status: CODE.findall(reply["description"]) for status, reply in replies.items() if status != "200"}
        bodies = [_schema_of(reply) for status, reply in replies.items() if status != "200"]
        sent = _schema_of(said["requestBody"]) if "requestBody" in said else None
        parameters = tuple(self._parameter(one) for one in said.get("parameters", ()))
        has_blank = any(parameter.is_required for parameter in parameters)
        return Operation(
            id=said["operationId"],
            method=method,
            path=path,
            about=coded(summary[: scope.start()] if scope else summary),
            scope=scope[1] if scope else None,
            takes_key=any(AuthenticationError.code in codes for codes in errors.values()),
            parameters=parameters,
            request=None if sent is None else self._content(sent, is_sent=True),
            example=None if sent is None or has_blank else self._example(sent),
            reply=self._content(_schema_of(replies["200"]), is_sent=False),
            errors=errors,
            error_shapes=tuple(dict.fromkeys(name for body in bodies for name in _names(body))),
            twin=twin,
        )

    def shape(self, name: str, *, is_sent: bool, within: tuple[str, ...] = ()) -> Shape:
        """A named object.

        Args:
            name: Its name.
            is_sent: Whether it is of a request: of a reply nobody asks what is required and what is taken for granted.
            within: Names of the objects that it is a part of, which are not told again.
        """
        schema = self._schemas[name]
        fields, required = schema["properties"], schema.get("required", ())
        ignored = tuple(field for field, said in fields.items() if said.get("description") == CHANGES_NOTHING)
        told = [
            self._field(field, said, is_sent=is_sent, is_required=is_sent and field in required, within=(*within, name))
            for field, said in fields.items()
            if field not in ignored
        ]
        told.sort(key=lambda field: not field.is_required)
        return Shape(name, coded(schema.get("description", "")), tuple(told), ignored)

    def _parameter(self, said: Mapping[str, Any]) -> Field:
        schema = {**said["schema"], "default": None}
        if "description" in said:
            schema["description"] = said["description"]
        return self._field(said["name"], schema, is_sent=True, is_required=said["required"], place=said["in"])

    def _field(
        self,
        name: str,
        schema: Mapping[str, Any],
        *,
        is_sent: bool,
        is_required: bool,
        within: tuple[str, ...] = (),
        place: str = "",
    ) -> Field:
        may_be_left_out = is_sent and "default" in schema and schema["default"] is None
        options = schema.get("anyOf", [schema])
        inner = [option for option in options if not (may_be_left_out and option.get("type") == "null")]
        sentences = [schema.get("description"), *(option.get("description") for option in inner)]
        facts = list(_facts(schema, inner)) if is_sent else []
        return Field(
            name=name,
            place=place,
            type=self._words({"anyOf": inner}),
            about=Markup(" ").join([*(coded(one) for one in dict.fromkeys(sentences) if one), *facts]),
            is_required=is_required,
            shapes=self._shapes(schema, is_sent=is_sent, within=within),
        )

    def _content(self, schema: Mapping[str, Any], *, is_sent: bool) -> Content:
        shapes = self._shapes(schema, is_sent=is_sent)
        is_plain = "$ref" in schema and len(shapes) == 1
        return Content(Markup() if is_plain else self._words(schema), shapes)

    def _shapes(self, schema: Mapping[str, Any], *, is_sent: bool, within: tuple[str, ...] = ()) -> tuple[Shape, ...]:
        """The objects that a schema names, but not those that these name."""
        names = [name for name in _names(schema) if "properties" in self._schemas[name] and name not in within]
        return tuple(self.shape(name, is_sent=is_sent, within=within) for name in names)

    def _words(self, schema: Mapping[str, Any], *, many: bool = False) -> Markup:
        """A type in words: `string, or list of strings or integers`."""
        if "$ref" in schema:
            name = _name(schema)
            values = self._schemas[name].get("enum")
            return Markup("{}").format(name) if values is None else _values(values)
        if "anyOf" in schema:
            return _either([self._words(option, many=many) for option in schema["anyOf"]])
        if "enum" in schema:
            return _values(schema["enum"])
        kind = schema.get("type")
        if kind is None:
            return Markup("anything")
        if kind == "array":
            return Markup("lists of {}" if many else "list of {}").format(self._words(schema["items"], many=True))
        word = PLURALS[kind] if many and kind in PLURALS else kind
        if isinstance(schema.get("additionalProperties"), Mapping):
            return Markup("{} of {}").format(word, self._words(schema["additionalProperties"], many=True))
        return escape(word)

    def _example(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """A body of the examples of its fields, which are those that it must have and then some."""
        shape = self._schemas[_names(schema)[0]]
        fields = shape["properties"]
        given = {name: said["examples"][0] for name, said in fields.items() if said.get("examples")}
        return given if given and given.keys() >= set(shape.get("required", ())) else None


def _schema_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a body; of a text its media type."""
    ((media_type, content),) = part["content"].items()
    schema: Mapping[str, Any] = content["schema"]
    return schema if media_type == "application/json" else {"type": media_type}


def _names(schema: Mapping[str, Any]) -> list[str]:
    """The schemas that a schema names, each once."""
    if "$ref" in schema:
        return [_name(schema)]
    held = (schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), Mapping))
    return list(dict.fromkeys(name for part in (*schema.get("anyOf", ()), *held) for name in _names(part)))


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _facts(schema: Mapping[str, Any], options: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """Bounds, default and example of a field, as sentences."""
    for option in options:
        for least, most, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters")):
            low, high = option.get(least), option.get(most)
            if high is not None and high < MOST_SHOWN:
                yield escape(f"{low} to {high}{unit}." if low is not None else f"At most {high}{unit}.")
            elif low:
                yield escape(f"At least {low}{unit}.")
    default = schema.get("default")
    if default not in (None, "", [], {}):
        yield Markup("By default {}.").format(_code(default))
    if schema.get("examples"):
        yield Markup("Such as {}.").format(_code(schema["examples"][0]))


def _either(choices: Sequence[Markup]) -> Markup:
    """Several types in words, as one."""
    *before, last = dict.fromkeys(choices)
    if not before:
        return last
    is_long = any(" or " in choice for choice in (*before, last))
    return Markup("{}{} or {}").format(Markup(", ").join(before), "," if is_long else "", last)


def _values(values: Sequence[Any]) -> Markup:
    return _either([_code(value) for value in values])


def _code(value: Any) -> Markup:
    return Markup("<code>{}</code>").format(json.dumps(value, ensure_ascii=False))
