"""TLS, Unix sockets, web pages, proxies, and log lines as JSON."""

import json
import logging
import socket

import httpx
import pytest
from starlette.testclient import TestClient

from quernel.errors import SettingsError
from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.serve import JsonFormatter, bind, running, url_of
from quernel.testing import FakeEmbeddingModel
from tests.support.certificates import make_certificate

BODY = {"input": "a"}


def test_https(tmp_path):
    certificate, trusted = make_certificate(tmp_path)
    config = ServerConfig(port=0, shutdown_grace_seconds=1, **certificate)
    with running(create_app([FakeEmbeddingModel()], config=config), config) as url:
        assert url.startswith("https://")
        assert httpx.post(url + "/v1/embeddings", json=BODY, verify=trusted).status_code == 200


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_a_unix_socket(tmp_path):
    path = tmp_path / "quernel.sock"
    config = ServerConfig(uds=path, shutdown_grace_seconds=1)
    with running(create_app([FakeEmbeddingModel()], config=config), config) as url:
        assert url == f"unix:{path}"
        with pytest.raises(SettingsError, match="in use"):
            bind(config)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.post("http://localhost/v1/embeddings", json=BODY).status_code == 200


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_a_unix_socket_that_a_killed_server_left_is_taken_over(tmp_path):
    path = tmp_path / "quernel.sock"
    with bind(ServerConfig(uds=path)) as left:
        assert url_of(left) == f"unix:{path}"
    assert path.exists()
    with bind(ServerConfig(uds=path)):
        pass


@pytest.mark.parametrize("name", ["no such folder/x.sock", "file"])
def test_a_unix_socket_that_cannot_be_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SettingsError) as caught:
        bind(ServerConfig(uds=tmp_path / name))
    assert caught.value.param == "uds"
    assert (tmp_path / "file").read_text() == "precious"


def test_pages_of_the_named_origins_may_ask_and_others_may_not():
    app = create_app(
        [FakeEmbeddingModel()], config=ServerConfig(cors_origins=("https://good.example",), api_key=("k",))
    )
    client = TestClient(app)
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    allowed = client.options("/v1/embeddings", headers={"origin": "https://good.example", **preflight})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"
    refused = client.options("/v1/embeddings", headers={"origin": "https://bad.example", **preflight})
    assert refused.status_code == 400
    reply = client.post("/v1/embeddings", json=BODY, headers={"origin": "https://good.example"})
    assert reply.status_code == 401, "a page needs a key too"
    assert reply.headers["access-control-allow-origin"] == "https://good.example"


def test_without_origins_no_page_may_ask():
    reply = TestClient(create_app([FakeEmbeddingModel()])).post(
        "/v1/embeddings", json=BODY, headers={"origin": "https://any.example"}
    )
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("sent", ["", "/quernel"])
def test_behind_a_sub_path_of_a_proxy_that_cuts_it_off_or_not(sent):
    config = ServerConfig(port=0, root_path="/quernel", shutdown_grace_seconds=1)
    with running(create_app([FakeEmbeddingModel()], config=config), config) as url:
        assert httpx.get(f"{url}{sent}/health").status_code == 200
        assert httpx.post(f"{url}{sent}/v1/embeddings", json=BODY).status_code == 200
        root = httpx.get(f"{url}{sent}/")
        assert (root.status_code, root.headers["location"]) == (307, "/quernel/docs")
        assert 'href="/quernel/openapi.json"' in httpx.get(f"{url}{sent}/docs").text


def test_a_line_as_json_has_the_numbers_as_fields():
    record = logging.LogRecord("quernel.server", logging.INFO, "f", 1, "request_id=a status=200", (), None)
    record.fields = {"request_id": "a", "status": 200, "ms": 1.5}
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["request_id"], line["status"], line["ms"]) == ("request", "a", 200, 1.5)
    assert line["time"].endswith("+00:00")
    plain = logging.LogRecord("quernel", logging.ERROR, "f", 1, "%s failed", ("x",), None)
    assert json.loads(JsonFormatter().format(plain))["message"] == "x failed"
