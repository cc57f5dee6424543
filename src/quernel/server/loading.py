"""Loading and unloading models while the server answers.

Models are loaded one after the other, each on a thread, so that health checks and the models that are there already go
on being answered. A model that fails stays in the table with its error; the others are served.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from quernel.errors import InternalError, ModelLoadError, ModelNotReadyError, PermissionDeniedError, QuernelError
from quernel.protocols.openai import ModelStatus
from quernel.server.models import ModelSpec, ModelTable, ServedModel
from quernel.types import EmbeddingModel, EmbeddingRequest, RerankModel, RerankRequest

logger = logging.getLogger("quernel.server")

LoadModel: TypeAlias = Callable[[ModelSpec], EmbeddingModel | RerankModel]
"""Loads a model, which takes its time, or raises `ModelLoadError` or `SettingsError`."""

IDLE_POLL_SECONDS = 0.02

WARM_UP = "warm-up"
"""What a model is asked before it is said to be ready: its first answer is the slowest."""


class ModelLoader:
    """Changes what a table holds.

    Args:
        table: The table.
        load: Loads one model; `None` where models were given as they are.
    """

    def __init__(self, table: ModelTable, load: LoadModel | None) -> None:
        self._table = table
        self._load = load
        self._turn = asyncio.Lock()

    async def load_all(self, places: Sequence[ServedModel]) -> None:
        """Load all of them, one after the other; failures stay in their places."""
        for place in places:
            try:
                await self._load_into(place)
            except QuernelError as error:
                logger.error("%s could not be loaded: %s", place.name, error)

    async def add(self, spec: ModelSpec) -> ServedModel:
        """Load one more model.

        Raises:
            PermissionDeniedError: This server has no way to load models.
            ModelLoadError: It cannot be found, read or used; nothing has changed.
            SettingsError: A name of it is another's, or an option is wrong; nothing has changed.
        """
        place = ServedModel(spec)
        self._table.add(place)
        try:
            await self._load_into(place)
        except BaseException:
            self._table.remove(place)
            raise
        return place

    async def reload(self, place: ServedModel) -> None:
        """Load a model again that was unloaded or failed.

        Raises:
            ModelNotReadyError: It is being loaded already.
            QuernelError: As `add`; it stays in the table, with the error.
        """
        _refuse_while_loading(place)
        if place.status is not ModelStatus.LOADED:
            await self._load_into(place)

    async def unload(self, place: ServedModel) -> None:
        """Take no more requests for a model, let those finish that it has, and give its memory back.

        Raises:
            ModelNotReadyError: It is being loaded.
        """
        _refuse_while_loading(place)
        model, place.model = place.model, None
        place.status = ModelStatus.UNLOADED
        if model is None:
            return
        place.spec = place.spec.known_as(model.info)
        while place.num_running:
            await asyncio.sleep(IDLE_POLL_SECONDS)
        await _close(model)

    async def close(self) -> None:
        """Give back the models that were loaded here."""
        for place in self._table:
            if place.model is not None and place.is_owned:
                await _close(place.model)

    async def _load_into(self, place: ServedModel) -> None:
        if self._load is None:
            raise PermissionDeniedError("This server was started with its models and cannot load others.")
        place.status, place.error = ModelStatus.LOADING, None
        model = None
        try:
            async with self._turn:
                model = await asyncio.to_thread(self._load, place.spec)
            await warm_up(model)
            place.model = model
            self._table.check_names(place)
        except BaseException as error:
            place.model = None
            place.status = ModelStatus.FAILED
            if model is not None:
                await _close(model)
            if not isinstance(error, Exception):
                raise
            place.error = _as_ours(error)
            raise place.error from error
        place.is_owned = True
        place.status = ModelStatus.LOADED


def _refuse_while_loading(place: ServedModel) -> None:
    if place.status is ModelStatus.LOADING:
        raise ModelNotReadyError(f"{place.name} is being loaded.", param="model", hint="Ask again when it is.")


async def _close(model: EmbeddingModel | RerankModel) -> None:
    close = getattr(model, "close", None)
    if close is not None:
        await asyncio.to_thread(close)


async def warm_up(model: EmbeddingModel | RerankModel) -> None:
    """Have a model answer once.

    Raises:
        QuernelError: It cannot.
    """
    if isinstance(model, EmbeddingModel):
        await model.embed(EmbeddingRequest(inputs=[WARM_UP]))
    else:
        await model.rerank(RerankRequest(query=WARM_UP, documents=[WARM_UP]))


def _as_ours(error: Exception) -> QuernelError:
    if isinstance(error, QuernelError):
        return error
    if isinstance(error, MemoryError):
        return ModelLoadError(
            "There is not enough memory for this model.", hint="Unload another, or use a smaller type."
        )
    logger.error("A model failed to load.", exc_info=error)
    return InternalError(f"The model failed to load ({type(error).__name__}).", hint="The log has more.")
