"""The models that Quernel knows: the built-in pair and the six official checkpoints."""

import json
import tomllib
from importlib import resources
from pathlib import Path

from quernel.catalog.card import ModelCard, count_parameters
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
    files = (_package_folder() / "catalog" / "cards").glob("*.toml")
    found = [ModelCard.from_dict(tomllib.loads(file.read_text(encoding="utf-8"))) for file in files]
    return tuple(sorted(found, key=lambda card: (card.kind, card.num_parameters)))


def load_builtin_cards() -> tuple[ModelCard, ...]:
    """The models in this package. Their facts are read from their files, which a training run replaces."""
    folders = {name: _package_folder() / "builtin" / name.removeprefix("quernel/") for name in BUILTIN}
    return tuple(_builtin_card(name, folder) for name, folder in folders.items() if folder.is_dir())


def _package_folder() -> Path:
    return Path(str(resources.files("quernel")))


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
    )
