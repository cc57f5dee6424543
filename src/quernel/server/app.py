"""The application: models in, ASGI out."""

import time
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from quernel.server.config import ServerConfig
from quernel.server.handlers import root
from quernel.server.middleware import EXCEPTION_HANDLERS, ExchangeMiddleware
from quernel.server.models import ModelTable
from quernel.server.openapi import build_openapi
from quernel.server.routes import ENDPOINTS
from quernel.server.served import Served
from quernel.types import EmbeddingModel, RerankModel


def create_app(
    models: Sequence[EmbeddingModel | RerankModel],
    *,
    config: ServerConfig | None = None,
    ready: Callable[[], bool] = lambda: True,
) -> Starlette:
    """An ASGI application that serves these models.

    The application does not own the models: whoever opened them closes them, after the server has stopped.

    Args:
        models: Loaded models; the first of each kind is what `"model": "default"` means.
        config: Its limits and its log. Host and port matter only to `quernel.server.serve`.
        ready: Whether the models take requests, for `/ready`; asked each time.

    Raises:
        SettingsError: Two models have the same name.
    """
    config = config or ServerConfig()
    app = Starlette(
        routes=[
            Route("/", root, methods=["GET"]),
            *(Route(endpoint.path, endpoint.handler, methods=[endpoint.method]) for endpoint in ENDPOINTS),
        ],
        middleware=[
            Middleware(
                ExchangeMiddleware,
                max_body_bytes=config.max_body_bytes,
                log_requests=config.access_log,
                dialects={endpoint.path: endpoint.error_dialect for endpoint in ENDPOINTS},
            )
        ],
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    app.router.redirect_slashes = False
    app.state.served = Served(
        models=ModelTable(models),
        config=config,
        ready=ready,
        created=int(time.time()),
        document=build_openapi(ENDPOINTS),
    )
    return app
