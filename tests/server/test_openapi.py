import dataclasses
import json
import re
from html.parser import HTMLParser
from typing import Annotated

import msgspec
import pytest

from quernel.protocols.openai import EmbeddingBody
from quernel.server.openapi import build_openapi
from quernel.server.routes import ENDPOINTS


def test_the_document_is_valid_openapi(served):
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(served.client.get("/openapi.json").json())


def test_every_route_and_nothing_else_is_described(served):
    paths = served.client.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {(endpoint.method, endpoint.path.replace(":path", "")) for endpoint in ENDPOINTS}


def test_every_route_has_one_tag_and_every_tag_a_route():
    document = build_openapi(ENDPOINTS)
    tags = [tag["name"] for tag in document["tags"]]
    used = [operation["tags"] for methods in document["paths"].values() for operation in methods.values()]
    assert all(len(one) == 1 for one in used)
    assert list(dict.fromkeys(name for (name,) in used)) == tags  # routes of a tag stand together


def test_fields_of_a_query_and_of_headers_are_parameters():
    class Asked(msgspec.Struct):
        which: Annotated[str, msgspec.Meta(description="Which one.")] = msgspec.field(name="x-which")
        many: int = 1

    route = dataclasses.replace(ENDPOINTS[0], path="/{name:path}", query=Asked, headers=Asked)
    document = build_openapi([route])
    parameters = document["paths"]["/{name}"]["post"]["parameters"]
    assert [(one["name"], one["in"], one["required"]) for one in parameters] == [
        ("name", "path", True),
        ("x-which", "query", True),
        ("many", "query", False),
        ("x-which", "header", True),
        ("many", "header", False),
    ]
    assert parameters[3]["description"] == "Which one."
    assert "Asked" not in document["components"]["schemas"]


def test_every_reference_leads_somewhere():
    document = build_openapi(ENDPOINTS)
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_fields_of_a_body_are_those_that_the_server_decodes():
    schema = build_openapi(ENDPOINTS)["components"]["schemas"]["EmbeddingBody"]
    assert set(schema["properties"]) == {field.encode_name for field in msgspec.structs.fields(EmbeddingBody)}
    assert schema["required"] == ["input"]
    assert schema["additionalProperties"] is False


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets, self.ids, self.tags = [], set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset"):
                self.targets.append(value)
            if name == "id":
                self.ids.add(value)


def test_the_page_asks_nobody_else_for_anything(served):
    response = served.client.get("/docs")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = Links()
    page.feed(response.text)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert all(target == "/openapi.json" or target[1:] in page.ids for target in page.targets)


def test_the_page_names_every_route_and_every_field(served):
    page = served.client.get("/docs").text
    for endpoint in ENDPOINTS:
        assert endpoint.path.replace(":path", "") in page
    for field in msgspec.structs.fields(EmbeddingBody):
        assert f"<code>{field.encode_name}</code>" in page
