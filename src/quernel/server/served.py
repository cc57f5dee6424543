"""What the handlers of one application share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from starlette.requests import Request

from quernel.server.config import ServerConfig
from quernel.server.docs_page import render_docs
from quernel.server.keys import Keys
from quernel.server.loading import ModelLoader
from quernel.server.metrics import Metrics
from quernel.server.models import ModelTable


@dataclass(frozen=True)
class Served:
    """What the handlers share.

    Attributes:
        models: The models.
        loader: Changes which there are.
        config: The server's settings.
        keys: Who may ask.
        metrics: What was counted.
        document: The OpenAPI document.
    """

    models: ModelTable
    loader: ModelLoader
    config: ServerConfig
    keys: Keys
    metrics: Metrics
    document: dict[str, Any]

    @cached_property
    def docs_page(self) -> str:
        """The OpenAPI document as an HTML page."""
        return render_docs(self.document)


def served_by(request: Request) -> Served:
    """What the application of this request serves."""
    return cast("Served", request.app.state.served)
