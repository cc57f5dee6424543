"""Style sheets, scripts and pictures, by names that change with their content, so that browsers may keep them."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
PREFIX = "/static"
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file.

    Attributes:
        content: Its bytes.
        media_type: What they are.
        tag: Of these bytes alone.
    """

    content: bytes
    media_type: str
    tag: str


class Assets:
    """The files of `static/`, in memory."""

    def __init__(self) -> None:
        self._files: dict[str, Asset] = {}
        for file in files("quernel.web").joinpath("static").iterdir():
            suffix = file.name[file.name.rfind(".") :]
            if suffix in TYPES:
                content = file.read_bytes()
                tag = hashlib.sha256(content).hexdigest()[:12]
                self._files[file.name] = Asset(content, TYPES[suffix], tag)

    def path(self, name: str) -> str:
        """Where a file is: another place when it has changed."""
        return f"{PREFIX}/{self._files[name].tag}/{name}"

    async def serve(self, request: Request) -> Response:
        """A file; that of today also by the name of another day."""
        asset = self._files.get(request.path_params["name"])
        if asset is None:
            return Response("Not found.", status_code=404, media_type="text/plain")
        is_current = request.path_params["tag"] == asset.tag
        headers = {
            "cache-control": FOREVER if is_current else "no-cache",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
        }
        return Response(asset.content, media_type=asset.media_type, headers=headers)
