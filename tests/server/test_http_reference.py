"""The generated reference has every route, field, error, metric and flag; the hand-written page every header."""

import re
from pathlib import Path

import msgspec
import pytest

from quernel.errors import InvalidRequestError, QuernelError
from quernel.server.handlers import TRUNCATED_HEADER
from quernel.server.inference import INPUT_TYPE_HEADER, INSTRUCTION_HEADER, TIMEOUT_HEADER
from quernel.server.keys import KEY_HEADERS
from quernel.server.metrics import MEASURES
from quernel.server.middleware import HTTP_CODES, REQUEST_ID_HEADER
from quernel.server.routes import ENDPOINTS

FOLDER = Path(__file__).parents[2] / "docs/reference"


def page(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def tree(error):
    yield error
    for child in error.__subclasses__():
        if child.__module__ == "quernel.errors":
            yield from tree(child)


def test_every_route_is_in_the_reference():
    routes = page("routes.md")
    for endpoint in ENDPOINTS:
        assert f"### `{endpoint.method} {endpoint.path.replace(':path', '')}`" in routes


def test_every_field_of_every_request_is_in_the_reference():
    routes = page("routes.md")
    for body in {body for endpoint in ENDPOINTS for body in endpoint.body}:
        (section,) = re.findall(rf"^### {body.__name__}\n(.*?)(?=^### |\Z)", routes, re.MULTILINE | re.DOTALL)
        for field in msgspec.structs.fields(body):
            assert f"| `{field.encode_name}`" in section


def test_every_error_is_in_the_reference():
    errors = page("errors.md")
    for error in tree(QuernelError):
        assert f"| `{error.code}` | `{error.__name__}` | {error.status} |" in errors
    for code in HTTP_CODES.values():
        assert f"| `{code}` |" in errors


def test_every_metric_is_in_the_reference():
    metrics = page("metrics.md")
    for measure in MEASURES:
        assert f"| `{measure.full_name}` | {measure.kind} |" in metrics


def test_every_header_is_documented():
    headers = page("http.md").partition("## Headers")[2]
    for header in (
        REQUEST_ID_HEADER,
        TRUNCATED_HEADER,
        INSTRUCTION_HEADER,
        INPUT_TYPE_HEADER,
        TIMEOUT_HEADER,
        *KEY_HEADERS,
        "retry-after",
    ):
        assert f"`{header}`" in headers


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_a_route_that_takes_a_body_can_refuse_it(endpoint):
    assert bool(endpoint.body) == (InvalidRequestError in endpoint.errors)


def test_codes_of_errors_are_unique():
    codes = [error.code for error in tree(QuernelError)]
    assert len(codes) == len(set(codes))
