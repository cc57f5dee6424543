"""The gateway's API, asked from within: what a page shows or does, its visitor could ask for or do by HTTP.

Pages get at nothing else. So they show the API's numbers, may what the visitor's key may, and count against the
visitor's limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from starlette.types import ASGIApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """On whose behalf a page asks.

    Attributes:
        credential: Their key or token; `None` where they are not signed in.
        client: Their address and port.
    """

    credential: str | None = None
    client: tuple[str, int] = ("127.0.0.1", 0)


class ApiError(Exception):
    """The API refused.

    Attributes:
        status: HTTP status.
        code: Stable name of the error.
        message: What is wrong, and the way out.
        param: The field at fault.
        retry_after: Seconds to wait, where it says so.
    """

    def __init__(self, reply: httpx.Response) -> None:
        error = _error_of(reply)
        self.status = reply.status_code
        self.code = str(error.get("code") or error.get("type") or "error")
        self.message = str(error.get("message") or "The request failed.")
        self.param: str | None = error.get("param")
        self.retry_after: str | None = reply.headers.get("retry-after")
        super().__init__(self.message)


@dataclass(frozen=True, slots=True)
class ApiReply:
    """What the API answered.

    Attributes:
        content: Its JSON; for other types the bytes.
        headers: Its headers, such as those that say what a request cost.
        seconds: How long it took.
    """

    content: Any
    headers: Mapping[str, str]
    seconds: float


class Api:
    """Asks an application without a network between.

    Args:
        app: The gateway.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def get(self, path: str, visitor: Visitor, **query: str | None) -> Any:
        """The JSON of a reply. Errors as `ask`."""
        return (await self.ask("GET", path, visitor, query=query)).content

    async def ask(
        self,
        method: str,
        path: str,
        visitor: Visitor,
        *,
        query: Mapping[str, str | None] | None = None,
        body: object = None,
    ) -> ApiReply:
        """A reply.

        Args:
            method: The method.
            path: The route, with its parameters.
            visitor: Who asks.
            query: Parameters; those that are `None` or empty are left out.
            body: What is sent as JSON, if anything.

        Raises:
            ApiError: It is no success.
        """
        headers = {} if visitor.credential is None else {"authorization": f"Bearer {visitor.credential}"}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = orjson.dumps(body)
        given = {name: value for name, value in (query or {}).items() if value}
        transport = httpx.ASGITransport(self._app, client=visitor.client)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as client:
            reply = await client.request(method, path, params=given, headers=headers, content=content)
        if not reply.is_success:
            raise ApiError(reply)
        is_json = reply.headers.get("content-type", "").startswith("application/json")
        found = orjson.loads(reply.content) if is_json else reply.content
        return ApiReply(found, reply.headers, reply.elapsed.total_seconds())


def _error_of(reply: httpx.Response) -> dict[str, Any]:
    try:
        content = orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        return {}
    error = content.get("error") if isinstance(content, dict) else None
    return error if isinstance(error, dict) else {}
