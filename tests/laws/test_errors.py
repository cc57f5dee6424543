"""Every error has a status and a body in every dialect, and our own client reads it back as what it was."""

import msgspec
import pytest

from quernel import errors
from quernel.protocols.error_body import UNION, decode_error
from quernel.server.middleware import HTTP_CODES
from quernel.server.routes import ENDPOINTS

DIALECTS = list({id(dialect): dialect for endpoint in ENDPOINTS for dialect in endpoint.error_dialects}.values())


def tree(error):
    yield error
    for child in error.__subclasses__():
        if child.__module__ == "quernel.errors":
            yield from tree(child)


ERRORS = list(tree(errors.QuernelError))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.shape.__name__)
def test_every_error_has_a_status_and_a_body(error, dialect):
    status = dialect.status(error.status, error.code)
    assert 400 <= status < 600
    assert (status >= 500) == (error.status >= 500) or status == 424, "a client's fault stays one"
    body = dialect.encode("What is wrong.", status=error.status, code=error.code, param="input")
    assert isinstance(msgspec.json.decode(body, type=dialect.shape), dialect.shape)
    assert b"What is wrong." in body


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_the_client_raises_what_the_server_raised(error):
    body = UNION.encode("What is wrong.", status=error.status, code=error.code, param="input")
    found = decode_error(error.status, body)
    assert (type(found), found.message, found.param) == (error, "What is wrong.", "input")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_a_server_that_knows_no_code_of_ours_is_understood_by_its_status(error):
    found = decode_error(error.status, b'{"error": {"message": "Sorry."}}')
    assert found.status in (error.status, 400, 500)
    assert (found.status >= 500) == (error.status >= 500)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.shape.__name__)
def test_messages_are_bounded(dialect):
    body = dialect.encode("x" * 1_000_000, status=400, code="invalid_request", param="y" * 10_000)
    assert len(body) < 20_000


def test_codes_of_http_itself_are_not_those_of_errors():
    codes = {error.code for error in tree(errors.QuernelError)}
    assert codes.isdisjoint(HTTP_CODES.values())
