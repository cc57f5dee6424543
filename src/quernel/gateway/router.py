"""Which providers a request may go to, and in which order. A pure function of what is known: no I/O, no clock.

Vectors of different weights are not comparable, so the offers of a model fall into pools of equal quantisation, and a
request stays within one: that of full precision where any provider has it, else that of the first provider; another
only if the request names it. Models are mixed only where the request lists them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quernel.errors import NoRouteError, UnavailableError
from quernel.gateway.health import BreakerState, Health, HealthTable
from quernel.gateway.money import Picos, Price
from quernel.gateway.providers import FULL, FULL_NAMES, Offer, Provider
from quernel.protocols.provider_options import Sort


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a request, its key and its account ask of a provider.

    Attributes:
        order: Providers that come first, in this order.
        only: Providers of which it must be one; empty for any.
        ignore: Providers that are left out.
        allowed: Providers that the key and the account may use; `None` for any.
        sort: What orders the others.
        zdr: Only providers that keep nothing.
        no_training: Only providers that do not train on it.
        regions: Only providers that compute in one of these; empty for any.
        headquarters: Only providers with a seat in one of these countries.
        not_headquarters: Only providers with a seat in none of these.
        quantizations: Only these weights; empty for the model's own pool.
        not_quantizations: None of these weights.
        max_token_price: The most that a token may cost.
        tokens: Tokens of the longest text, which the provider must read.
        dimensions: Length of the vectors that it must give.
        allow_fallbacks: Whether more than the first is asked.
    """

    order: Sequence[str] = ()
    only: Sequence[str] = ()
    ignore: Sequence[str] = ()
    allowed: frozenset[str] | None = None
    sort: Sort | None = None
    zdr: bool = False
    no_training: bool = False
    regions: Sequence[str] = ()
    headquarters: Sequence[str] = ()
    not_headquarters: Sequence[str] = ()
    quantizations: Sequence[str] = ()
    not_quantizations: Sequence[str] = ()
    max_token_price: Picos | None = None
    tokens: int = 0
    dimensions: int | None = None
    allow_fallbacks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A provider that a request may go to.

    Attributes:
        provider: The provider.
        offer: What of it.
        price: What it costs now.
        health: How it is doing.
    """

    provider: Provider
    offer: Offer
    price: Price
    health: Health


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes.

    Attributes:
        candidates: Providers to ask, the first first.
        left_out: Provider to the reason why it is not asked.
        sort: What they were ordered by.
    """

    candidates: tuple[Candidate, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    sort: Sort = Sort.COST


def find_route(
    model: str,
    providers: Iterable[Provider],
    demands: Demands,
    health: HealthTable,
    *,
    now: float,
    now_ms: int,
    refuses: Callable[[Provider, Offer], str | None] = lambda provider, offer: None,
) -> Route:
    """The providers that a request for a model may go to, the best first.

    Args:
        model: Our name of it.
        providers: All there are, in the operator's order.
        demands: What is asked of them.
        health: How they are doing.
        now: Seconds, by the clock of `health`.
        now_ms: Milliseconds since 1970, for prices.
        refuses: Why a provider's wire format cannot say the request; `None` where it can.

    Raises:
        NoRouteError: None fits, whatever their health; the message says why each does not.
        UnavailableError: Some fit, but all of them are paused.
    """
    offers = [
        (provider, offer) for provider in providers for offer in provider.models if offer.model.lower() == model.lower()
    ]
    pool = _pool(demands, [offer for _, offer in offers])
    left_out: dict[str, str] = {}
    fitting, paused = [], []
    for provider, offer in offers:
        reason = _unfit(provider, offer, demands, pool, now_ms) or refuses(provider, offer)
        if reason is not None:
            # A provider may have a model in several weights: that it has the right one is worth more than that not all.
            left_out.setdefault(provider.slug, reason)
            continue
        candidate = Candidate(
            provider=provider,
            offer=offer,
            price=offer.price(now_ms),
            health=health.of(provider.slug, model, offer.weights),
        )
        reason = _paused(candidate, now)
        if reason is None:
            fitting.append(candidate)
        else:
            paused.append(candidate)
            left_out[provider.slug] = reason
    if not fitting and not paused:
        raise _no_route(model, demands, left_out)
    if not fitting:
        raise _all_paused(model, paused, left_out, now)
    sort = demands.sort or Sort.COST
    if len(fitting) > 1:
        fitting.sort(key=lambda candidate: _place(candidate, demands, sort, now))
    for candidate in fitting:
        left_out.pop(candidate.provider.slug, None)
    return Route(candidates=tuple(fitting if demands.allow_fallbacks else fitting[:1]), left_out=left_out, sort=sort)


def _pool(demands: Demands, offers: Sequence[Offer]) -> frozenset[str]:
    """The weights that a request may be answered with."""
    weights = {offer.weights for offer in offers}
    unwanted = {_weights_of(name) for name in demands.not_quantizations}
    if demands.quantizations:
        return frozenset(_weights_of(name) for name in demands.quantizations) - unwanted
    wanted = [offer.weights for offer in offers if offer.weights not in unwanted]
    if not wanted:
        return frozenset()
    return frozenset({FULL if FULL in weights - unwanted else wanted[0]})


def _weights_of(name: str) -> str:
    return FULL if name.lower() in FULL_NAMES else name.lower()


def _unfit(provider: Provider, offer: Offer, demands: Demands, pool: frozenset[str], now_ms: int) -> str | None:
    """Why an offer is out of the question; `None` where it is not."""
    slug = provider.slug
    checks = (
        (not provider.enabled, "it is switched off"),
        (bool(demands.only) and slug not in demands.only, "it is not in `only`"),
        (slug in demands.ignore, "it is in `ignore`"),
        (demands.allowed is not None and slug not in demands.allowed, "the key or its account may not use it"),
        (demands.zdr and not provider.zdr, "it does not promise zero data retention"),
        (demands.no_training and not provider.no_training, "it does not promise not to train on requests"),
        (bool(demands.regions) and provider.region not in demands.regions, "it computes in another region"),
        (
            bool(demands.headquarters) and provider.headquarters not in demands.headquarters,
            "its headquarters are elsewhere",
        ),
        (provider.headquarters in demands.not_headquarters, "its headquarters are in a country that is ruled out"),
        (
            bool(demands.not_headquarters) and provider.headquarters is None,
            "it is not known where its headquarters are",
        ),
        (offer.weights not in pool, f"its weights are {offer.quantization}"),
        (offer.max_tokens is not None and demands.tokens > offer.max_tokens, f"it reads {offer.max_tokens} tokens"),
        (
            offer.dimensions is not None and demands.dimensions is not None and demands.dimensions > offer.dimensions,
            f"it gives {offer.dimensions} dimensions",
        ),
        (
            demands.max_token_price is not None and offer.price(now_ms).token > demands.max_token_price,
            "it costs more",
        ),
    )
    return next((reason for is_so, reason in checks if is_so), None)


def _paused(candidate: Candidate, now: float) -> str | None:
    """Why an offer that fits is not asked now; `None` where it is."""
    if candidate.health.drifted:
        return candidate.health.drifted
    if candidate.health.state(now) is BreakerState.OPEN:
        failure = candidate.health.last_failure
        return f"it is paused after failures ({failure})"
    return None


def _place(candidate: Candidate, demands: Demands, sort: Sort, now: float) -> tuple[object, ...]:
    """What candidates are ordered by, the smallest first."""
    slug = candidate.provider.slug
    ordered = demands.order.index(slug) if slug in demands.order else len(demands.order)
    price, health = candidate.price, candidate.health
    cost = (price.token * max(demands.tokens, 1) + price.request, price.document, price.output_token)
    # What has never been asked comes first once, so that something becomes known of it.
    if sort is Sort.THROUGHPUT:
        throughput = health.throughput.quantile(0.5)
        by: tuple[object, ...] = (-float("inf") if throughput is None else -throughput, cost)
    else:
        latency = health.latency.quantile(0.5)
        seconds = -1.0 if latency is None else latency
        by = (cost, seconds) if sort is Sort.COST else (seconds, cost)
    limit = candidate.provider.concurrency
    is_full = limit is not None and health.running >= limit
    return (ordered, is_full, health.state(now) is BreakerState.PROBING, *by)


def _no_route(model: str, demands: Demands, left_out: Mapping[str, str]) -> NoRouteError:
    reasons = "; ".join(f"{slug}: {reason}" for slug, reason in left_out.items())
    unknown = [slug for slug in (*demands.only, *demands.order) if slug not in left_out]
    hint = f"Providers of this model: {', '.join(left_out) or 'none'}." if unknown else "Ask for less, or for another."
    return NoRouteError(
        f"No provider of {model} fits the request ({reasons or 'there is none'}).", param="providerOptions", hint=hint
    )


def _all_paused(model: str, paused: Sequence[Candidate], left_out: Mapping[str, str], now: float) -> UnavailableError:
    reasons = "; ".join(f"{slug}: {reason}" for slug, reason in left_out.items())
    error = UnavailableError(f"No provider of {model} that fits is in service ({reasons}).", hint="Ask again later.")
    error.retry_after = max(min(candidate.health.opens_in(now) for candidate in paused), 1.0)
    return error
