"""Tables of TOML files as dataclasses, and the settings of the built-in pair's making."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from quernel.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the file; its keys are the fields."""

    @classmethod
    def read(cls, raw: Mapping[str, Any], where: str) -> Self:
        """The table under that name.

        Raises:
            SettingsError: A key is missing or unknown.
        """
        known = {field.name: field for field in fields(cls)}
        if unknown := sorted(set(raw) - set(known)):
            raise SettingsError(f"[{where}] holds {unknown[0]}.", param=unknown[0], hint=f"Of {', '.join(known)}.")
        required = [name for name, field in known.items() if field.default is field.default_factory is MISSING]
        if missing := [name for name in required if name not in raw]:
            raise SettingsError(f"[{where}] lacks {missing[0]}.", param=missing[0])
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Table):
    """Numbers of the embedding model's `config.json`; layers are counted elsewhere."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Table):
    """How much text is read."""

    max_characters: int
    vocabulary_characters: int


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(Table):
    """Which texts get a teacher's vector, and how its token vectors start the table."""

    smoothing: float
    flatten: float
    max_seconds: float
    texts: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings(Table):
    """What the embedding objective weighs; see `trainer.EmbeddingWeights`."""

    dimensions: Mapping[str, float]
    margin: float
    distillation: float
    taught: int
    similarity: float
    judged: int


@dataclass(frozen=True, kw_only=True)
class RunSettings(Table):
    """One run of the embedding objective."""

    steps: int
    rate: float
    table_rate: float
    blocks: int
    pairs: int
    max_document_tokens: int
    temperatures: tuple[float, float]
    crops: float
    seed: int
    layers: int = 0
    only: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NarrowSettings(Table):
    """The run that makes the reranker's bag."""

    steps: int
    rate: float
    blocks: int
    pairs: int
    max_document_tokens: int
    crops: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class RerankerSettings(Table):
    """The run that trains the reranker."""

    steps: int
    rate: float
    frozen: tuple[str, ...]
    queries: int
    negatives: int
    pool: int
    anchor: float
    max_document_tokens: int
    seed: int
    without: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BuiltinSettings:
    """The whole file.

    Attributes:
        model: The embedding model.
        corpus: Text.
        retrieval: Share of each source whose queries ask.
        symmetric: Share of each source whose sides are of one kind.
        teacher: The teacher.
        objective: The embedding objective.
        sharpness: What the first bag run's scores are multiplied by before the others.
        bag: The bag runs: the first from the start, the others from the first, averaged.
        grow: The transformer run; it is left out where it has no layers.
        narrow: The narrow bag's run.
        reranker: The reranker's run.
    """

    model: ModelSettings
    corpus: CorpusSettings
    retrieval: Mapping[str, float]
    symmetric: Mapping[str, float]
    teacher: TeacherSettings
    objective: ObjectiveSettings
    sharpness: float
    bag: tuple[RunSettings, ...]
    grow: RunSettings
    narrow: NarrowSettings
    reranker: RerankerSettings

    @classmethod
    def load(cls, path: Path | None = None) -> "BuiltinSettings":
        """The settings in a file; those of the shipped edition where there is none.

        Raises:
            SettingsError: A key is missing or unknown.
        """
        text = (files("quernel.train") / "builtin.toml").read_text() if path is None else path.read_text()
        return cls.from_dict(tomllib.loads(text))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "BuiltinSettings":
        """The settings in a parsed file. Raises `SettingsError` as `load` does."""
        try:
            return cls(
                model=ModelSettings.read(raw["model"], "model"),
                corpus=CorpusSettings.read(raw["corpus"], "corpus"),
                retrieval=raw["mixture"]["retrieval"],
                symmetric=raw["mixture"]["symmetric"],
                teacher=TeacherSettings.read(raw["teacher"], "teacher"),
                objective=ObjectiveSettings.read(raw["objective"], "objective"),
                sharpness=raw["bag"]["sharpness"],
                bag=tuple(RunSettings.read(run, "bag.runs") for run in raw["bag"]["runs"]),
                grow=RunSettings.read(raw["grow"], "grow"),
                narrow=NarrowSettings.read(raw["narrow"], "narrow"),
                reranker=RerankerSettings.read(raw["reranker"], "reranker"),
            )
        except KeyError as error:
            raise SettingsError(f"The settings lack [{error.args[0]}].", param=str(error.args[0])) from error
