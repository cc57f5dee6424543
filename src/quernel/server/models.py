"""The models that are served, the names by which a request may ask for them, and what is said for requests that do not.

Everything here happens on the event loop; only loading a model leaves it (`quernel.server.loading`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar, cast

from quernel.errors import ModelNotFoundError, ModelNotReadyError, QuernelError, SettingsError
from quernel.protocols.openai import ListedModel, ModelStatus
from quernel.types import EmbeddingModel, EmbeddingRequest, InputType, ModelInfo, ModelKind, RerankModel, RerankRequest

M = TypeVar("M", EmbeddingModel, RerankModel)

DEFAULT = "default"
"""The name that always means the first model of the kind asked for."""

ROUTE_OF_KIND: Mapping[ModelKind, str] = {
    ModelKind.EMBEDDING: "/v1/embeddings",
    ModelKind.RERANKER: "/v1/rerank",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """What is meant where a request does not say.

    Attributes:
        instruction: Before queries, and in rerank requests, instead of the model's own default.
        prompt_name: The prompt of texts of which nothing is said; not for token ids, which carry theirs.
        input_type: What texts are of which nothing is said.
        dimensions: Length of the vectors.
    """

    instruction: str | None = None
    prompt_name: str | None = None
    input_type: InputType | None = None
    dimensions: int | None = None

    def complete_embedding(self, request: EmbeddingRequest) -> EmbeddingRequest:
        """The request with what it leaves open."""
        changes: dict[str, Any] = {}
        if request.dimensions is None and self.dimensions is not None:
            changes["dimensions"] = self.dimensions
        input_type = request.input_type
        if request.instruction is None and request.prompt_name is None:
            if input_type is None and self.input_type is not None:
                changes["input_type"] = input_type = self.input_type
            if input_type is InputType.QUERY and self.instruction is not None:
                changes["instruction"] = self.instruction
            is_text = all(isinstance(text, str) for text in request.inputs)
            if input_type is None and self.prompt_name is not None and is_text:
                changes["prompt_name"] = self.prompt_name
        return replace(request, **changes) if changes else request

    def complete_rerank(self, request: RerankRequest) -> RerankRequest:
        """The request with what it leaves open."""
        if request.instruction is None and self.instruction is not None:
            return replace(request, instruction=self.instruction)
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model to serve.

    Attributes:
        source: Hub id, folder, file or built-in name; `None` for the built-in model of that kind.
        kind: What it is; `None` to find out from its files.
        name: The name to serve it under; `None` for its own.
        aliases: More names.
        defaults: What is meant where requests to it do not say.
        options: How to load it, for whoever does: keys of `[[models]]` that are not the server's.
    """

    source: str | None
    kind: ModelKind | None = None
    name: str | None = None
    aliases: tuple[str, ...] = ()
    defaults: RequestDefaults = RequestDefaults()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What it is called before it is loaded."""
        return self.name or self.source or f"built-in {self.kind}"

    def known_as(self, info: ModelInfo) -> "ModelSpec":
        """The same, with what is known of the model once it was loaded: so it keeps its name when it is unloaded."""
        return replace(self, name=self.name or info.name, kind=info.kind)


class ServedModel:
    """A place in the table: a model, or what there is of it.

    Args:
        spec: What was asked for.
        model: The model, if it is loaded.

    Attributes:
        created: When it was first named, in seconds since 1970.
        status: Whether it takes requests.
        error: Why it could not be loaded.
        num_running: Requests that it is computing.
        is_owned: Whether the server has loaded it, and so closes it.
    """

    def __init__(self, spec: ModelSpec, model: EmbeddingModel | RerankModel | None = None) -> None:
        self.spec = spec
        self.model = model
        self.created = int(time.time())
        self.status = ModelStatus.LOADING if model is None else ModelStatus.LOADED
        self.error: QuernelError | None = None
        self.num_running = 0
        self.is_owned = False

    @property
    def name(self) -> str:
        """The name that it is listed under."""
        return self.spec.name or (self.model.info.name if self.model is not None else self.spec.label)

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, lower case."""
        own = () if self.model is None else (self.model.info.name,)
        return tuple(dict.fromkeys(name.lower() for name in (self.name, *own, *self.spec.aliases)))

    @property
    def kind(self) -> ModelKind | None:
        """What it is, if that is known."""
        return self.spec.kind if self.model is None else self.model.info.kind

    @property
    def listed(self) -> ListedModel:
        """What `/v1/models` says of it."""
        return ListedModel(
            name=self.name,
            created=self.created,
            status=self.status,
            info=None if self.model is None else self.model.info,
            error=None if self.error is None else str(self.error),
            aliases=self.spec.aliases,
            instruction=self.spec.defaults.instruction,
        )

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Count a request for as long as the model works on it."""
        self.num_running += 1
        try:
            yield self
        finally:
            self.num_running -= 1


@dataclass(frozen=True, slots=True)
class Chosen(Generic[M]):
    """A model that takes requests, with its place in the table."""

    place: ServedModel
    model: M


class ModelTable:
    """Models by name.

    A name is found in any letter case, and by its last part alone (`qwen3-embedding-0.6b` for
    `Qwen/Qwen3-Embedding-0.6B`) where that part belongs to one model only.

    Args:
        models: Loaded models, in the order in which they are listed; the first of a kind is that kind's default.

    Raises:
        SettingsError: Two models have one name, or one is called `default`.
    """

    def __init__(self, models: Iterable[EmbeddingModel | RerankModel] = ()) -> None:
        self._places: list[ServedModel] = []
        for model in models:
            self.add(ServedModel(ModelSpec(source=None, kind=model.info.kind), model))

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._places)

    def add(self, place: ServedModel) -> None:
        """Take a model in, loaded or not.

        Raises:
            SettingsError: A name of it is another's, or `default`.
        """
        self.check_names(place)
        self._places.append(place)

    def remove(self, place: ServedModel) -> None:
        """Forget a model."""
        self._places.remove(place)

    def check_names(self, place: ServedModel) -> None:
        """Refuse names that would mean two models.

        Raises:
            SettingsError: A name of it is another's, or `default`.
        """
        taken = {name: other for other in self._places if other is not place for name in other.names}
        for name in place.names:
            if name == DEFAULT:
                raise SettingsError(
                    f"A model is called {name!r}, which means the first one.", param="model", hint="Give it a name."
                )
            if name in taken:
                raise SettingsError(
                    f"Two models are called {name}: {place.spec.label} and {taken[name].spec.label}.",
                    param="model",
                    hint="Load each once, or give one of them another name.",
                )

    @property
    def ready(self) -> bool:
        """Whether all that is to be loaded is, and runs, and there is something to ask."""
        statuses = {place.status for place in self._places}
        is_loaded = ModelStatus.LOADED in statuses and ModelStatus.LOADING not in statuses
        return is_loaded and all(getattr(place.model, "is_running", True) for place in self._places)

    @property
    def first(self) -> ServedModel:
        """The first model that takes requests, for routes whose requests name none.

        Raises:
            ModelNotFoundError: There is none.
            ModelNotReadyError: None of them is loaded.
        """
        for place in self._places:
            if place.status is ModelStatus.LOADED:
                return place
        if not self._places:
            raise ModelNotFoundError("No model is served here.", param="model", hint="Start the server with one.")
        raise _not_ready(self._places[0])

    @property
    def listed(self) -> tuple[ListedModel, ...]:
        """What `/v1/models` says, in the order the models were given."""
        return tuple(place.listed for place in self._places)

    def embedding_model(self, name: str | None) -> Chosen[EmbeddingModel]:
        """The embedding model of that name; the first one for `default` or `None`.

        Raises:
            ModelNotFoundError: There is none, or it is a reranker.
            ModelNotReadyError: It is not loaded.
        """
        place = self._choose(name, ModelKind.EMBEDDING)
        return Chosen(place, cast("EmbeddingModel", place.model))

    def rerank_model(self, name: str | None) -> Chosen[RerankModel]:
        """The reranker of that name; the first one for `default` or `None`.

        Raises:
            ModelNotFoundError: There is none, or it is an embedding model.
            ModelNotReadyError: It is not loaded.
        """
        place = self._choose(name, ModelKind.RERANKER)
        return Chosen(place, cast("RerankModel", place.model))

    def place(self, name: str) -> ServedModel:
        """The model of that name, loaded or not.

        Raises:
            ModelNotFoundError: There is none.
        """
        found = self._find(name)
        if found is None:
            raise ModelNotFoundError(
                f"The model {name!r} is not served here.", param="model", hint=_offer(self._places)
            )
        return found

    def _choose(self, name: str | None, kind: ModelKind) -> ServedModel:
        fitting = [place for place in self._places if place.kind in (kind, None)]
        if name is None or name.lower() == DEFAULT:
            place = next((place for place in fitting if place.status is ModelStatus.LOADED), None)
            place = place or next(iter(fitting), None)
            if place is None:
                raise ModelNotFoundError(f"No {kind} model is served here.", param="model", hint=_offer(self._places))
        else:
            place = self._find(name)
            if place is None:
                raise ModelNotFoundError(f"The model {name!r} is not served here.", param="model", hint=_offer(fitting))
            if place.kind not in (kind, None):
                assert place.kind is not None
                raise ModelNotFoundError(
                    f"{place.name} is of kind {place.kind}, which {ROUTE_OF_KIND[kind]} does not serve.",
                    param="model",
                    hint=f"Send it to {ROUTE_OF_KIND[place.kind]}. {_offer(fitting)}",
                )
        if place.status is not ModelStatus.LOADED:
            raise _not_ready(place)
        return place

    def _find(self, name: str) -> ServedModel | None:
        wanted = name.lower()
        for place in self._places:
            if wanted in place.names:
                return place
        ends = [(known.rpartition("/")[2], place) for place in self._places for known in place.names]
        places = {id(place): place for end, place in ends if end == wanted}
        return next(iter(places.values())) if len(places) == 1 else None


def _not_ready(place: ServedModel) -> ModelNotReadyError:
    if place.status is ModelStatus.FAILED:
        return ModelNotReadyError(
            f"{place.name} could not be loaded.", param="model", hint="/v1/models and the server's log say why."
        )
    if place.status is ModelStatus.UNLOADED:
        return ModelNotReadyError(f"{place.name} is unloaded.", param="model", hint="Load it, or ask for another.")
    return ModelNotReadyError(f"{place.name} is being loaded.", param="model", hint="Ask again shortly.")


def _offer(places: Sequence[ServedModel]) -> str:
    if not places:
        return "None of that kind is loaded."
    return f"Ask for one of: {', '.join(place.name for place in places)}."
