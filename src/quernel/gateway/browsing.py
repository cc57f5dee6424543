"""Which models a visitor wants to see, and in which order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quernel.catalog.page import Task
from quernel.errors import InvalidRequestError
from quernel.gateway.models import GatewayModel
from quernel.gateway.money import MILLION, Picos, Price, parse_dollars
from quernel.gateway.providers import Offer, Provider
from quernel.protocols.gateway import ModelEntry, ModelQuery


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model with what is said of it.

    Attributes:
        model: The model.
        offers: Who offers it.
        entry: What the list says.
        now: The time of that, in milliseconds since 1970.
    """

    model: GatewayModel
    offers: Sequence[tuple[Provider, Offer]]
    entry: ModelEntry
    now: int

    @property
    def price(self) -> Picos | None:
        """The least that anybody takes for a token; `None` where nobody is paid by the token."""
        prices = [token_price(offer.price(self.now)) for _, offer in self.offers]
        return min((price for price in prices if price is not None), default=None)


SORTS: Mapping[str, Callable[[Listed], Any]] = {
    "name": lambda one: one.entry.name.lower(),
    "price": lambda one: one.price,
    "context": lambda one: one.entry.context_window,
    "dimensions": lambda one: one.entry.dimensions,
    "latency": lambda one: one.entry.latency_ms,
    "throughput": lambda one: one.entry.throughput,
    "released": lambda one: one.entry.released,
}
"""What models are sorted by; `None` is not known."""

USUAL: Mapping[str, str] = {name: "asc" if name in ("name", "price", "latency") else "desc" for name in SORTS}
"""The order in which the best comes first."""


def browse(listed: Sequence[Listed], query: ModelQuery) -> list[ModelEntry]:
    """What a query asks for, in its order.

    Raises:
        InvalidRequestError: No model can have that task.
    """
    if query.task is not None and query.task not in set(Task):
        raise InvalidRequestError(f"task is {query.task!r}.", param="task", hint=f"One of {', '.join(Task)}.")
    found = [one for one in listed if _fits(one, query)]
    if query.sort is not None:
        key = SORTS[query.sort]
        known = [one for one in found if key(one) is not None]
        known.sort(key=key, reverse=(query.order or USUAL[query.sort]) == "desc")
        found = [*known, *(one for one in found if key(one) is None)]
    elif query.order == "desc":
        found.reverse()
    return [one.entry for one in found]


def _fits(one: Listed, query: ModelQuery) -> bool:
    entry = one.entry
    return (
        query.kind in (None, entry.kind)
        and query.type in (None, entry.kind, entry.type)
        and (query.license is None or query.license.lower() == (entry.license or "").lower())
        and (query.task is None or query.task in entry.tasks)
        and (query.min_dimensions is None or query.min_dimensions <= (entry.dimensions or 0))
        and (query.zdr is not False or not entry.zdr)
        and (query.q is None or _mentions(one, query.q))
        and any(_offers(one, provider, offer, query) for provider, offer in one.offers)
    )


def _offers(one: Listed, provider: Provider, offer: Offer, query: ModelQuery) -> bool:
    """Whether a provider's offer is all that is asked of one."""
    price = token_price(offer.price(one.now))
    most = None if query.max_price is None else parse_dollars(query.max_price, place="max_price")
    return (
        query.provider in (None, provider.slug)
        and (query.zdr is not True or provider.zdr)
        and (most is None or (price is not None and price * MILLION <= most))
        and (query.min_context is None or query.min_context <= (offer.max_tokens or one.model.max_tokens))
    )


def _mentions(one: Listed, words: str) -> bool:
    entry, page = one.entry, one.model.page
    languages = () if page is None else (*page.languages.natural, *page.languages.programming)
    said = (entry.id, *entry.aliases, entry.title, entry.summary, entry.description, *entry.tasks, *languages)
    text = "\n".join(said).casefold()
    return all(word in text for word in words.casefold().split())


def token_price(price: Price) -> Picos | None:
    """What a token costs; `None` where something is paid for, but not by the token."""
    is_by_token = price.token or not (price.document or price.request or price.output_token)
    return price.token if is_by_token else None
