"""What the handlers of one application share."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

from starlette.requests import Request

from quernel.server.config import ServerConfig
from quernel.server.docs_page import render_docs
from quernel.server.keys import Keys
from quernel.server.loading import ModelLoader
from quernel.server.metrics import Metrics
from quernel.server.models import ModelTable
from quernel.types import EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult


class EmbedCall(Protocol):
    """A request for vectors in any wire format."""

    @property
    def request(self) -> EmbeddingRequest:
        """What to embed."""
        ...

    @property
    def model(self) -> str | None:
        """The name that was asked for."""
        ...


class Asker(Protocol):
    """Asks models for a client: those of this machine, or providers."""

    async def embed(self, request: Request, call: EmbedCall) -> EmbeddingResult:
        """What the model that `call` names says to it.

        Raises:
            QuernelError: It has none, or not one that can be handed out.
            ClientDisconnect: The client hung up.
        """
        ...

    async def rerank(self, request: Request, name: str | None, *asked: RerankRequest) -> list[RerankResult]:
        """What the reranker of that name says to each of these requests; the first failure ends them all.

        Raises:
            QuernelError: It has none, or not one that can be handed out.
            ClientDisconnect: The client hung up.
        """
        ...

    def device(self, name: str) -> str:
        """Where a model computes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Application:
    """What every application that speaks these wire formats has.

    Attributes:
        asker: Asks models.
        config: The server's settings.
        metrics: What was counted.
        document: The OpenAPI document.
    """

    asker: Asker
    config: ServerConfig
    metrics: Metrics
    document: dict[str, Any]

    @cached_property
    def docs_page(self) -> str:
        """The OpenAPI document as an HTML page."""
        return render_docs(self.document)


@dataclass(frozen=True, kw_only=True)
class Served(Application):
    """What the handlers of a server share.

    Attributes:
        models: The models.
        loader: Changes which there are.
        keys: Who may ask.
    """

    models: ModelTable
    loader: ModelLoader
    keys: Keys


def application_of(request: Request) -> Application:
    """The application of a request."""
    return cast("Application", request.app.state.served)


def served_by(request: Request) -> Served:
    """What the server of a request serves."""
    return cast("Served", request.app.state.served)
