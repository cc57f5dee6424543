"""Providers: how each is doing, for everybody; and for operators what they are asked for, at what price, and whether.

What a customer sees is what the catalogue says of who offers the models.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.responses import Response

from quernel.web.api import ApiError
from quernel.web.console.desk import OPERATE, Desk, page, segment
from quernel.web.console.fields import is_ticked, said

FORMATS = ("quernel", "openai", "cohere", "jina", "voyage", "tei", "ai-gateway")
"""Wire formats of providers that can be added here; the API takes what the gateway knows."""

UNITS: Mapping[str, str] = {
    "usd_per_million_tokens": "$ / M tokens read",
    "usd_per_million_output_tokens": "$ / M tokens written",
    "usd_per_thousand_documents": "$ / 1K documents",
    "usd_per_request": "$ / request",
}
"""Part of a price to what it is for."""

TEXTS = ("slug", "format", "name", "base_url", "api_key", "region", "headquarters", "terms")
PROMISES: Mapping[str, str] = {
    "zdr": "Keeps nothing, by contract",
    "no_training": "Does not train on requests",
    "byok": "Customers may bring their own keys",
    "allow_http": "May be spoken to without TLS",
}
ROWS = 6
"""Models that the form for a new provider has room for."""


async def list_providers(desk: Desk) -> Response:
    """How all providers are doing."""
    if not desk.may(OPERATE):
        by_provider: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
        for model, endpoint in await offered(desk):
            by_provider.setdefault(endpoint["provider"], []).append((model, endpoint))
        return desk.show("providers_offered.html", providers=by_provider)
    found = (await desk.get("/v1/providers"))["data"]
    prices = prices_now(found)
    asked = [price for *_, price in prices if price is not None]
    units = {unit: name for unit, name in UNITS.items() if any(Decimal(price[unit] or 0) for price in asked)}
    return desk.show("providers.html", providers=found, prices=prices, units=units)


async def offered(desk: Desk) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every model with each of those who offer it."""
    models = (await desk.get("/v1/models"))["data"]
    found = [(await desk.get(f"/v1/models/{quote(model['id'])}/endpoints"))["data"] for model in models]
    return [(model, endpoint) for model in found for endpoint in model["endpoints"]]


def prices_now(providers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, Mapping[str, Any] | None]]:
    """Model, provider, weights and the price that holds now, the models in order."""
    now = datetime.now(UTC)
    rows = []
    for provider in providers:
        for offer in provider["models"]:
            begun = [price for price in offer["prices"] if datetime.fromisoformat(price["from"]) <= now]
            rows.append((offer["model"], provider["slug"], offer["quantization"], begun[-1] if begun else None))
    return sorted(rows, key=lambda row: row[:3])


async def ask_for_provider(desk: Desk) -> Response:
    """The form for a new provider."""
    return await _show_form(desk, {})


async def add_provider(desk: Desk) -> Response:
    """A new provider."""
    body = _body_of(await desk.form())
    try:
        slugs = [provider["slug"] for provider in (await desk.get("/v1/providers"))["data"]]
        if body.get("slug") in slugs:  # the API would replace it
            return await _show_form(desk, body, problem=f"There is a provider {body['slug']} already.")
        made = (await desk.ask("POST", "/v1/providers", body=body)).content
    except ApiError as error:
        return await _show_form(desk, body, problem=error)
    return desk.go(f"/console/providers/{made['slug']}", "created")


async def show_provider(desk: Desk) -> Response:
    """A provider."""
    return await _show(desk)


async def switch_provider(desk: Desk) -> Response:
    """A provider, asked from now on or no more."""
    enabled = is_ticked(await desk.form(), "enabled")
    return await _do(desk, "PATCH", _path(desk), "switched", body={"enabled": enabled})


async def remove_provider(desk: Desk) -> Response:
    """A provider, taken out."""
    return await _do(desk, "DELETE", _path(desk), "removed", after="/console/providers")


async def add_price(desk: Desk) -> Response:
    """A new price of a model at a provider."""
    form = await desk.form()
    body = said(model=form.get("model", ""), **{unit: form.get(unit, "") for unit in ("from", *UNITS)})
    return await _do(desk, "POST", f"{_path(desk)}/prices", "priced", body=body)


async def recheck(desk: Desk) -> Response:
    """A model whose providers are compared anew."""
    model = (await desk.form()).get("model", "")
    return await _do(desk, "DELETE", f"/v1/canaries/{quote(model)}", "rechecked")


async def _do(
    desk: Desk, method: str, path: str, done: str, *, body: object = None, after: str | None = None
) -> Response:
    """Do something to a provider, and go on to its page."""
    try:
        await desk.ask(method, path, body=body)
    except ApiError as error:
        return await _show(desk, problem=error)
    return desk.go(after or f"/console/providers/{desk.name('slug')}", done)


def _path(desk: Desk) -> str:
    return f"/v1/providers/{segment(desk.name('slug'))}"


async def _show(desk: Desk, *, problem: ApiError | None = None) -> Response:
    return desk.show("provider.html", problem=problem, provider=await desk.get(_path(desk)), units=UNITS)


async def _show_form(desk: Desk, asked: Mapping[str, Any], *, problem: ApiError | str | None = None) -> Response:
    models = (await desk.get("/v1/models"))["data"]
    rows = [*asked.get("models", ()), *({} for _ in range(ROWS))][:ROWS]
    return desk.show(
        "provider_new.html",
        problem=problem,
        asked=asked,
        rows=rows,
        known=[model["id"] for model in models],
        formats=FORMATS,
        promises=PROMISES,
    )


def _body_of(form: QueryParams) -> dict[str, Any]:
    body: dict[str, Any] = said(**{name: form.get(name, "") for name in TEXTS})
    body |= {name: is_ticked(form, name) for name in PROMISES}
    models = []
    for number in range(ROWS):
        row = said(**{name: form.get(f"{name}-{number}", "") for name in ("model", "upstream", "quantization")})
        price = said(
            usd_per_million_tokens=form.get(f"tokens-{number}", ""),
            usd_per_thousand_documents=form.get(f"documents-{number}", ""),
        )
        if row:
            models.append({**row, "prices": [price]})
    return {**body, "models": models}


ROUTES = (
    page("/console/providers", list_providers),
    page("/console/providers/new", ask_for_provider, scope=OPERATE),
    page("/console/providers/new", add_provider, method="POST"),
    page("/console/providers/{slug}", show_provider),
    page("/console/providers/{slug}/switch", switch_provider, method="POST"),
    page("/console/providers/{slug}/remove", remove_provider, method="POST"),
    page("/console/providers/{slug}/prices", add_price, method="POST"),
    page("/console/providers/{slug}/recheck", recheck, method="POST"),
)
