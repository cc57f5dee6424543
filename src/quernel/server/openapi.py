"""The OpenAPI document: the table of routes and the wire formats' own types, put into one description.

Source: https://spec.openapis.org/oas/v3.1.0; its schemas are JSON Schema 2020-12, which is what msgspec writes.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from quernel._version import __version__
from quernel.errors import QuernelError
from quernel.server.routes import Endpoint

REFERENCE = "#/components/schemas/{name}"

PARAMETER = re.compile(r"\{(?P<name>\w+)(?::\w+)?\}")
"""A parameter of a path as Starlette has it."""

WORD = re.compile(r"\w+")


def build_openapi(endpoints: Sequence[Endpoint], *, root_path: str = "") -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes.

    Args:
        endpoints: The routes.
        root_path: What a proxy has before their paths.
    """
    errors = (dialect.shape for endpoint in endpoints for dialect in endpoint.error_dialects)
    shapes = {shape for endpoint in endpoints for shape in (*endpoint.body, *endpoint.reply)} | set(errors)
    asked = {shape for endpoint in endpoints for shape in (endpoint.query, endpoint.headers) if shape is not None}
    ordered = sorted(shapes | asked, key=str)
    references, schemas = msgspec.json.schema_components(ordered, ref_template=REFERENCE)
    reference_of = dict(zip(ordered, references, strict=True))
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for endpoint in endpoints:
        paths[_path(endpoint)][endpoint.method.lower()] = _operation(endpoint, reference_of, schemas)
    for shape in asked:  # their fields are parameters of the routes
        del schemas[shape.__name__]
    tags = dict.fromkeys(endpoint.tag for endpoint in endpoints)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quernel",
            "version": __version__,
            "description": "Embeddings and reranking with the Qwen3 models.",
        },
        "servers": [{"url": root_path or "/"}],
        "tags": [{"name": tag.name, "description": tag.about} for tag in tags],
        "paths": dict(paths),
        "components": {"schemas": schemas},
    }


def _path(endpoint: Endpoint) -> str:
    return PARAMETER.sub(r"{\g<name>}", endpoint.path)


def _operation(
    endpoint: Endpoint, reference_of: Mapping[Any, dict[str, Any]], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "_".join((endpoint.method.lower(), *WORD.findall(_path(endpoint)))),
        "summary": endpoint.summary,
        "tags": [endpoint.tag.name],
        "responses": _responses(endpoint, reference_of),
    }
    parameters = [
        {"name": match["name"], "in": "path", "required": True, "schema": {"type": "string"}}
        for match in PARAMETER.finditer(endpoint.path)
    ]
    for place, shape in (("query", endpoint.query), ("header", endpoint.headers)):
        if shape is not None:
            parameters += _parameters(place, schemas[shape.__name__])
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _any_of(endpoint.body, reference_of)}},
        }
    return operation


def _parameters(place: str, shape: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of a shape as parameters of a route."""
    for name, schema in shape["properties"].items():
        described = {"description": schema["description"]} if "description" in schema else {}
        kept = {key: value for key, value in schema.items() if key not in ("description", "default")}
        yield {"name": name, "in": place, "required": name in shape.get("required", ()), **described, "schema": kept}


def _responses(endpoint: Endpoint, reference_of: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    unnamed = {"type": "object"} if endpoint.media_type == "application/json" else {"type": "string"}
    schema = _any_of(endpoint.reply, reference_of) if endpoint.reply else unnamed
    responses: dict[str, Any] = {
        "200": {"description": "Success.", "content": {endpoint.media_type: {"schema": schema}}}
    }
    for status, (errors, shapes) in sorted(_by_status(endpoint).items()):
        responses[str(status)] = {
            "description": "Code " + " or ".join(f"`{error.code}`" for error in errors) + ".",
            "content": {"application/json": {"schema": _any_of(shapes, reference_of)}},
        }
    return responses


def _any_of(shapes: Sequence[Any], reference_of: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    references = [reference_of[shape] for shape in shapes]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _by_status(endpoint: Endpoint) -> Mapping[int, tuple[list[type[QuernelError]], list[Any]]]:
    """The errors of each status, and the shapes of their bodies."""
    grouped: defaultdict[int, tuple[list[type[QuernelError]], list[Any]]] = defaultdict(lambda: ([], []))
    for dialect in endpoint.error_dialects:
        for error in endpoint.errors:
            errors, shapes = grouped[dialect.status(error.status, error.code)]
            if error not in errors:
                errors.append(error)
            if dialect.shape not in shapes:
                shapes.append(dialect.shape)
    return grouped
