"""From a table of routes to an application: the middleware, the log, the metrics and the traces around it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from quernel.server.handlers import TRUNCATED_HEADER, root
from quernel.server.middleware import (
    EXCEPTION_HANDLERS,
    REQUEST_ID_HEADER,
    ExchangeMiddleware,
    Gate,
    Observer,
    log_exchange,
    route,
)
from quernel.server.routes import Endpoint
from quernel.server.served import Application
from quernel.server.tracing import open_traces


def assemble(
    endpoints: Sequence[Endpoint],
    served: Application,
    *,
    gate: Gate,
    lifespan: Callable[[], AbstractAsyncContextManager[None]],
    expose_headers: Sequence[str] = (),
) -> Starlette:
    """An ASGI application of these routes.

    Args:
        endpoints: The routes.
        served: What their handlers share; its settings say what is logged, traced and allowed.
        gate: Lets requests in.
        lifespan: What lasts as long as the application.
        expose_headers: Headers of replies that scripts of other pages may read, besides those of every application.
    """
    config = served.config
    traces = None if config.otlp_endpoint is None else open_traces(config.otlp_endpoint)
    observers: list[Observer] = [served.metrics.observe]
    if config.access_log:
        observers.append(log_exchange)
    if traces is not None:
        observers.append(traces.observe)

    @asynccontextmanager
    async def whole(app: Starlette) -> AsyncIterator[None]:
        try:
            async with lifespan():
                yield
        finally:
            if traces is not None:
                await asyncio.to_thread(traces.shut_down)

    middleware = [
        Middleware(
            ExchangeMiddleware,
            root_path=config.root_path,
            max_body_bytes=config.max_body_bytes,
            gate=gate,
            dialects={endpoint.path: endpoint.error_dialects[0] for endpoint in endpoints},
            handlers={(endpoint.method, endpoint.path): endpoint.handler for endpoint in endpoints},
            observers=observers,
        )
    ]
    if config.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=sorted({endpoint.method for endpoint in endpoints}),
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, TRUNCATED_HEADER, *expose_headers, "retry-after"],
        )
        # Outermost, so that a page can read errors too, and asks what it may without a key.
        middleware.insert(0, cors)
    app = Starlette(
        routes=[route("GET", "/", root), *(route(one.method, one.path, one.handler) for one in endpoints)],
        middleware=middleware,
        exception_handlers=dict(EXCEPTION_HANDLERS),
        lifespan=whole,
    )
    app.router.redirect_slashes = False
    app.state.served = served
    return app
