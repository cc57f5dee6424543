"""What the handlers of one application share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from starlette.requests import Request

from quernel.server.config import ServerConfig
from quernel.server.docs_page import render_docs
from quernel.server.models import ModelTable


@dataclass(frozen=True)
class Served:
    """What the handlers share.

    Attributes:
        models: The models.
        config: The server's settings.
        ready: Whether the models take requests.
        created: When the server started to serve them, in seconds since 1970.
        document: The OpenAPI document.
    """

    models: ModelTable
    config: ServerConfig
    ready: Callable[[], bool]
    created: int
    document: dict[str, Any]

    @cached_property
    def docs_page(self) -> str:
        """The OpenAPI document as an HTML page."""
        return render_docs(self.document)


def served_by(request: Request) -> Served:
    """What the application of this request serves."""
    return cast("Served", request.app.state.served)
