"""API keys over HTTP."""

import logging

import httpx
import pytest
from starlette.datastructures import Headers

from quernel.errors import AuthenticationError, PermissionDeniedError, SettingsError
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.keys import PUBLIC, Keys, read_keys
from quernel.server.routes import ENDPOINTS
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel

FIRST, SECOND, ADMIN = "sk-first-key", "sk-second-key", "sk-admin-key"
BODY = {"input": "a"}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# ours\n\n{SECOND}  # of the other team\n")
    config = ServerConfig(api_key=(FIRST,), api_key_file=file, admin_key=ADMIN, port=0, shutdown_grace_seconds=1)
    with running(create_app([FakeEmbeddingModel(), FakeRerankModel()], config=config), config) as url:
        yield url


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer(FIRST),
        bearer(SECOND),
        bearer(ADMIN),
        {"authorization": f"bearer  {FIRST}"},
        {"x-api-key": FIRST},
        {"api-key": SECOND},
    ],
)
def test_any_of_the_keys_opens_the_door_in_any_of_its_forms(url, headers):
    assert httpx.post(url + "/v1/embeddings", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "You didn't provide an API key."),
        ({"authorization": "Basic abc"}, "You didn't provide an API key."),
        ({"authorization": "Bearer"}, "You didn't provide an API key."),
        (bearer("wrong"), "Incorrect API key provided."),
        (bearer(FIRST[:-1]), "Incorrect API key provided."),
        (bearer(FIRST + "x"), "Incorrect API key provided."),
        (bearer("\u00ff" * 5), "Incorrect API key provided."),
    ],
)
def test_others_do_not(url, headers, says):
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    reply = httpx.post(url + "/v1/embeddings", json=BODY, headers=encoded)
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    error = reply.json()["error"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert error["message"].startswith(says)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_every_route_but_the_public_ones_asks_for_a_key(url, endpoint):
    reply = httpx.request(endpoint.method, url + endpoint.path.replace("{name:path}", "x"), json=None)
    is_public = endpoint.method == "GET" and endpoint.path in PUBLIC
    assert (reply.status_code == 401) != is_public
    if not is_public:
        assert AuthenticationError in endpoint.errors


def test_a_route_that_is_not_there_does_not_say_so_to_strangers(url):
    assert httpx.get(url + "/v1/secret").status_code == 401
    assert httpx.get(url + "/v1/secret", headers=bearer(FIRST)).status_code == 404


def test_teis_routes_refuse_in_teis_words(url):
    reply = httpx.post(url + "/embed", json={"inputs": "a"})
    assert (reply.status_code, reply.json()["error_type"]) == (401, "Validation")


@pytest.mark.parametrize("path", ["/v1/models/load", "/v1/models/unload", "/v1/models/reload"])
def test_only_the_admin_changes_what_is_served(url, path):
    reply = httpx.post(url + path, json={"model": "fake/embedding"}, headers=bearer(FIRST))
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "permission_denied")


def test_without_an_admin_key_nobody_does():
    with running(create_app([FakeEmbeddingModel()])) as url:
        reply = httpx.post(url + "/v1/models/unload", json={"model": "fake/embedding"}, headers=bearer("any"))
        assert reply.status_code == 403
        assert "QUERNEL_ADMIN_KEY" in reply.json()["error"]["message"]


def test_keys_are_neither_logged_nor_echoed(url, caplog):
    with caplog.at_level(logging.DEBUG):
        for headers in (bearer(FIRST), bearer("sk-wrong")):
            reply = httpx.post(url + "/v1/embeddings", json=BODY, headers=headers)
            assert "sk-" not in reply.text
    ours = [record for record in caplog.records if record.name.startswith(("quernel", "uvicorn"))]
    assert ours
    assert not any("sk-" in logging.Formatter().format(record) for record in ours)


def test_a_key_is_kept_as_a_digest_only():
    keys = Keys([FIRST], ADMIN)
    assert FIRST not in repr(vars(keys))
    keys.check(Headers(bearer(FIRST)))
    with pytest.raises(AuthenticationError):
        keys.check_admin(Headers())
    with pytest.raises(PermissionDeniedError):
        keys.check_admin(Headers(bearer(FIRST)))


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe"])
def test_a_file_without_keys_stops_the_server(tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_keys(file)
    assert caught.value.param == "api_key_file"
