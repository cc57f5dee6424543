"""The hand-written reference says what the server does: every route, field, header and error, and no other."""

import re
from pathlib import Path

import msgspec
import pytest

from quernel.errors import InvalidRequestError, ModelLoadError, QuernelError, SettingsError
from quernel.protocols.cohere import CohereEmbedBody, CohereEmbedReply, CohereRerankBody, CohereRerankReply
from quernel.protocols.error_body import error_type
from quernel.protocols.openai import EmbeddingBody, EmbeddingReply
from quernel.protocols.rerank import RerankBody, RerankReply
from quernel.server.handlers import TRUNCATED_HEADER
from quernel.server.middleware import HTTP_CODES, REQUEST_ID_HEADER
from quernel.server.routes import ENDPOINTS

REFERENCE = (Path(__file__).parents[2] / "docs/reference/http.md").read_text(encoding="utf-8")

NEVER_OVER_HTTP = (ModelLoadError, SettingsError)
"""Errors that stop the server before it serves."""


def section(title):
    """What stands under a heading, up to the next one of its rank or above."""
    rank, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", REFERENCE, re.MULTILINE | re.DOTALL).groups()
    return re.split(rf"^#{{1,{len(rank)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def cells(text, column):
    """The code spans in a column of the tables of a section."""
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row[column])]


def leaves(error):
    yield error
    for child in error.__subclasses__():
        yield from leaves(child)


def test_the_error_table_has_every_error_that_can_reach_a_client():
    rows = set(re.findall(r"^\| (\d+) \| `(\w+)` \| `(\w+)` \|", section("Errors"), re.MULTILINE))
    reachable = [error for error in leaves(QuernelError) if not issubclass(error, NEVER_OVER_HTTP)]
    expected = {
        (str(error.status), error_type(error.status), error.code) for error in reachable if error is not QuernelError
    }
    expected |= {(str(status), error_type(status), code) for status, code in HTTP_CODES.items()}
    assert rows == expected


def test_routes_name_only_errors_that_the_table_has():
    for endpoint in ENDPOINTS:
        for error in endpoint.errors:
            assert f"`{error.code}`" in section("Errors")
            assert not issubclass(error, NEVER_OVER_HTTP)


def test_every_route_that_takes_a_body_can_refuse_it():
    for endpoint in ENDPOINTS:
        assert bool(endpoint.body) == (InvalidRequestError in endpoint.errors)


def test_the_table_of_routes_is_that_of_the_server():
    documented = cells(section("Routes"), 0)
    assert documented == [f"{endpoint.method} {endpoint.path.replace(':path', '')}" for endpoint in ENDPOINTS]


@pytest.mark.parametrize(
    ("title", "body", "reply"),
    [
        ("`POST /v1/embeddings`", EmbeddingBody, EmbeddingReply),
        ("`POST /v1/rerank`", RerankBody, RerankReply),
        ("`POST /v2/embed`", CohereEmbedBody, CohereEmbedReply),
        ("`POST /v2/rerank`", CohereRerankBody, CohereRerankReply),
    ],
)
def test_the_tables_of_fields_are_those_of_the_codec(title, body, reply):
    documented = {re.split(r"[\[.]", field)[0] for field in cells(section(title), 0)} - {"Field"}
    declared = {field.encode_name for shape in (body, reply) for field in msgspec.structs.fields(shape)}
    assert documented == declared - {"object"}


def test_headers_are_documented():
    assert {REQUEST_ID_HEADER, TRUNCATED_HEADER, "retry-after"} == set(cells(section("Headers"), 0))
