"""The models that Quernel knows: the built-in pair and the six official checkpoints."""

import json
from importlib import resources
from pathlib import Path

from quernel.catalog.card import ModelCard, WrittenCard, count_parameters
from quernel.catalog.tables import read_table
from quernel.types import ModelKind

BUILTIN: dict[str, ModelKind] = {
    "quernel/tiny-embedding": ModelKind.EMBEDDING,
    "quernel/tiny-reranker": ModelKind.RERANKER,
}


def load_cards() -> tuple[ModelCard, ...]:
    """All cards: the built-in models, then the official ones by kind and size."""
    return (*load_builtin_cards(), *load_official_cards())


def load_official_cards() -> tuple[ModelCard, ...]:
    """The six checkpoints of the Qwen team, by kind and size."""
    builtin = {_page_file(name) for name in BUILTIN}
    found = [read_table(file, ModelCard) for file in _cards_folder().glob("*.toml") if file not in builtin]
    return tuple(sorted(found, key=lambda card: (card.kind, card.num_parameters)))


def load_builtin_cards() -> tuple[ModelCard, ...]:
    """The models in this package. Their facts are read from their files, which a training run replaces."""
    return tuple(_builtin_card(name, builtin_folder(name)) for name in BUILTIN if builtin_folder(name).is_dir())


def builtin_folder(name: str) -> Path:
    """The folder of a built-in model."""
    return _package_folder() / "builtin" / name.removeprefix("quernel/")


def _package_folder() -> Path:
    return Path(str(resources.files("quernel")))


def _cards_folder() -> Path:
    return _package_folder() / "catalog" / "cards"


def _page_file(name: str) -> Path:
    return _cards_folder() / f"{name.removeprefix('quernel/')}.toml"


def _builtin_card(name: str, folder: Path) -> ModelCard:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return ModelCard(
        name=name,
        kind=BUILTIN[name],
        num_parameters=count_parameters(config, head_is_stored=not config["tie_word_embeddings"]),
        num_layers=config["num_hidden_layers"],
        dimensions=config["hidden_size"],
        max_tokens=config["max_position_embeddings"],
        weights_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        license="Apache-2.0",
        revision=None,
        source="built in",
        page=read_table(_page_file(name), WrittenCard).page,
    )
