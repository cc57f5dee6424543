"""The models that a gateway sells: the family, the built-in pair, and what the operator adds.

    [[catalogue]]
    name = "openai/text-embedding-3-small"
    kind = "embedding"
    dimensions = 1536
    max_tokens = 8191

A model is one vector space. Its name is found in any letter case, by an alias, or by its last part where that belongs
to one model only.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from quernel.catalog.card import ModelCard, WrittenCard
from quernel.catalog.page import ModelPage
from quernel.errors import ModelNotFoundError, SettingsError
from quernel.gateway.counting import ByteCounter, PromptCounter, TokenCounter
from quernel.gateway.providers import checked
from quernel.types import MIN_DIMENSIONS, ModelKind

CREATORS: Mapping[str, str] = {"qwen": "alibaba"}
"""Owner on the hub to the name that Vercel's gateway has for it, under which its examples ask."""


class GatewayKind(StrEnum):
    """What a model does."""

    EMBEDDING = "embedding"
    RERANKER = "reranker"
    CHAT = "chat"
    """Answers in words. The gateway passes such requests through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model as the configuration has it.

    Attributes:
        name: Its name.
        kind: What it does.
        aliases: More names.
        dimensions: Length of its full vectors.
        min_dimensions: The shortest that its vectors may be cut to.
        max_tokens: The longest input that it reads.
        tokenizer: Folder with its `tokenizer.json`, if it is of the Qwen3 family: with it costs are exact.
        description: One sentence.
        license: SPDX identifier.
    """

    name: str
    kind: str
    aliases: tuple[str, ...] = ()
    dimensions: int | None = None
    min_dimensions: int | None = None
    max_tokens: int
    tokenizer: str | None = None
    description: str = ""
    license: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayModel:
    """A model that can be asked for.

    Attributes:
        name: Its name.
        kind: What it does.
        aliases: More names.
        dimensions: Length of its full vectors; `None` for others than embedding models.
        min_dimensions: The shortest that they may be cut to; that of all of them where they may not.
        max_tokens: The longest input that it reads.
        counter: Counts its tokens.
        card: Its facts, if it is one of the family or built in, or somebody wrote them down.
        description: One sentence.
    """

    name: str
    kind: GatewayKind
    aliases: tuple[str, ...] = ()
    dimensions: int | None = None
    min_dimensions: int | None = None
    max_tokens: int
    counter: TokenCounter
    card: ModelCard | WrittenCard | None = None
    description: str = ""

    @property
    def page(self) -> ModelPage | None:
        """What a visitor wants to know of it."""
        return None if self.card is None else self.card.page

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.rpartition("/")[2] if self.page is None else self.page.title

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, in small letters."""
        return tuple(dict.fromkeys(name.lower() for name in (self.name, *self.aliases)))

    @classmethod
    def of_card(cls, card: ModelCard, tokenizer: Path | None = None) -> "GatewayModel":
        """A model of the catalogue."""
        is_embedding = card.kind is ModelKind.EMBEDDING
        owner, _, rest = card.name.lower().partition("/")
        counter: TokenCounter
        if tokenizer is None:
            counter = ByteCounter(card.max_tokens)
        else:
            counter = PromptCounter.load(tokenizer, card.kind, card.max_tokens)
        return cls(
            name=card.name,
            kind=GatewayKind(card.kind.value),
            aliases=(f"{CREATORS[owner]}/{rest}",) if owner in CREATORS else (),
            dimensions=card.dimensions if is_embedding else None,
            min_dimensions=min(MIN_DIMENSIONS, card.dimensions) if is_embedding else None,
            max_tokens=card.max_tokens,
            counter=counter,
            card=card,
        )


def parse_entry(table: Mapping[str, Any], *, place: str) -> CatalogueEntry:
    """A model as the configuration has it.

    Raises:
        SettingsError: An unknown key, or a wrong value.
    """
    aliases = table.get("aliases", ())
    if not isinstance(aliases, list | tuple) or not all(isinstance(alias, str) for alias in aliases):
        raise SettingsError(f"{place}: aliases is {aliases!r}.", param="aliases", hint="Write a list of names.")
    entry = CatalogueEntry(**{**checked(table, CatalogueEntry, place=place), "aliases": tuple(aliases)})
    if entry.kind not in set(GatewayKind):
        raise SettingsError(f"{place}: kind is {entry.kind!r}.", param="kind", hint=f"One of {', '.join(GatewayKind)}.")
    if entry.kind == GatewayKind.EMBEDDING and entry.dimensions is None:
        raise SettingsError(f"{place}: dimensions is missing.", param="dimensions")
    return entry


def build_model(entry: CatalogueEntry, card: ModelCard | WrittenCard | None = None) -> GatewayModel:
    """The model that an entry describes.

    Args:
        entry: The entry.
        card: What else is known of it.

    Raises:
        SettingsError: Its tokenizer is not there, or entry and card name two licences.
    """
    card = card or WrittenCard(name=entry.name, license=entry.license)
    if entry.license is not None and card.license is None:
        card = replace(card, license=entry.license)
    if entry.license is not None and entry.license.lower() != (card.license or "").lower():
        raise SettingsError(
            f"{entry.name} is under {entry.license} in [[catalogue]] and under {card.license} in its card.",
            param="license",
            hint="Leave it out of [[catalogue]].",
        )
    counter: TokenCounter
    if entry.tokenizer is None or entry.kind == GatewayKind.CHAT:
        counter = ByteCounter(entry.max_tokens)
    else:
        counter = PromptCounter.load(Path(entry.tokenizer), ModelKind(entry.kind), entry.max_tokens)
    return GatewayModel(
        name=entry.name,
        kind=GatewayKind(entry.kind),
        aliases=entry.aliases,
        dimensions=entry.dimensions,
        min_dimensions=entry.min_dimensions or entry.dimensions,
        max_tokens=entry.max_tokens,
        counter=counter,
        card=card,
        description=entry.description,
    )


class Models:
    """Models by name.

    Args:
        models: In the order in which they are listed; the first of a kind is its default.

    Raises:
        SettingsError: Two have one name.
    """

    def __init__(self, models: Iterable[GatewayModel]) -> None:
        self._models = tuple(models)
        self._by_name: dict[str, GatewayModel] = {}
        for model in self._models:
            for name in model.names:
                if name in self._by_name:
                    raise SettingsError(f"Two models are called {name}.", param="catalogue")
                self._by_name[name] = model
        ends: dict[str, list[GatewayModel]] = {}
        for name, model in self._by_name.items():
            known = ends.setdefault(name.rpartition("/")[2], [])
            if model not in known:
                known.append(model)
        self._by_end = {end: known[0] for end, known in ends.items() if len(known) == 1}

    def __iter__(self) -> Iterator[GatewayModel]:
        return iter(self._models)

    def find(self, name: str) -> GatewayModel | None:
        """The model of that name."""
        wanted = name.lower()
        return self._by_name.get(wanted) or self._by_end.get(wanted)

    def of_kind(self, name: str, kind: GatewayKind) -> GatewayModel:
        """The model of that name, which must be of that kind.

        Raises:
            ModelNotFoundError: There is none, or it is of another kind.
        """
        model = self.find(name)
        if model is None:
            raise ModelNotFoundError(
                f"The model {name[:200]!r} is not served here.", param="model", hint="/v1/models lists those that are."
            )
        if model.kind is not kind:
            raise ModelNotFoundError(
                f"{model.name} is of kind {model.kind}, not {kind}.", param="model", hint="Send it to its own route."
            )
        return model
