import orjson
import pytest

from quernel import errors
from quernel.protocols.error_body import MAX_MESSAGE, decode_error, encode_error, error_type

EVERY_ERROR = [
    error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.QuernelError)
]


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_an_error_survives_the_wire(error):
    sent = error("What is wrong.", param="field", hint="The way out.")
    received = decode_error(sent.status, encode_error(sent))
    assert type(received) is error
    assert (str(received), received.param) == (str(sent), sent.param)


def test_codes_are_unique():
    codes = [error.code for error in EVERY_ERROR]
    assert sorted(set(codes)) == sorted(codes)


def test_the_message_stands_where_clients_of_either_vendor_look():
    body = orjson.loads(encode_error(errors.EmptyInputError("Nothing.", param="input")))
    assert body["message"] == body["detail"] == body["error"]["message"] == "Nothing."
    assert body["error"] | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "input",
        "code": "empty_input",
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_type_follows_from_the_status(status, kind):
    assert error_type(status) == kind


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (400, b'{"message": "no"}', errors.InvalidRequestError, "no"),
        (400, b'{"detail": "no"}', errors.InvalidRequestError, "no"),
        (422, b'{"error": "no", "error_type": "Validation"}', errors.InvalidRequestError, "no"),
        (429, b'{"error": {"message": "slow down", "code": "x"}}', errors.OverloadedError, "slow down"),
        (503, b"", errors.UnavailableError, "The server answered with status 503."),
        (502, b"<html>", errors.InternalError, "The server answered with status 502."),
    ],
)
def test_an_error_of_another_server_gets_the_class_of_its_status(status, body, error, message):
    received = decode_error(status, body)
    assert type(received) is error
    assert str(received) == message


def test_a_message_that_quotes_a_whole_request_is_cut():
    body = encode_error(errors.InvalidRequestError("x" * 10**6, param="y" * 10**6))
    assert len(body) < 4 * MAX_MESSAGE
