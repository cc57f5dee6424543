"""The page of a model: facts, prose and tables of the catalogue, with what this gateway serves beside it."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import asdict

from quernel.catalog.benchmarks import BenchmarkTable, benchmark_tables
from quernel.catalog.page import Languages, ModelPage
from quernel.catalog.specs import build_specs
from quernel.gateway.catalogue import TYPES, find_offered, list_models
from quernel.gateway.models import GatewayModel
from quernel.gateway.service import Gateway
from quernel.protocols.gateway import ModelEntry
from quernel.protocols.gateway_card import (
    AlternativeEntry,
    BenchmarkEntry,
    BenchmarkRow,
    CardReply,
    InstructionsEntry,
    LanguagesEntry,
    LinkEntry,
    PointEntry,
    QuestionEntry,
    RelatedEntry,
    SamplesEntry,
    SpecEntry,
)

S = TypeVar("S", bound=msgspec.Struct)


def describe_card(gateway: Gateway, name: str) -> CardReply:
    """The page of one model.

    Raises:
        ModelNotFoundError: Nobody offers it.
    """
    model, _ = find_offered(gateway, name)
    page = model.page or ModelPage(title=model.title, summary=model.description)
    served = Served(gateway)
    specs = build_specs(
        model.card,
        kind=model.kind.value,
        max_tokens=model.max_tokens,
        dimensions=model.dimensions,
        min_dimensions=model.min_dimensions,
    )
    return CardReply(
        id=model.name,
        kind=model.kind.value,
        type=TYPES[model.kind],
        title=page.title,
        summary=page.summary,
        released=page.released,
        updated=page.updated,
        tasks=[task.value for task in page.tasks],
        architecture=page.architecture,
        specs=_entries(specs, SpecEntry),
        about=list(page.about),
        languages=_languages(page),
        instructions=None if page.instructions is None else _entry(page.instructions, InstructionsEntry),
        best_for=_entries(page.best_for, PointEntry),
        alternatives=[
            AlternativeEntry(
                title=one.title,
                text=one.text,
                model=one.model,
                served=served.find(one.model) is not None,
            )
            for one in page.alternatives
        ],
        providers=_entries(page.providers, PointEntry),
        faq=_entries(page.faq, QuestionEntry),
        links=_entries(page.links, LinkEntry),
        samples=_entry(page.samples, SamplesEntry),
        benchmarks=[_benchmark(table, served) for table in benchmark_tables(model.name)],
        related=_related(model, served),
    )


class Served:
    """The models that somebody offers here at the moment.

    Args:
        gateway: The gateway.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.entries = {entry.id: entry for entry in list_models(gateway)}
        self._models = gateway.registry.models

    def find(self, name: str | None) -> ModelEntry | None:
        """The one of that name."""
        model = None if name is None else self._models.find(name)
        return None if model is None else self.entries.get(model.name)


def _entry(one: object, shape: type[S]) -> S:
    return msgspec.convert(one, shape, from_attributes=True)


def _entries(many: Sequence[Any], shape: type[S]) -> list[S]:
    return [_entry(one, shape) for one in many]


def _languages(page: ModelPage) -> LanguagesEntry | None:
    languages = page.languages
    if languages == Languages():
        return None
    return LanguagesEntry(
        count=len(languages.natural),
        names=list(languages.natural),
        programming=list(languages.programming),
        note=languages.note,
    )


def _benchmark(table: BenchmarkTable, served: Served) -> BenchmarkEntry:
    rows = []
    for row in table.rows:
        entry = served.find(row.model)
        rows.append(
            BenchmarkRow(
                model=row.model,
                id=None if entry is None else entry.id,
                parameters=row.parameters,
                scores=dict(zip(table.measures, row.scores, strict=True)),
                is_this=row.is_this,
                note=row.note,
            )
        )
    return BenchmarkEntry(
        id=table.id, title=table.title, source=table.source, note=table.note, measures=list(table.measures), rows=rows
    )


def _related(model: GatewayModel, served: Served) -> list[RelatedEntry]:
    """The other half of its pair, then all that do the same."""
    pair = served.find(None if model.page is None else model.page.pair)
    same = [
        entry
        for entry in served.entries.values()
        if entry.kind == model.kind and entry.id != model.name and entry is not pair
    ]
    return [
        *([] if pair is None else [RelatedEntry(**asdict(pair), relation="pair")]),
        *(RelatedEntry(**asdict(entry), relation="kind") for entry in same),
    ]
