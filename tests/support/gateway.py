"""A gateway on this machine, with whatever providers a test wants."""

import asyncio
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import httpx

from quernel.gateway.app import create_gateway_app
from quernel.gateway.config import GatewayConfig
from quernel.gateway.opening import Parts, Tables, open_gateway
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from tests.support.canaries import no_canaries

EMBEDDER, RERANKER = "fake/embedding", "fake/reranker"
DIMENSIONS, MAX_TOKENS = 64, 512

CATALOGUE = (
    {"name": EMBEDDER, "kind": "embedding", "dimensions": DIMENSIONS, "min_dimensions": 32, "max_tokens": MAX_TOKENS},
    {"name": RERANKER, "kind": "reranker", "max_tokens": MAX_TOKENS},
)


@dataclass(frozen=True)
class Served:
    """A gateway that is running.

    Attributes:
        url: Where.
        key: The operator's key.
        parts: Its parts.
        http: Asks it with that key.
    """

    url: str
    key: str
    parts: Parts
    http: httpx.Client

    def embed(self, *texts, **more):
        """The reply to an embedding request."""
        body = {"model": EMBEDDER, "input": list(texts), **more}
        return self.http.post("/v1/embeddings", json=body)

    def rerank(self, query, *documents, **more):
        """The reply to a rerank request."""
        return self.http.post("/v1/rerank", json={"model": RERANKER, "query": query, "documents": documents, **more})

    def read(self, operation):
        """What the books say, once all is written."""
        asyncio.run(self._drained())
        return self.parts.database.read_now(operation)

    async def _drained(self):
        while self.parts.gateway.is_writing:
            await asyncio.sleep(0.001)


def offer(slug, url, *, format="openai", price="10", models=(EMBEDDER,), **more):
    """The table of a provider whose tokens cost so many dollars a million."""
    priced = [{"usd_per_million_tokens": price, "usd_per_thousand_documents": price}]
    return {
        "slug": slug,
        "format": format,
        "base_url": url,
        "models": [{"model": model, "prices": priced} for model in models],
        **more,
    }


@contextmanager
def gateway(
    folder,
    *providers,
    local=None,
    catalogue=CATALOGUE,
    issuers=(),
    database=None,
    environment=None,
    canaries=False,
    **settings,
):
    """A gateway with these providers, on SQLite in that folder; it asks them nothing by itself, unless `canaries`."""
    parts = open_gateway(
        GatewayConfig(**settings),
        database=database or f"sqlite:///{folder}/gateway.db",
        tables=Tables(providers=providers, catalogue=[] if local else catalogue, issuers=issuers),
        local=local,
        environment=environment,
    )
    app = create_gateway_app(parts, config=ServerConfig(port=0, shutdown_grace_seconds=1, access_log=False))
    key = parts.first_key or ""
    with (
        nullcontext() if canaries else no_canaries(),
        running(app, ServerConfig(port=0, shutdown_grace_seconds=1)) as url,
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as http,
    ):
        yield Served(url, key, parts, http)
