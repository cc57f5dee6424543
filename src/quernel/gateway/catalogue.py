"""What is said of models and who offers them: facts of the cards, prices of the books, figures of live traffic."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec.structs import asdict

from quernel.errors import ModelNotFoundError
from quernel.gateway.browsing import Listed, browse
from quernel.gateway.health import BreakerState, Condition
from quernel.gateway.ids import now_ms
from quernel.gateway.models import GatewayKind, GatewayModel
from quernel.gateway.money import Price, format_dollars
from quernel.gateway.providers import LOCAL, Offer, Provider
from quernel.gateway.service import Gateway
from quernel.protocols.gateway import (
    ArchitectureEntry,
    EndpointEntry,
    LatencyEntry,
    ModelEndpoints,
    ModelEntry,
    ModelQuery,
    PricingEntry,
    ThroughputEntry,
)

TYPES: Mapping[GatewayKind, str] = {
    GatewayKind.EMBEDDING: "embedding",
    GatewayKind.RERANKER: "reranking",
    GatewayKind.CHAT: "language",
}
"""What other gateways call a kind."""

STATUS: Mapping[BreakerState, int] = {BreakerState.CLOSED: 0, BreakerState.PROBING: -1, BreakerState.OPEN: -2}
"""OpenRouter's numbers for how an endpoint is; 0 is well."""

DRIFTED = -5

LEAST_REQUESTS = 5.0
"""Recent requests below which no figures are shown: they would say little."""


def list_models(gateway: Gateway, query: ModelQuery | None = None) -> list[ModelEntry]:
    """The models that anybody offers, or those that a query asks for.

    Raises:
        InvalidRequestError: The query asks for what no model can have.
    """
    now = now_ms()
    listed = [
        Listed(model=model, offers=offers, entry=_model(gateway, model, offers, now), now=now)
        for model, offers in _offered(gateway).items()
    ]
    return browse(listed, query or ModelQuery())


def describe_model(gateway: Gateway, name: str) -> ModelEntry:
    """One model.

    Raises:
        ModelNotFoundError: Nobody offers it.
    """
    return _model(gateway, *find_offered(gateway, name), now_ms())


def describe_endpoints(gateway: Gateway, name: str) -> ModelEndpoints:
    """One model with who offers it, at what price, and how they are doing.

    Raises:
        ModelNotFoundError: Nobody offers it.
    """
    model, offers = find_offered(gateway, name)
    return ModelEndpoints(
        **asdict(_model(gateway, model, offers, now_ms())),
        architecture=ArchitectureEntry(input_modalities=["text"], output_modalities=[TYPES[model.kind]]),
        endpoints=[_endpoint(gateway, model, provider, offer) for provider, offer in offers],
    )


def _offered(gateway: Gateway) -> dict[GatewayModel, list[tuple[Provider, Offer]]]:
    """Models in the catalogue's order, with the providers that are switched on."""
    offered: dict[str, list[tuple[Provider, Offer]]] = {}
    for provider, offer, model in gateway.registry.offered():
        if provider.enabled:
            offered.setdefault(model.name, []).append((provider, offer))
    return {model: offered[model.name] for model in gateway.registry.models if model.name in offered}


def find_offered(gateway: Gateway, name: str) -> tuple[GatewayModel, list[tuple[Provider, Offer]]]:
    """One model, with the providers that are switched on.

    Raises:
        ModelNotFoundError: Nobody offers it.
    """
    wanted = gateway.registry.models.find(name)
    for model, offers in _offered(gateway).items():
        if model is wanted:
            return model, offers
    raise ModelNotFoundError(
        f"The model {name[:200]!r} is not served here.", param="model", hint="/v1/models lists those that are."
    )


def _model(gateway: Gateway, model: GatewayModel, offers: Sequence[tuple[Provider, Offer]], now: int) -> ModelEntry:
    prices = [offer.price(now) for _, offer in offers]
    card, page = model.card, model.page
    best = _best(gateway, offers)
    released = [offer.released for _, offer in offers if offer.released]
    return ModelEntry(
        id=model.name,
        created=_seconds(min(released, default=None)),
        owned_by=model.name.partition("/")[0],
        name=model.name.rpartition("/")[2],
        title=model.title,
        summary="" if page is None else page.summary,
        description=model.description,
        aliases=list(model.aliases),
        kind=model.kind.value,
        type=TYPES[model.kind],
        tasks=[] if page is None else [task.value for task in page.tasks],
        released=None if page is None else page.released,
        context_window=max((offer.max_tokens or model.max_tokens for _, offer in offers), default=model.max_tokens),
        dimensions=model.dimensions,
        min_dimensions=model.min_dimensions,
        license=None if card is None else card.license,
        num_parameters=None if card is None else card.num_parameters,
        pricing=_pricing(_cheapest(prices)) if prices else None,
        providers=[provider.slug for provider, _ in offers],
        zdr=any(provider.zdr for provider, _ in offers),
        latency_ms=None if best is None else _figure(best, best.latency_p50, 2, 1000),
        throughput=None if best is None else _figure(best, best.throughput, 1),
        uptime=None if best is None else _figure(best, best.uptime, 4),
    )


def _best(gateway: Gateway, offers: Sequence[tuple[Provider, Offer]]) -> Condition | None:
    """How the fastest of those is doing that are well; `None` where too little was measured to say."""
    conditions = [gateway.condition(provider, offer) for provider, offer in offers]
    measured = [
        (condition.latency_p50, place)
        for place, condition in enumerate(conditions)
        if condition.state is BreakerState.CLOSED
        and not condition.drifted
        and condition.requests >= LEAST_REQUESTS
        and condition.latency_p50 is not None
    ]
    return conditions[min(measured)[1]] if measured else None


def _figure(condition: Condition, number: float | None, digits: int, unit: float = 1.0) -> float | None:
    is_known = number is not None and condition.requests >= LEAST_REQUESTS
    return round(number * unit, digits) if is_known and number is not None else None


def _pricing(price: Price) -> PricingEntry:
    return PricingEntry(
        input=format_dollars(price.token),
        output=format_dollars(price.output_token),
        document=format_dollars(price.document),
        request=format_dollars(price.request),
    )


def _cheapest(prices: Sequence[Price]) -> Price:
    return min(prices, key=lambda price: (price.token, price.document, price.request))


def _endpoint(gateway: Gateway, model: GatewayModel, provider: Provider, offer: Offer) -> EndpointEntry:
    condition = gateway.condition(provider, offer)
    failure = None if condition.state is BreakerState.CLOSED else condition.last_failure
    return EndpointEntry(
        provider=provider.slug,
        provider_name=provider.title,
        status=DRIFTED if condition.drifted else STATUS[condition.state],
        reason=condition.drifted or failure,
        local=provider.format == LOCAL,
        quantization=offer.quantization,
        context_length=offer.max_tokens or model.max_tokens,
        dimensions=offer.dimensions or model.dimensions,
        pricing=_pricing(offer.price(now_ms())),
        zdr=provider.zdr,
        no_training=provider.no_training,
        byok=provider.byok,
        region=provider.region,
        headquarters=provider.headquarters,
        terms=provider.terms,
        released=offer.released,
        supported_parameters=_parameters(model),
        latency=LatencyEntry(
            p50_ms=_figure(condition, condition.latency_p50, 2, 1000),
            p95_ms=_figure(condition, condition.latency_p95, 2, 1000),
        ),
        throughput=ThroughputEntry(p50_tokens_per_second=_figure(condition, condition.throughput, 1)),
        uptime=_figure(condition, condition.uptime, 4),
        running=condition.running,
        canary_cosine=condition.canary_cosine,
    )


def _parameters(model: GatewayModel) -> list[str]:
    if model.kind is GatewayKind.EMBEDDING:
        can_cut = model.min_dimensions != model.dimensions
        return [*(["dimensions"] if can_cut else []), "encoding_format", "output_dtype", "instruction", "input_type"]
    if model.kind is GatewayKind.RERANKER:
        return ["top_n", "instruction", "return_documents", "max_tokens_per_doc"]
    return ["stream", "max_tokens", "temperature"]


def _seconds(day: str | None) -> int:
    if day is None:
        return 0
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
