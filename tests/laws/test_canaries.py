"""No text and no key of a user is in the log, the metrics, the traces or on the disk, whatever the server is asked.

A real `quernel serve` gets requests to every route, good and bad, with marked texts wherever a text or a key can stand.
Then everything that it wrote is searched.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from tests.server.bodies import body_of
from tests.support.processes import serving

from quernel.server.routes import ENDPOINTS

TEXT, KEY = "canary-text-9f3a", "canary-key-71c2"
ADMIN = "admin-canary-key-55"
CANARY = re.compile(rb"canary", re.IGNORECASE)


class Collector(BaseHTTPRequestHandler):
    """What OpenTelemetry sends its spans to."""

    received: bytearray

    def do_POST(self):
        type(self).received += self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def wrong_bodies(body):
    """The same request with something wrong, and the marked text at the place."""
    name = next(iter(body))
    yield json.dumps(body | {TEXT: TEXT})
    yield json.dumps(body | {name: {TEXT: TEXT}})
    yield json.dumps({TEXT: 1})
    yield json.dumps(body | {"model": TEXT, "model_id": TEXT})
    yield json.dumps(body | {"prompt_name": TEXT, "truncate": TEXT, "dimensions": TEXT})
    yield json.dumps(body)[:-2] + TEXT
    yield f'"{TEXT}"'
    yield json.dumps(body).replace(TEXT, TEXT + "\\ud800")
    yield json.dumps(body).replace(TEXT, f"{TEXT} " * 20_000)


def test_no_text_and_no_key_of_a_user_is_written_anywhere(tmp_path):
    Collector.received = bytearray()
    for folder in ("home", "tmp", "work"):
        (tmp_path / folder).mkdir()
    (tmp_path / "keys").write_text(f"{KEY}\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        arguments = ["--log-format", "json", "--api-key-file", str(tmp_path / "keys"), "--max-body-bytes", "1000000"]
        arguments += ["--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}"]
        environment = {
            "HOME": str(tmp_path / "home"),
            "TMPDIR": str(tmp_path / "tmp"),
            "QUERNEL_ADMIN_KEY": ADMIN,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with serving(tmp_path / "stderr", *arguments, environment=environment, cwd=tmp_path / "work") as server:
            num_answered = ask_everything(server.url)
            metrics = httpx.get(server.url + "/metrics").content
            assert server.stop() == 0
        collector.shutdown()

    log = (tmp_path / "stderr").read_bytes()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
    assert sum("route" in line or "path" in line for line in lines) >= num_answered, "the log was on"
    assert len(Collector.received) > 10_000, "the traces were on"
    assert b"quernel_requests_total" in metrics
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("keys", "stderr")]
    for name, content in (
        ("log", log),
        ("metrics", metrics),
        ("traces", bytes(Collector.received)),
        *((path, path.read_bytes()) for path in written),
    ):
        found = CANARY.search(content)
        assert found is None, f"{name}: {content[max(found.start() - 200, 0) : found.end() + 50]!r}"


def ask_everything(url):
    """Requests to every route; how many were answered. Good ones succeed, and no answer holds a key."""
    headers = {
        "authorization": f"Bearer {KEY}",
        "x-quernel-instruction": TEXT,
        "user-agent": TEXT,
        "cookie": TEXT,
        "content-type": "application/json",
    }
    num_answered = 0
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        for endpoint in ENDPOINTS:
            path = endpoint.path.replace("{name:path}", "default")
            if endpoint.method == "GET":
                replies = [client.get(path, params={"q": TEXT}), client.get(path, headers={"authorization": "x"})]
            else:
                body = body_of(endpoint.path, TEXT)
                good = client.post(path, json=body)
                assert good.status_code == 200 or "models" in path, (path, good.text)
                replies = [good, client.post(path, json=body, headers={"authorization": f"Bearer wrong-{KEY}"})]
                replies += [client.post(path, json=body, headers={"authorization": f"Bearer {ADMIN}"})]
                replies += [client.post(path, content=wrong.encode()) for wrong in wrong_bodies(body)]
                replies += [client.post(path, json=body, headers={"x-quernel-timeout": "0.000001"})]
            assert not any(key in reply.text for reply in replies for key in (KEY, ADMIN))
            num_answered += len(replies)
    return num_answered
