"""Where a request may go and for whom it is: `providerOptions.gateway` of the AI SDK, and `provider` of OpenRouter.

Both become `ProviderOptions`, so that whoever routes a request does not know in whose words it was asked. An option
that is not known is collected rather than refused: clients send options of a newer gateway, or of language models. One
that is known but cannot be read is refused, since to route without it would be to route against the caller's will.

This file knows the words, not which providers there are.

Source: `packages/gateway/src/gateway-provider-options.ts` of https://github.com/vercel/ai,
https://vercel.com/docs/ai-gateway/provider-options, https://openrouter.ai/docs/features/provider-routing.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError

T = TypeVar("T")

MAX_NAME, MAX_NAMES = 256, 64
"""Characters of a name, and names of a list: they are kept with the usage of a request."""

MILLISECONDS = 1000

GATEWAY_PLACE, OPENROUTER_PLACE = "providerOptions.gateway", "provider"
"""Where the options stand in a body."""


NOT, QUANTIZATION = "!", "quantization:"
"""How a word excludes, and how a weight format is told from a capability."""


class Sort(StrEnum):
    """What the providers of a model are ordered by, the best first."""

    COST = "cost"
    LATENCY = "latency"
    THROUGHPUT = "throughput"


GATEWAY_SORTS: Mapping[str, Sort] = {"cost": Sort.COST, "ttft": Sort.LATENCY, "tps": Sort.THROUGHPUT}
OPENROUTER_SORTS: Mapping[str, Sort] = {"price": Sort.COST, "latency": Sort.LATENCY, "throughput": Sort.THROUGHPUT}
DATA_COLLECTION: Mapping[str, bool] = {"allow": False, "deny": True}
"""OpenRouter's word, as whether training on what is sent is forbidden."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_NAMES)]
Filter = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_NAMES)]
"""A list without which everything is allowed. Empty it could mean everything or nothing, and so is refused."""

Country = Annotated[str, Meta(pattern="^!?[A-Za-z]{2}$")]
Countries = Annotated[tuple[Country, ...], Meta(min_length=1, max_length=MAX_NAMES)]
Capability = Annotated[str, Meta(pattern="^(!?quantization:[A-Za-z0-9._-]{1,32}|[a-z][a-z-]{0,63})$")]
Capabilities = Annotated[tuple[Capability, ...], Meta(max_length=MAX_NAMES)]
Credentials = Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=MAX_NAMES)]
Price = Annotated[Decimal, Meta(description="USD, as a number or as text.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """What a request says of the providers that may answer it, and of who is asking.

    Attributes:
        order: Providers to try first, in this order; the others follow.
        only: The only providers that may answer; empty where any may.
        ignore: Providers that may not.
        sort: What to order the others by; `None` for the router's own order.
        allow_fallbacks: Whether a provider beyond the first, or beyond those of `order`, may answer.
        models: Models to try in this order where the one that was asked for cannot answer.
        user: For whom the caller asks, in the caller's words.
        tags: What the caller files the request under.
        byok: The caller's own credentials by provider, each to be tried in order. Never shown.
        zero_data_retention: Whether only providers that keep nothing may answer.
        disallow_prompt_training: Whether only providers that do not train on what is sent may answer.
        headquarters: Countries (ISO 3166-1 alpha-2, upper case) where providers must have their seat; empty for any.
        not_headquarters: Countries where they must not.
        has: Capabilities that a provider's model must have.
        quantizations: The only weight formats that may answer, in lower case; empty where any may.
        not_quantizations: Weight formats that may not.
        max_price: The most that a million tokens may cost, in USD.
        max_request_price: The most that a request may cost besides, in USD.
        provider_timeouts: By provider, seconds to wait for an answer with the caller's own credentials.
        quota_entity: Whose quota the request counts against.
        unknown: Where options stand that are not known here.
    """

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sort: Sort | None = None
    allow_fallbacks: bool = True
    models: tuple[str, ...] = ()
    user: str | None = None
    tags: tuple[str, ...] = ()
    byok: Mapping[str, tuple[Mapping[str, object], ...]] = field(default_factory=dict, repr=False)
    zero_data_retention: bool = False
    disallow_prompt_training: bool = False
    headquarters: tuple[str, ...] = ()
    not_headquarters: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()
    not_quantizations: tuple[str, ...] = ()
    max_price: Decimal | None = None
    max_request_price: Decimal | None = None
    provider_timeouts: Mapping[str, float] = field(default_factory=dict)
    quota_entity: str | None = None
    unknown: tuple[str, ...] = ()


class ProviderTimeoutsBody(Struct, kw_only=True):
    """How long to wait for a provider."""

    byok: Annotated[dict[Name, Annotated[int, Meta(ge=1)]] | None, Meta(description="Milliseconds, by provider.")] = (
        None
    )


class GatewayOptionsBody(Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """The options under `providerOptions.gateway`, as the AI SDK sends them."""

    order: Annotated[Names | None, Meta(description="Providers to try first; the others follow.")] = None
    only: Annotated[Filter | None, Meta(description="The only providers that may answer.")] = None
    sort: Annotated[str | None, Meta(description="`cost`, `ttft` or `tps`.")] = None
    models: Annotated[Names | None, Meta(description="Models to try where the one asked for cannot answer.")] = None
    user: Annotated[Name | None, Meta(description="For whom the caller asks.")] = None
    tags: Annotated[Names | None, Meta(description="What the caller files the request under.")] = None
    byok: Annotated[dict[Name, Credentials] | None, Meta(description="The caller's credentials by provider.")] = None
    zero_data_retention: Annotated[bool | None, Meta(description="Only providers that keep nothing.")] = None
    disallow_prompt_training: Annotated[bool | None, Meta(description="Only providers that do not train on it.")] = None
    headquarters: Annotated[Countries | None, Meta(description="Countries of providers, or all of them with `!`.")] = (
        None
    )
    has: Annotated[Capabilities | None, Meta(description="Capabilities that a provider's model must have.")] = None
    provider_timeouts: ProviderTimeoutsBody | None = None
    quota_entity_id: Annotated[Name | None, Meta(description="Whose quota the request counts against.")] = None


class OpenRouterSortBody(Struct, kw_only=True):
    """OpenRouter's longer form of `sort`."""

    by: str | None = None


class MaxPriceBody(Struct, kw_only=True):
    """The most that an answer may cost. Prices of what these models do not make (completions, images) always hold."""

    prompt: Annotated[Price | None, Meta(description="For a million tokens.")] = None
    request: Annotated[Price | None, Meta(description="For a request.")] = None


class OpenRouterProviderBody(Struct, kw_only=True, omit_defaults=True):
    """The body's `provider`, as OpenRouter has it."""

    order: Annotated[Names | None, Meta(description="Providers to try first; the others follow.")] = None
    only: Annotated[Filter | None, Meta(description="The only providers that may answer.")] = None
    ignore: Annotated[Names | None, Meta(description="Providers that may not answer.")] = None
    allow_fallbacks: Annotated[bool | None, Meta(description="Whether another than the first may answer.")] = None
    zdr: Annotated[bool | None, Meta(description="Only providers that keep nothing.")] = None
    data_collection: Annotated[str | None, Meta(description="`allow` (the default) or `deny`.")] = None
    quantizations: Annotated[Filter | None, Meta(description="The only weight formats that may answer.")] = None
    sort: Annotated[str | OpenRouterSortBody | None, Meta(description="`price`, `latency` or `throughput`.")] = None
    max_price: MaxPriceBody | None = None


def decode_provider_options(
    raw: Mapping[str, object] | None, *, read_elsewhere: Collection[str] = ()
) -> ProviderOptions:
    """The options under `gateway` of a body's `providerOptions`; those of other providers are passed over.

    Args:
        raw: The body's `providerOptions`.
        read_elsewhere: Options under `gateway` that the caller reads itself, and that are not unknown therefore.

    Raises:
        InvalidRequestError: An option cannot be read; `param` says which (`providerOptions.gateway.order`).
    """
    options = (raw or {}).get("gateway")
    if options is None:
        return ProviderOptions()
    wire = convert_option(options, GatewayOptionsBody, GATEWAY_PLACE)
    timeouts = wire.provider_timeouts or ProviderTimeoutsBody()
    headquarters, not_headquarters = _divide(code.upper() for code in wire.headquarters or ())
    if headquarters and not_headquarters:
        raise InvalidRequestError(
            f"{GATEWAY_PLACE}.headquarters both allows and excludes countries.",
            param=f"{GATEWAY_PLACE}.headquarters",
            hint=f"Put {NOT} before all of them or before none.",
        )
    formats = [word.lower() for word in wire.has or () if word.removeprefix(NOT).startswith(QUANTIZATION)]
    quantizations, not_quantizations = _divide(word.replace(QUANTIZATION, "", 1) for word in formats)
    if len(quantizations) > 1:
        raise InvalidRequestError(
            f"{GATEWAY_PLACE}.has asks for weights in {' and '.join(quantizations)} at once.",
            param=f"{GATEWAY_PLACE}.has",
            hint="Name one format, or exclude the others.",
        )
    return ProviderOptions(
        order=wire.order or (),
        only=wire.only or (),
        sort=None if wire.sort is None else choose(wire.sort, GATEWAY_SORTS, f"{GATEWAY_PLACE}.sort"),
        models=wire.models or (),
        user=wire.user,
        tags=wire.tags or (),
        byok=wire.byok or {},
        zero_data_retention=bool(wire.zero_data_retention),
        disallow_prompt_training=bool(wire.disallow_prompt_training),
        headquarters=headquarters,
        not_headquarters=not_headquarters,
        has=tuple(word for word in wire.has or () if QUANTIZATION not in word),
        quantizations=quantizations,
        not_quantizations=not_quantizations,
        provider_timeouts={name: limit / MILLISECONDS for name, limit in (timeouts.byok or {}).items()},
        quota_entity=wire.quota_entity_id,
        unknown=_unknown(options, GatewayOptionsBody, GATEWAY_PLACE, read_elsewhere),
    )


def decode_openrouter_provider(raw: Mapping[str, object] | None) -> ProviderOptions:
    """The options of a body's `provider`.

    Raises:
        InvalidRequestError: An option cannot be read; `param` says which (`provider.order`).
    """
    if raw is None:
        return ProviderOptions()
    wire = convert_option(raw, OpenRouterProviderBody, OPENROUTER_PLACE)
    sort = wire.sort.by if isinstance(wire.sort, OpenRouterSortBody) else wire.sort
    price = wire.max_price or MaxPriceBody()
    return ProviderOptions(
        order=wire.order or (),
        only=wire.only or (),
        ignore=wire.ignore or (),
        sort=None if sort is None else choose(sort, OPENROUTER_SORTS, f"{OPENROUTER_PLACE}.sort"),
        allow_fallbacks=wire.allow_fallbacks is not False,
        zero_data_retention=bool(wire.zdr),
        disallow_prompt_training=choose(
            wire.data_collection or "allow", DATA_COLLECTION, f"{OPENROUTER_PLACE}.data_collection"
        ),
        quantizations=tuple(name.lower() for name in wire.quantizations or ()),
        max_price=_price(price.prompt, f"{OPENROUTER_PLACE}.max_price.prompt"),
        max_request_price=_price(price.request, f"{OPENROUTER_PLACE}.max_price.request"),
        unknown=_unknown(raw, OpenRouterProviderBody, OPENROUTER_PLACE),
    )


def decode_routing(
    provider_options: Mapping[str, object] | None, provider: Mapping[str, object] | None
) -> ProviderOptions:
    """The options of a body that may have them in either form.

    Raises:
        InvalidRequestError: It has them in both, or an option cannot be read.
    """
    if provider is None:
        return decode_provider_options(provider_options)
    if (provider_options or {}).get("gateway") is not None:
        raise InvalidRequestError(
            f"{GATEWAY_PLACE} and {OPENROUTER_PLACE} are both there.", param=OPENROUTER_PLACE, hint="Send one of them."
        )
    return decode_openrouter_provider(provider)


def encode_provider_options(options: ProviderOptions) -> dict[str, Any]:
    """`providerOptions` for another gateway: who asks, and what binds whoever answers. Empty where there is neither.

    What names providers, models, prices or credentials is left out: those are ours, and the other gateway's are others.

    Raises:
        InvalidRequestError: Several weight formats may answer, which these options have no word for.
    """
    if len(options.quantizations) > 1:
        raise InvalidRequestError(
            f"{' or '.join(options.quantizations)} has no word in {GATEWAY_PLACE}.",
            param="quantizations",
            hint="Name one format.",
        )
    excluded = tuple(NOT + code for code in options.not_headquarters)
    has = (
        *options.has,
        *(QUANTIZATION + name for name in options.quantizations),
        *(NOT + QUANTIZATION + name for name in options.not_quantizations),
    )
    wire = GatewayOptionsBody(
        sort=next((word for word, sort in GATEWAY_SORTS.items() if sort is options.sort), None),
        user=options.user,
        tags=options.tags or None,
        zero_data_retention=options.zero_data_retention or None,
        disallow_prompt_training=options.disallow_prompt_training or None,
        headquarters=options.headquarters or excluded or None,
        has=has or None,
        quota_entity_id=options.quota_entity,
    )
    said = msgspec.to_builtins(wire)
    return {"gateway": said} if said else {}


def convert_option(value: object, shape: type[T], place: str) -> T:
    """`value` as `shape`.

    Raises:
        InvalidRequestError: It is of another shape; `param` is where, from `place` on.
    """
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        complaint, _, path = str(error).partition(" - at `$")
        where = place + path.rstrip("`")
        raise InvalidRequestError(f"{where}: {complaint[:1].lower()}{complaint[1:]}.", param=where) from error


def choose(word: str, choices: Mapping[str, T], place: str) -> T:
    """What `word` stands for.

    Raises:
        InvalidRequestError: It is none of the choices.
    """
    if word not in choices:
        raise InvalidRequestError(f"{place} is {word!r}.", param=place, hint=f"Use one of: {', '.join(choices)}.")
    return choices[word]


def _divide(words: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words that demand something, and those that exclude it, which have `!` before them; each once."""
    told = tuple(dict.fromkeys(words))
    return (
        tuple(word for word in told if not word.startswith(NOT)),
        tuple(word.removeprefix(NOT) for word in told if word.startswith(NOT)),
    )


def _price(price: Decimal | None, place: str) -> Decimal | None:
    if price is not None and not (price.is_finite() and price >= 0):
        raise InvalidRequestError(f"{place} is {price}.", param=place, hint="Send a number that is 0 or more.")
    return price


def _unknown(options: object, shape: type[Struct], place: str, read_elsewhere: Collection[str] = ()) -> tuple[str, ...]:
    assert isinstance(options, Mapping), "it was converted to a struct"
    known = {declared.encode_name for declared in msgspec.structs.fields(shape)}.union(read_elsewhere)
    unknown = (f"{place}.{str(name)[:MAX_NAME]}" for name in options if name not in known)
    return tuple(islice(unknown, MAX_NAMES))
