"""What the gateway has open: its models, its providers as the database has them now, and a way to ask each."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from quernel.errors import SettingsError
from quernel.gateway.chat import HttpChatModel
from quernel.gateway.database import Database
from quernel.gateway.formats import FORMATS
from quernel.gateway.models import GatewayKind, GatewayModel, Models
from quernel.gateway.provider_store import load_providers
from quernel.gateway.providers import LOCAL, Offer, Provider, read_secret
from quernel.gateway.transport import Transport
from quernel.gateway.upstream import Endpoint, HttpEmbeddingModel, HttpRerankModel, Secret
from quernel.protocols.provider_replies import Reply
from quernel.server.inference import check_scores, check_vectors
from quernel.types import (
    EmbeddingModel,
    EmbeddingRequest,
    ModelInfo,
    ModelKind,
    RerankModel,
)

LocalModels: TypeAlias = Mapping[str, EmbeddingModel | RerankModel]
"""Models of this process, by name in small letters."""


class Upstream(Protocol):
    """A model at a provider."""

    async def answer(self, request: Any) -> Any:
        """What it says to a request of its kind, checked, and what it says that it counted and charged.

        Returns:
            A `Reply`; of a chat model a `ChatReply` or `ChatStream`.

        Raises:
            ProviderError: It failed.
        """
        ...

    def refuses(self, request: Any) -> str | None:
        """Why a request cannot be put to it; `None` where it can."""
        ...


class LocalUpstream:
    """A model of this process.

    Args:
        model: The model.
    """

    def __init__(self, model: EmbeddingModel | RerankModel) -> None:
        self._model = model

    async def answer(self, request: Any) -> Reply[Any]:
        """What it says.

        Raises:
            QuernelError: It cannot.
        """
        if isinstance(request, EmbeddingRequest):
            assert isinstance(self._model, EmbeddingModel), "models are opened as their kind"
            vectors = await self._model.embed(request)
            check_vectors(vectors, request)
            return Reply(result=vectors, reported_tokens=sum(vectors.num_tokens), reported_cost=None)
        assert isinstance(self._model, RerankModel), "models are opened as their kind"
        ranking = await self._model.rerank(request)
        check_scores(ranking, request)
        return Reply(result=ranking, reported_tokens=sum(ranking.num_tokens), reported_cost=None)

    def refuses(self, request: Any) -> str | None:
        """Nothing."""
        return None


class Registry:
    """Models and providers.

    Args:
        database: Where providers are.
        models: The models.
        local: Those of this process.
        transport: Asks providers.
        environment: Where providers' keys are found.
    """

    def __init__(
        self,
        database: Database,
        models: Models,
        *,
        local: LocalModels,
        transport: Transport,
        environment: Mapping[str, str],
    ) -> None:
        self._database = database
        self.models = models
        self._local = local
        self._transport = transport
        self._environment = environment
        self.providers: tuple[Provider, ...] = ()
        self._upstreams: dict[tuple[str, str, str], Upstream] = {}

    async def load(self) -> None:
        """Read providers and prices anew.

        Raises:
            SettingsError: One cannot be used as it is.
            UnavailableError: The database does not answer.
        """
        self.take(await self._database.read(load_providers))

    def take(self, providers: Iterable[Provider]) -> None:
        """Ask these providers from now on."""
        found = tuple(providers)
        if found != self.providers:
            self._upstreams.clear()
            self.providers = found

    def upstream(self, provider: Provider, offer: Offer, key: Secret | None = None) -> Upstream:
        """What asks a provider for a model.

        Args:
            provider: The provider.
            offer: The model there.
            key: A customer's own, in place of ours.

        Raises:
            SettingsError: It cannot be used as it is configured.
        """
        place = (provider.slug, offer.model.lower(), offer.weights)
        if place not in self._upstreams:
            self._upstreams[place] = self._open(provider, offer)
        upstream = self._upstreams[place]
        if key is None:
            return upstream
        assert isinstance(upstream, HttpEmbeddingModel | HttpRerankModel | HttpChatModel), (
            "local providers take no keys"
        )
        return upstream.with_key(key)

    def offered(self) -> Iterable[tuple[Provider, Offer, GatewayModel]]:
        """All that providers offer of the models there are."""
        for provider in self.providers:
            for offer in provider.models:
                model = self.models.find(offer.model)
                if model is not None:
                    yield provider, offer, model

    def _open(self, provider: Provider, offer: Offer) -> Upstream:
        place = f"provider {provider.slug}"
        model = self.models.find(offer.model)
        if model is None:
            raise SettingsError(f"{place} offers {offer.model}, which is no model here.", param="model")
        if provider.format == LOCAL:
            found = self._local.get(offer.model.lower())
            if found is None:
                raise SettingsError(f"{place}: {offer.model} is not loaded in this process.", param="model")
            return LocalUpstream(found)
        secret = read_secret(provider.api_key, self._environment, place=place)
        endpoint = Endpoint(
            provider=provider.slug,
            base_url=provider.base_url,
            format=provider.format,
            model=offer.upstream or offer.model,
            api_key=None if secret is None else Secret(secret),
            headers=provider.headers,
            timeout_seconds=provider.timeout_seconds,
            max_texts=offer.max_texts,
            options=offer.options,
            allow_http=provider.allow_http,
        )
        if model.kind is GatewayKind.CHAT:
            return HttpChatModel(endpoint, self._transport)
        info = _info(model, offer)
        if model.kind is GatewayKind.RERANKER:
            return HttpRerankModel(endpoint, info, self._transport)
        return HttpEmbeddingModel(endpoint, info, self._transport)


def _info(model: GatewayModel, offer: Offer) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        kind=ModelKind.RERANKER if model.kind is GatewayKind.RERANKER else ModelKind.EMBEDDING,
        dimensions=offer.dimensions or model.dimensions or 0,
        max_tokens=offer.max_tokens or model.max_tokens,
        dtype=offer.quantization,
        device="remote",
        num_parameters=(model.card and model.card.num_parameters) or 0,
    )


KNOWN_FORMATS = (LOCAL, *FORMATS)
"""What `format` of a provider may be."""
