"""The facts of a model as a page lists them: names and values, in the order in which they are read."""

from dataclasses import dataclass

from quernel.catalog.card import ModelCard, WrittenCard
from quernel.types import MIN_DIMENSIONS, ModelKind

TASKS = {"embedding": "Text embedding", "reranker": "Text reranking", "chat": "Text generation"}
"""Kind of a model to what it is called on a page."""

FEW = 5
"""Languages that are named; more are counted."""

SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1, "bytes"))


@dataclass(frozen=True, slots=True)
class Spec:
    """A fact.

    Attributes:
        name: What it is.
        value: What it is like, for people.
    """

    name: str
    value: str


def card_specs(card: ModelCard) -> tuple[Spec, ...]:
    """The facts of a model of the family."""
    dimensions = card.dimensions if card.kind is ModelKind.EMBEDDING else None
    return build_specs(
        card,
        kind=card.kind,
        max_tokens=card.max_tokens,
        dimensions=dimensions,
        min_dimensions=None if dimensions is None else min(MIN_DIMENSIONS, dimensions),
    )


def build_specs(
    card: ModelCard | WrittenCard | None,
    *,
    kind: str,
    max_tokens: int,
    dimensions: int | None,
    min_dimensions: int | None,
) -> tuple[Spec, ...]:
    """The facts of a model; what nobody has written down is left out.

    Args:
        card: What is written of it.
        kind: `embedding`, `reranker` or `chat`.
        max_tokens: The longest input that it reads.
        dimensions: Length of its full vectors.
        min_dimensions: The shortest that they may be cut to.
    """
    card = card or WrittenCard(name="")
    languages = () if card.page is None else card.page.languages.natural
    facts = {
        "Task": TASKS[kind],
        "Architecture": None if card.page is None else card.page.architecture,
        "Parameters": None if card.num_parameters is None else f"{card.num_parameters:,}",
        "Layers": None if card.num_layers is None else f"{card.num_layers}",
        "Context": f"{max_tokens:,} tokens",
        "Dimensions": _dimensions(dimensions, min_dimensions),
        "Weights": None if card.weights_bytes is None else _size(card.weights_bytes),
        "Languages": ", ".join(languages) if len(languages) <= FEW else f"{len(languages)}",
        "Licence": card.license,
        "Revision": card.revision,
    }
    return tuple(Spec(name, value) for name, value in facts.items() if value)


def _dimensions(full: int | None, shortest: int | None) -> str | None:
    if full is None or shortest is None or shortest == full:
        return None if full is None else f"{full:,}"
    return f"{full:,}, or any number from {shortest:,} up (MRL)"


def _size(num_bytes: int) -> str:
    unit, name = next((unit, name) for unit, name in SIZES if num_bytes >= unit)
    return f"{num_bytes / unit:.3g} {name}"
