"""The application: models in, ASGI out."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import Scope

from quernel.server.assembly import assemble
from quernel.server.config import ServerConfig
from quernel.server.exchange import Exchange
from quernel.server.inference import LocalAsker
from quernel.server.keys import PUBLIC, Keys, read_keys
from quernel.server.loading import LoadModel, ModelLoader
from quernel.server.metrics import Metrics
from quernel.server.models import ModelSpec, ModelTable, ServedModel
from quernel.server.openapi import build_openapi
from quernel.server.routes import ENDPOINTS
from quernel.server.served import Served
from quernel.types import EmbeddingModel, RerankModel


def create_app(
    models: Sequence[EmbeddingModel | RerankModel] = (),
    *,
    config: ServerConfig | None = None,
    specs: Sequence[ModelSpec] = (),
    load: LoadModel | None = None,
    on_loaded: Callable[[Sequence[ServedModel]], None] = lambda places: None,
) -> Starlette:
    """An ASGI application that serves these models.

    Models that are given loaded are not owned: whoever opened them closes them, after the server has stopped. Those of
    `specs` are loaded once the application runs, while it already answers, and closed at its end.

    Args:
        models: Loaded models; the first of each kind is what `"model": "default"` means.
        config: Its limits, keys and log. Where it listens matters only to `quernel.server.serve`.
        specs: Models to load, which are listed after the loaded ones.
        load: Loads a model, for `specs` and for `/v1/models/load`.
        on_loaded: Told once when `specs` are through, each loaded or failed.

    Raises:
        SettingsError: Two models have the same name, or a file of keys cannot be read.
    """
    config = config or ServerConfig()
    table = ModelTable(models)
    places = [ServedModel(spec) for spec in specs]
    for place in places:
        table.add(place)
    keys = Keys(
        [*config.api_key, *(read_keys(config.api_key_file) if config.api_key_file is not None else ())],
        config.admin_key,
    )
    loader = ModelLoader(table, load)

    async def gate(scope: Scope, exchange: Exchange) -> None:
        if not (scope["method"] in ("GET", "HEAD") and scope["path"] in PUBLIC):
            keys.check(Headers(scope=scope))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async def load_all() -> None:
            await loader.load_all(places)
            settle_garbage()
            on_loaded(places)

        loading = asyncio.create_task(load_all())
        try:
            yield
        finally:
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
            await loader.close()

    served = Served(
        asker=LocalAsker(table),
        config=config,
        metrics=Metrics(table),
        document=build_openapi(ENDPOINTS, root_path=config.root_path),
        models=table,
        loader=loader,
        keys=keys,
    )
    return assemble(ENDPOINTS, served, gate=gate, lifespan=lifespan)


def settle_garbage() -> None:
    """Tell the garbage collector that what is there now (modules, models, tables) stays.

    Otherwise it looks through hundreds of thousands of objects again and again, which took a third of the time of
    short requests.
    """
    gc.collect()
    gc.freeze()
