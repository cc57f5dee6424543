"""The gateway as an application: books and providers in, ASGI out."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import Scope

from quernel.errors import AuthenticationError
from quernel.gateway.asker import GENERATION_HEADER, RoutedAsker
from quernel.gateway.demo import Demo
from quernel.gateway.keys import Scope as KeyScope
from quernel.gateway.metrics import GatewayMetrics
from quernel.gateway.opening import Parts
from quernel.gateway.routes import GATEWAY_ENDPOINTS
from quernel.gateway.site import Site
from quernel.gateway.upkeep import Upkeep
from quernel.server.app import settle_garbage
from quernel.server.assembly import assemble
from quernel.server.config import ServerConfig
from quernel.server.exchange import Exchange
from quernel.server.keys import PUBLIC, given_key
from quernel.server.metrics import Metrics
from quernel.server.models import ModelTable
from quernel.server.openapi import build_openapi

CATALOGUE = "/v1/models"
"""What anyone may look at without a key, with all below it."""

METRICS = "/metrics"
"""What only a key of its own scope may look at: it tells what the gateway earns."""

OPEN = PUBLIC - {METRICS}
"""What else anyone may look at without a key."""


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
    demo = Demo(parts)
    upkeep = Upkeep(parts)

    async def gate(scope: Scope, exchange: Exchange) -> None:
        if _is_public(scope):
            return
        credential = given_key(Headers(scope=scope))
        if credential is not None:
            principal = exchange.caller = await parts.principals.find(credential)
            if scope["path"] == METRICS:
                principal.require(KeyScope.METRICS)
            return
        exchange.caller = None if scope["path"] == METRICS else await demo.visitor(scope)
        if exchange.caller is None:
            raise AuthenticationError(
                "You didn't provide an API key.", hint="Send it in the header 'authorization: Bearer KEY'."
            )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with upkeep:
            settle_garbage()
            on_start()
            yield
        await parts.close()

    site = Site(
        asker=RoutedAsker(parts.gateway, parts.local, config.token_ids),
        config=config,
        metrics=Metrics(ModelTable(parts.local.values()), GatewayMetrics(parts.gateway)),
        document=build_openapi(GATEWAY_ENDPOINTS, root_path=config.root_path),
        gateway=parts.gateway,
        principals=parts.principals,
        mint=parts.mint,
        vault=parts.vault,
        settings=parts.settings,
    )
    return assemble(GATEWAY_ENDPOINTS, site, gate=gate, lifespan=lifespan, expose_headers=(GENERATION_HEADER,))


def _is_public(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (
        path in OPEN or path == CATALOGUE or path.startswith(f"{CATALOGUE}/")
    )
