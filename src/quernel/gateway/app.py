"""The gateway as an application: books and providers in, ASGI out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from quernel.errors import AuthenticationError
from quernel.gateway.asker import GENERATION_HEADER, RoutedAsker
from quernel.gateway.demo import Demo
from quernel.gateway.opening import Parts
from quernel.gateway.routes import GATEWAY_ENDPOINTS
from quernel.gateway.site import Site
from quernel.gateway.upkeep import Upkeep
from quernel.server.app import settle_garbage
from quernel.server.config import ServerConfig
from quernel.server.exchange import Exchange
from quernel.server.handlers import TRUNCATED_HEADER, root
from quernel.server.keys import PUBLIC, given_key
from quernel.server.metrics import Metrics
from quernel.server.middleware import (
    EXCEPTION_HANDLERS,
    REQUEST_ID_HEADER,
    ExchangeMiddleware,
    Gate,
    Observer,
    log_exchange,
    route,
)
from quernel.server.models import ModelTable
from quernel.server.openapi import build_openapi
from quernel.server.tracing import open_traces

CATALOGUE = "/v1/models"
"""What anyone may look at without a key, with all below it."""


def create_gateway_app(
    parts: Parts,
    *,
    config: ServerConfig | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> Starlette:
    """An ASGI application that is a gateway.

    Args:
        parts: What `quernel.gateway.opening.open_gateway` opened; closed when the application ends.
        config: Its limits and log. Where it listens matters only to `quernel.server.serve`; its keys are the gateway's
            own, those of the settings are not used.
        on_start: Told once when it takes requests.
    """
    config = config or ServerConfig()
    metrics = Metrics(ModelTable(parts.local.values()))
    traces = None if config.otlp_endpoint is None else open_traces(config.otlp_endpoint)
    observers: list[Observer] = [metrics.observe]
    if config.access_log:
        observers.append(log_exchange)
    if traces is not None:
        observers.append(traces.observe)
    demo = Demo(parts)
    upkeep = Upkeep(parts)

    async def gate(scope: Scope, exchange: Exchange) -> None:
        if _is_public(scope):
            return
        credential = given_key(Headers(scope=scope))
        if credential is not None:
            exchange.caller = await parts.principals.find(credential)
            return
        exchange.caller = await demo.visitor(scope)
        if exchange.caller is None:
            raise AuthenticationError(
                "You didn't provide an API key.", hint="Send it in the header 'authorization: Bearer KEY'."
            )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with upkeep:
            settle_garbage()
            on_start()
            yield
        await parts.close()
        if traces is not None:
            await asyncio.to_thread(traces.shut_down)

    app = Starlette(
        routes=[route("GET", "/", root), *(route(one.method, one.path, one.handler) for one in GATEWAY_ENDPOINTS)],
        middleware=_middleware(config, gate=gate, observers=observers),
        exception_handlers=dict(EXCEPTION_HANDLERS),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.served = Site(
        asker=RoutedAsker(parts.gateway, parts.local, config.token_ids),
        config=config,
        metrics=metrics,
        document=build_openapi(GATEWAY_ENDPOINTS, root_path=config.root_path),
        gateway=parts.gateway,
        principals=parts.principals,
        mint=parts.mint,
        vault=parts.vault,
        settings=parts.settings,
    )
    return app


def _middleware(config: ServerConfig, *, gate: Gate, observers: Sequence[Observer]) -> list[Middleware]:
    middleware = [
        Middleware(
            ExchangeMiddleware,
            root_path=config.root_path,
            max_body_bytes=config.max_body_bytes,
            gate=gate,
            dialects={endpoint.path: endpoint.error_dialects[0] for endpoint in GATEWAY_ENDPOINTS},
            handlers={(endpoint.method, endpoint.path): endpoint.handler for endpoint in GATEWAY_ENDPOINTS},
            observers=observers,
        )
    ]
    if config.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, TRUNCATED_HEADER, GENERATION_HEADER, "retry-after"],
        )
        middleware.insert(0, cors)
    return middleware


def _is_public(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (
        path in PUBLIC or path == CATALOGUE or path.startswith(f"{CATALOGUE}/")
    )
