"""Providers and what they offer, as the configuration has them.

    [[providers]]
    slug = "deepinfra"
    format = "openai"
    base_url = "https://api.deepinfra.com/v1/openai"
    api_key = "env:DEEPINFRA_API_KEY"
    region = "us-east"
    headquarters = "US"
    zdr = true
    no_training = true

        [[providers.models]]
        model = "Qwen/Qwen3-Embedding-4B"
        prices = [{ usd_per_million_tokens = "0.02", from = 2025-06-05 }]

A price is never changed: a new one has a later `from`. A key is named (`env:NAME`, `file:PATH`), never written here, so
that the document may be shown and stored.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, date, datetime
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from quernel.errors import SettingsError
from quernel.gateway.money import FREE, Price, parse_price
from quernel.protocols.gateway_admin import FIRST_MOMENT, LAST_MOMENT, MOST_COUNT, MOST_LABEL, MOST_NAME
from quernel.settings import check_keys

T = TypeVar("T")

SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)

SECRET = re.compile(r"(?P<kind>env|file):(?P<name>.+)")
"""Where a key is found."""

LOCAL = "local"
"""The format of models that run in this process."""

FULL = "full"
"""The quantisations that are taken for one: 16 bits or more, whose vectors agree to three digits."""

FULL_NAMES = frozenset({"full", "fp32", "float32", "bf16", "bfloat16", "fp16", "float16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model at a provider.

    Attributes:
        model: Our name of the model.
        upstream: The provider's; `None` where it is the same.
        quantization: How its weights are stored: `bf16`, `int8`, `fp8`, `q4_k_m`, ...
        max_tokens: The longest input that the provider reads; `None` where it is the model's own.
        dimensions: The length of its vectors where that is less than the model's own.
        max_texts: Most texts or documents in one request to it; `None` for any number.
        prices: In the order of `valid_from`.
        released: Since when the provider offers it.
        options: For the wire format (`quernel.gateway.formats`).
    """

    model: str
    upstream: str | None = None
    quantization: str = FULL
    max_tokens: int | None = None
    dimensions: int | None = None
    max_texts: int | None = None
    prices: tuple[Price, ...] = ()
    released: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Offers of one model whose vectors may be mixed have the same."""
        return FULL if self.quantization.lower() in FULL_NAMES else self.quantization.lower()

    def price(self, now: int) -> Price:
        """What it costs at a moment; nothing where no price holds yet."""
        return next((price for price in reversed(self.prices) if price.valid_from <= now), FREE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Somebody who runs models.

    Attributes:
        slug: Its name in requests and replies.
        format: The wire format that it speaks, or `local`.
        name: Its name for people.
        base_url: Where it is.
        api_key: Where its key is found: `env:NAME` or `file:PATH`; `None` where it needs none.
        headers: Sent with every request.
        region: Where it computes.
        headquarters: The country of its seat, two letters.
        zdr: Whether it keeps nothing of what it is sent, by contract.
        no_training: Whether it promises not to train on what it is sent.
        byok: Whether customers may bring their own keys.
        concurrency: Most requests to it at once; `None` for any number.
        timeout_seconds: For one request.
        allow_http: Whether it may be spoken to without TLS though it is on another machine.
        terms: Where its terms are.
        enabled: Whether it is asked at all.
        models: What it offers.
    """

    slug: str
    format: str
    name: str = ""
    base_url: str = ""
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    region: str | None = None
    headquarters: str | None = None
    zdr: bool = False
    no_training: bool = False
    byok: bool = False
    concurrency: int | None = None
    timeout_seconds: float = 60.0
    allow_http: bool = False
    terms: str | None = None
    enabled: bool = True
    models: tuple[Offer, ...] = ()

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.slug


ACCEPTED: Mapping[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),
    Mapping: (Mapping,),
}
"""Type of a field to the types of values that a configuration may have for it."""


def parse_provider(table: Mapping[str, Any], *, place: str) -> Provider:
    """The provider that a table describes.

    Raises:
        SettingsError: An unknown key, a wrong value, or a slug that is none.
    """
    values = checked(table, Provider, place=place)
    slug = values["slug"]
    if SLUG.fullmatch(slug) is None:
        raise SettingsError(
            f"{place}: slug is {slug!r}.",
            param="slug",
            hint=f"Write at most {MOST_NAME} small letters, digits and dashes.",
        )
    place = f"provider {slug}"
    if values.get("api_key") is not None and SECRET.fullmatch(values["api_key"]) is None:
        raise _no_secret(place)
    country = values.get("headquarters")
    if country is not None and re.fullmatch("[A-Z]{2}", country) is None:
        raise SettingsError(f"{place}: headquarters is {country!r}.", param="headquarters", hint="Write it like US.")
    for name, content in values.get("headers", {}).items():
        if not isinstance(content, str) or re.search(r"[\r\n\0]", name + content):
            raise SettingsError(f"{place}: the header {name!r} cannot be sent.", param="headers")
    if not values.get("timeout_seconds", 1) > 0 or values.get("concurrency", 1) < 1:
        raise SettingsError(f"{place}: timeout_seconds and concurrency must be above zero.", param="providers")
    offers = tuple(_parse_offer(offer, place=place) for offer in _tables(table.get("models", []), place))
    names = [(offer.model.lower(), offer.weights) for offer in offers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"{place} offers {twice[0]} ({twice[1]}) twice.", param="models")
    return Provider(**{**values, "models": offers})


def _parse_offer(table: Mapping[str, Any], *, place: str) -> Offer:
    values = checked(table, Offer, place=f"{place}, models")
    if not values["model"].isprintable():
        raise SettingsError(
            f"{place}: model is {values['model']!r}.", param="model", hint="Leave out what cannot be printed."
        )
    letters = len(values["model"]) + len(values.get("quantization", FULL))
    if letters >= MOST_LABEL:  # with a sign between them they are a name, too: of the vectors of its canary
        raise SettingsError(
            f"{place}: model and quantization have {letters} letters together, more than {MOST_LABEL - 1}.",
            param="model",
            hint="Shorten the gateway's name of it; `upstream` is the provider's.",
        )
    place = f"{place}, {values['model']}"
    prices = [parse_dated_price(price, place=f"{place} prices") for price in _tables(table.get("prices", []), place)]
    ordered = sorted(prices, key=lambda price: price.valid_from)
    if len({price.valid_from for price in ordered}) < len(ordered):
        raise SettingsError(f"{place}: two prices begin at the same time.", param="prices")
    return Offer(**{**values, "prices": tuple(ordered)})


def parse_dated_price(table: Mapping[str, Any], *, place: str) -> Price:
    """A price with the day or moment from which it holds; always, where that is not said.

    Raises:
        SettingsError: A wrong amount or time.
    """
    known = ("from", "usd_per_million_tokens", "usd_per_million_output_tokens", "usd_per_thousand_documents")
    check_keys(table, (*known, "usd_per_request"), place=place)
    return parse_price(dict(table), place=place, valid_from=_milliseconds(table.get("from"), place=place))


def _milliseconds(moment: object, *, place: str) -> int:
    if moment is None:
        return 0
    if isinstance(moment, str):
        with suppress(ValueError):
            moment = datetime.fromisoformat(moment)
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if not isinstance(moment, datetime):
        raise SettingsError(f"{place}: from is {moment!r}.", param="from", hint="Write it like 2026-01-31.")
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    found = int(aware.timestamp() * 1000)
    if not FIRST_MOMENT <= found <= LAST_MOMENT:
        raise SettingsError(f"{place}: from is {moment}.", param="from", hint="Name one in the years 1 to 9999.")
    return found


def read_secret(source: str | None, environment: Mapping[str, str], *, place: str) -> str | None:
    """The key that a source names, among the variables of the environment or in a file.

    Raises:
        SettingsError: It is not there, or the source is none.
    """
    if source is None:
        return None
    named = SECRET.fullmatch(source)
    if named is None:
        raise _no_secret(place)
    name = named["name"]
    if named["kind"] == "env":
        found = environment.get(name)
        if not found:
            raise SettingsError(f"{place}: the variable {name} is not set.", param="api_key")
        return found
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{place}: {name} cannot be read.", param="api_key") from error


def _no_secret(place: str) -> SettingsError:
    return SettingsError(
        f"{place}: api_key is not the name of a key.",
        param="api_key",
        hint="Write env:VARIABLE or file:PATH; the key itself does not belong here.",
    )


def checked(table: Mapping[str, Any], shape: type, *, place: str) -> dict[str, Any]:
    """The plain values of a table for a dataclass: those that are no lists of tables.

    Raises:
        SettingsError: An unknown key, a missing one, or a value of another type.
    """
    if not isinstance(table, Mapping):
        raise SettingsError(f"{place} is {table!r}, which is no table.", param=place)
    declared = {declared.name: declared for declared in fields(shape)}
    check_keys(table, declared, place=place)
    annotations = get_type_hints(shape)
    values = {}
    for name, declaration in declared.items():
        kind = _plain_type(annotations[name])
        if kind not in ACCEPTED:
            continue  # a list, read by a function of its own
        if name not in table:
            if declaration.default is MISSING and declaration.default_factory is MISSING:
                raise SettingsError(f"{place}: {name} is missing.", param=name)
            continue
        value, accepted = table[name], ACCEPTED[kind]
        # In Python a bool is an int; in a configuration it is a mistake.
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise SettingsError(f"{place}: {name} is {value!r}.", param=name, hint=f"It is of type {kind.__name__}.")
        if isinstance(value, int) and not -MOST_COUNT <= value <= MOST_COUNT:
            raise SettingsError(f"{place}: {name} is {value}.", param=name, hint=f"The most is {MOST_COUNT}.")
        values[name] = value
    return values


def _plain_type(annotation: Any) -> Any:
    """The type of a field, whatever it holds and whether or not it may be missing."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (member for member in get_args(annotation) if member is not type(None))
    origin = get_origin(annotation)
    return origin or annotation


def _tables(value: object, place: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SettingsError(f"{place}: {value!r} is no list of tables.", param=place)
    return value
