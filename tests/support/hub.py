"""A hub on this machine: as much of huggingface.co's HTTP interface as a download uses."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one folder as one repository at one commit.

    Attributes:
        url: What to use as the hub's endpoint.
        requests: Method and path of every request so far.
        tokens: The `Authorization` headers that came.
        refusal: Status and error code to answer everything with, instead of files.
    """

    def __init__(self, repository: str, folder: Path) -> None:
        self.url = ""
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.refusal: tuple[int, str] | None = None
        self._repository = repository
        self._folder = folder

    @property
    def files(self) -> list[str]:
        """Paths in the repository."""
        return sorted(str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if path.is_file())

    @property
    def downloaded(self) -> list[str]:
        """The files that were fetched, in order of their names."""
        fetched = [request.removeprefix("GET ") for request in self.requests if "/resolve/" in request]
        return sorted({path.partition(f"/resolve/{COMMIT}/")[2] for path in fetched} - {""})

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        if self.refusal is not None:
            status, code = self.refusal
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
        api = f"/api/models/{self._repository}"
        if path in (f"{api}/revision/main", f"{api}/revision/v1", f"{api}/revision/{COMMIT}", api):
            return 200, {}, json.dumps({"id": self._repository, "sha": COMMIT, "siblings": []}).encode()
        if path.startswith(f"{api}/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path.startswith(f"{api}/tree/"):
            return 200, {}, json.dumps([self._entry(name) for name in self.files]).encode()
        _, _, name = path.partition(f"/{self._repository}/resolve/{COMMIT}/")
        if name in self.files:
            body = (self._folder / name).read_bytes()
            return 200, {"ETag": f'"{_digest(body)}"', "X-Repo-Commit": COMMIT}, body
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _entry(self, name: str) -> dict[str, object]:
        body = (self._folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(body), "oid": _digest(body)}


@contextmanager
def serve_hub(repository: str, folder: Path) -> Iterator[Hub]:
    """A running `Hub` for `folder`, on a free port."""
    hub = Hub(repository, folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            status, headers, body = hub.answer(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _digest(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
