"""Pages of what there is: the first page, the list of models, a page for each, and several side by side."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quernel.web.api import Api, ApiError, Visitor
from quernel.web.charts import Bar, bars
from quernel.web.pages import pages_of, visitor_of
from quernel.web.snippets import KEY, snippets_of

FILTERS = (
    *("q", "kind", "provider", "license", "task", "zdr"),
    *("max_price", "min_context", "min_dimensions", "sort", "order"),
)
"""Parameters of the list of models, which are those of the API."""

MOST_COMPARED = 4
LADDER = (32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096)
"""Lengths to which people cut vectors."""

TYPES = (("float32", 4.0), ("float16", 2.0), ("int8", 1.0), ("binary", 1 / 8))
"""Type of a stored vector to the bytes of one of its numbers."""

KINDS = {"embedding": "Embedding", "reranker": "Reranker", "chat": "Chat"}


async def home(request: Request) -> Response:
    """The first page."""
    pages, visitor = pages_of(request), visitor_of(request)
    models = await pages.api.get("/v1/models", visitor)
    first = next((model for model in models["data"] if model["kind"] == "embedding"), None)
    snippets = () if first is None else snippets_of(first["kind"], first["id"], pages.origin(request))
    providers = {slug for model in models["data"] for slug in model["providers"]}
    return pages.show(
        request,
        "home.html",
        models=models["data"],
        num_providers=len(providers),
        snippets=snippets,
        key=KEY,
        kinds=KINDS,
        base=f"{pages.origin(request)}/v1",
        doors=[flow.door for flow in pages.doors.values()],
    )


async def models(request: Request) -> Response:
    """The list of models, filtered and sorted as the API does it."""
    pages, visitor = pages_of(request), visitor_of(request)
    query = {name: request.query_params.get(name) for name in FILTERS}
    everything = (await pages.api.get("/v1/models", visitor))["data"]
    problem = None
    try:
        found = (await pages.api.get("/v1/models", visitor, **query))["data"]
    except ApiError as error:
        if error.status != 400:
            raise
        found, problem = everything, error.message
    return pages.show(
        request,
        "models.html",
        status=200 if problem is None else 400,
        models=found,
        query={name: value or "" for name, value in query.items()},
        problem=problem,
        num_all=len(everything),
        choices={
            "provider": sorted({slug for model in everything for slug in model["providers"]}),
            "license": sorted({model["license"] for model in everything if model["license"]}),
            "task": sorted({task for model in everything for task in model["tasks"]}),
        },
        kinds=KINDS,
    )


async def model(request: Request) -> Response:
    """One model."""
    pages, visitor = pages_of(request), visitor_of(request)
    name = request.path_params["name"]
    found = await _whole(pages.api, visitor, name)
    entry = found["model"]
    if name != entry["id"]:
        return pages.go(f"/models/{quote(entry['id'])}")
    return pages.show(
        request,
        "model.html",
        **found,
        snippets=snippets_of(entry["kind"], entry["id"], pages.origin(request)),
        key=KEY,
        storage=storage_of(entry),
        types=[name for name, _ in TYPES],
        benchmark_charts=[chart_of(table) for table in found["card"]["benchmarks"]],
        kinds=KINDS,
    )


async def compare(request: Request) -> Response:
    """Several models side by side."""
    pages, visitor = pages_of(request), visitor_of(request)
    everything = (await pages.api.get("/v1/models", visitor))["data"]
    wanted = list(dict.fromkeys(name for name in request.query_params.getlist("model") if name))[:MOST_COMPARED]
    named = [await _whole(pages.api, visitor, name) for name in wanted]
    found = list({one["model"]["id"]: one for one in named}.values())
    return pages.show(
        request,
        "compare.html",
        everything=everything,
        found=found,
        wanted=[one["model"]["id"] for one in found],
        rows=spec_rows([one["card"]["specs"] for one in found]),
        benchmarks=shared_measures([one["card"]["benchmarks"] for one in found]),
        most=MOST_COMPARED,
        kinds=KINDS,
    )


async def _whole(api: Api, visitor: Visitor, name: str) -> dict[str, Any]:
    """All that the API says of a model: its entry with who offers it, and its card."""
    path = f"/v1/models/{quote(name)}"
    entry = (await api.get(f"{path}/endpoints", visitor))["data"]
    card = await api.get(f"{path}/card", visitor)
    return {"model": entry, "card": card}


def storage_of(entry: Mapping[str, Any]) -> list[tuple[int, list[float]]]:
    """Lengths that a model's vectors can be cut to, and the bytes of a million of them in each type."""
    whole = entry["dimensions"]
    if not whole:
        return []
    least = entry["min_dimensions"] or whole
    lengths = sorted({length for length in LADDER if least <= length <= whole} | {whole})
    return [(length, [length * width * 1_000_000 for _, width in TYPES]) for length in lengths]


def chart_of(table: Mapping[str, Any]) -> Markup:
    """The first measure of a table of results as bars, the best first; nothing where there is nothing to compare."""
    measure = table["measures"][0]
    scores = [(row, row["scores"].get(measure)) for row in table["rows"]]
    known = sorted(((row, score) for row, score in scores if score is not None), key=lambda found: -found[1])
    if len(known) < 2:
        return Markup()
    return bars([Bar(row["model"], score, f"{score:.2f}", is_this=row["is_this"]) for row, score in known])


def spec_rows(specs: Sequence[Sequence[Mapping[str, str]]]) -> list[tuple[str, list[str | None]]]:
    """Facts of several models, one row for each, in the order in which they are first said."""
    names = dict.fromkeys(spec["name"] for one in specs for spec in one)
    said = [{spec["name"]: spec["value"] for spec in one} for one in specs]
    return [(name, [one.get(name) for one in said]) for name in names]


Measures = list[tuple[str, list[float | None]]]
"""A measure, and what each model has of it."""


def shared_measures(benchmarks: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[str, Measures]]:
    """Published results that at least two of the models have, by benchmark."""
    said: list[dict[tuple[str, str], float]] = []
    for tables in benchmarks:
        mine: dict[tuple[str, str], float] = {}
        for table in tables:
            for row in table["rows"]:
                if row["is_this"]:
                    for measure, score in row["scores"].items():
                        if score is not None:
                            mine.setdefault((table["title"], measure), score)
        said.append(mine)
    found: dict[str, Measures] = {}
    for title, measure in dict.fromkeys(name for one in said for name in one):
        scores = [one.get((title, measure)) for one in said]
        if sum(score is not None for score in scores) > 1:
            found.setdefault(title, []).append((measure, scores))
    return list(found.items())


ROUTES = (
    Route("/", home, methods=["GET"]),
    Route("/models", models, methods=["GET"]),
    Route("/models/{name:path}", model, methods=["GET"]),
    Route("/compare", compare, methods=["GET"]),
)
