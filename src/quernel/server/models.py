"""The models that are served, and the names by which a request may ask for them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from quernel.errors import ModelNotFoundError, SettingsError
from quernel.types import EmbeddingModel, ModelInfo, ModelKind, RerankModel

M = TypeVar("M", EmbeddingModel, RerankModel)

DEFAULT = "default"
"""The name that always means the first model of the kind asked for."""

ROUTE_OF_KIND: Mapping[ModelKind, str] = {
    ModelKind.EMBEDDING: "/v1/embeddings",
    ModelKind.RERANKER: "/v1/rerank",
}


class ModelTable:
    """Models by name.

    A name is found in any letter case, and by its last part alone (`qwen3-embedding-0.6b` for
    `Qwen/Qwen3-Embedding-0.6B`) where that part belongs to one model only.

    Args:
        models: In the order in which they are listed; the first of a kind is that kind's default.

    Raises:
        SettingsError: Two models have one name, or one is called `default`.
    """

    def __init__(self, models: Iterable[EmbeddingModel | RerankModel]) -> None:
        self._models = tuple(models)
        self._embedding_models = [model for model in self._models if isinstance(model, EmbeddingModel)]
        self._rerank_models = [model for model in self._models if isinstance(model, RerankModel)]
        names = [model.info.name.lower() for model in self._models]
        for name, count in Counter(names).items():
            if count > 1:
                raise SettingsError(f"{count} models are called {name}.", param="model", hint="Load each once.")
            if name == DEFAULT:
                raise SettingsError(f"A model is called {name!r}, which means the first one.", param="model")
        parts = Counter(name.rpartition("/")[2] for name in names)
        unique_parts = {name.rpartition("/")[2]: name for name in names if parts[name.rpartition("/")[2]] == 1}
        self._full_names = unique_parts | {name: name for name in names}

    def __iter__(self) -> Iterator[EmbeddingModel | RerankModel]:
        return iter(self._models)

    @property
    def infos(self) -> tuple[ModelInfo, ...]:
        """What the models are, in the order they were given."""
        return tuple(model.info for model in self._models)

    def embedding_model(self, name: str | None) -> EmbeddingModel:
        """The embedding model of that name; the first one for `default` or `None`.

        Raises:
            ModelNotFoundError: There is none, or it is a reranker.
        """
        return self._choose(self._embedding_models, name, ModelKind.EMBEDDING)

    def rerank_model(self, name: str | None) -> RerankModel:
        """The reranker of that name; the first one for `default` or `None`.

        Raises:
            ModelNotFoundError: There is none, or it is an embedding model.
        """
        return self._choose(self._rerank_models, name, ModelKind.RERANKER)

    def info(self, name: str) -> ModelInfo:
        """What the model of that name is.

        Raises:
            ModelNotFoundError: There is none.
        """
        full_name = self._full_name(name)
        for info in self.infos:
            if info.name.lower() == full_name:
                return info
        raise ModelNotFoundError(f"The model {name!r} is not served here.", param="model", hint=_offer(self.infos))

    def _choose(self, models: Sequence[M], name: str | None, kind: ModelKind) -> M:
        fitting = _offer([model.info for model in models])
        if name is None or name.lower() == DEFAULT:
            if models:
                return models[0]
            raise ModelNotFoundError(f"No {kind} model is served here.", param="model", hint=_offer(self.infos))
        full_name = self._full_name(name)
        for model in models:
            if model.info.name.lower() == full_name:
                return model
        for info in self.infos:
            if info.name.lower() == full_name:
                raise ModelNotFoundError(
                    f"{info.name} is of kind {info.kind}, which {ROUTE_OF_KIND[kind]} does not serve.",
                    param="model",
                    hint=f"Send it to {ROUTE_OF_KIND[info.kind]}. {fitting}",
                )
        raise ModelNotFoundError(f"The model {name!r} is not served here.", param="model", hint=fitting)

    def _full_name(self, name: str) -> str | None:
        return self._full_names.get(name.lower())


def _offer(infos: Sequence[ModelInfo]) -> str:
    if not infos:
        return "None of that kind is loaded."
    return f"Ask for one of: {', '.join(info.name for info in infos)}."
