"""The OpenAPI document as one HTML page without script, so that it works offline and asks nobody else for anything."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 3rem; border-top: 1px solid #8886; padding-top: 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }
code { font: .9em ui-monospace, monospace }
"""


def render_docs(document: Mapping[str, Any]) -> str:
    """The page: each route with its fields and replies, then the shapes they name."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    description = escape(document["info"]["description"])
    openapi = escape(document["servers"][0]["url"].rstrip("/") + "/openapi.json")
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title><style>{STYLE}</style></head>"
        f'<body><h1>{title}</h1><p>{description} <a href="{openapi}">openapi.json</a></p>'
        + "".join(_operations(document))
        + "<h2>Shapes</h2>"
        + "".join(_shapes(document))
        + "</body></html>"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{_text(operation['summary'])}</p>"
            if "requestBody" in operation:
                yield f"<p>Request: {_content(operation['requestBody']['content'])}</p>"
            rows = (
                (f"<code>{status}</code>", _text(response["description"]), _content(response["content"]))
                for status, response in operation["responses"].items()
            )
            yield _table(("Status", "", "Reply"), rows)


def _shapes(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        yield f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3><p>{_text(schema.get("description", ""))}</p>'
        if "enum" in schema:
            yield "<p>" + ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"]) + "</p>"
        if "properties" in schema:
            required = schema.get("required", ())
            rows = (
                (
                    f"<code>{escape(field)}</code>{' (required)' if field in required else ''}",
                    _type(shape),
                    _text(shape.get("description", "")),
                )
                for field, shape in schema["properties"].items()
            )
            yield _table(("Field", "Type", ""), rows)


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _content(content: Mapping[str, Any]) -> str:
    return ", ".join(_type(media["schema"]) for media in content.values())


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in words, as HTML: `string or array of integer`, with links to named shapes."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}"><code>{name}</code></a>'
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    if schema.get("type") == "array":
        inner = _type(schema["items"])
        return f"array of ({inner})" if " or " in inner else f"array of {inner}"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    return escape(str(schema.get("type", "any")))


def _text(text: str) -> str:
    """A description as HTML: `code` between backticks."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
