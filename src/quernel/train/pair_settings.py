"""The settings of a pair that is made from nothing: what `builtin.toml` holds."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from quernel.errors import SettingsError
from quernel.train.settings import Table

BUILTIN = "builtin"
"""The name of the recipe that the shipped pair was made by."""

KIND = "pair"


@dataclass(frozen=True, kw_only=True)
class ShapeSettings(Table):
    """Numbers of a model's `config.json`, but for its layers."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(Table):
    """How often each source is drawn from, in any positive numbers, and how its rows are read; see `drawing.Form`.

    Attributes:
        retrieval: Sources whose queries ask and whose documents answer.
        symmetric: Sources whose two sides are of one kind.
        translation: Sources of translations, the positive the side that the teacher reads.
        crops: Sources whose documents are cut into pairs of spans.
        judged: Sources of judged pairs.
        passages: Sources of texts alone, for the teacher's vectors.
        bare: Share of the queries of `retrieval` and `crops` without an instruction.
        generic: Share of the others that carry the default instruction.
        symmetric_bare: Share of the rows of `symmetric` and `translation` without an instruction.
    """

    retrieval: Mapping[str, float]
    symmetric: Mapping[str, float]
    translation: Mapping[str, float]
    crops: Mapping[str, float]
    judged: Mapping[str, float]
    passages: Mapping[str, float]
    bare: float
    generic: float
    symmetric_bare: float


@dataclass(frozen=True, kw_only=True)
class TextSettings(Table):
    """How much text is read.

    Attributes:
        max_characters: Texts are cut to so many.
        vocabulary_characters: The vocabulary is counted in so many.
        simplified: New sources, each the rows of a source of traditional Chinese in simplified characters.
    """

    max_characters: int
    vocabulary_characters: int
    simplified: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(Table):
    """What is asked of the teacher.

    Attributes:
        smoothing: Of the token weights that the table starts with.
        flatten: How far the directions of its vectors are made equally large.
        max_tokens: Of the teacher's, to which a text is cut.
        texts: Texts that get a vector, in the order of their importance: source, side, at most so many (0 for all).
    """

    smoothing: float
    flatten: float
    max_tokens: int
    texts: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, kw_only=True)
class TableRun(Table):
    """One run of the table's training; see `trainer.Schedule` and `trainer.TableWeights`."""

    steps: int
    rate: float
    table_rate: float
    blocks: int
    pairs: int
    max_document_tokens: int
    temperatures: tuple[float, float]
    crops: float
    seed: int
    only: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableSettings(Table):
    """How the token table is trained: a first run, then runs from its end that are averaged.

    Attributes:
        dimensions: Lengths to which vectors are cut, with the weight of each.
        margin: Negatives that pass their positive by more are left out.
        distillation: Weight of the teacher's vectors.
        taught: Texts with a teacher's vector in a step.
        similarity: Weight of judged pairs.
        judged: Judged pairs in a step.
        sharpness: What the first run's scores are multiplied by before the others.
        runs: The runs.
    """

    dimensions: Mapping[str, float]
    margin: float
    distillation: float
    taught: int
    similarity: float
    judged: int
    sharpness: float
    runs: tuple[TableRun, ...]


@dataclass(frozen=True, kw_only=True)
class LayersSettings(Table):
    """How layers below the pooling layer are trained, by `quernel train`'s own recipe.

    Attributes:
        count: How many are inserted; with 0 the table is the model.
        seed: Fixes their start.
        model: The recipe's `[model]`.
        loss: The recipe's `[loss]`.
        stages: The recipe's `[[stages]]`.
    """

    count: int
    seed: int
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    stages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class MinedSettings(Table):
    """The rows that the reranker learns from: negatives that the embedding model finds.

    Attributes:
        rows: Of a source, at most.
        candidates: Documents of a source among which negatives are looked for, at most.
        count: Negatives of a row.
        first: So many of the nearest are passed over.
        last: None beyond so many is taken.
        share: One above this share of the positive's cosine is left out.
        without: Sources that are left out.
    """

    rows: int
    candidates: int
    count: int
    first: int
    last: int
    share: float
    without: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RerankerSettings(Table):
    """How the reranker is made.

    Attributes:
        seed: Fixes its start.
        strengths: How its start weighs its parts; see `interaction.Strengths`.
        mined: Its rows.
        model: The recipe's `[model]`.
        loss: The recipe's `[loss]`.
        stages: The recipe's `[[stages]]`.
    """

    seed: int
    strengths: Mapping[str, float]
    mined: MinedSettings
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    stages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The whole file.

    Attributes:
        shape: Of the embedding model.
        text: How much is read.
        mixture: What is drawn how often.
        teacher: What is asked of the teacher.
        table: The token table.
        layers: The layers.
        reranker: The reranker.
    """

    shape: ShapeSettings
    text: TextSettings
    mixture: MixtureSettings
    teacher: TeacherSettings
    table: TableSettings
    layers: LayersSettings
    reranker: RerankerSettings

    @classmethod
    def builtin(cls) -> "PairSettings":
        """What the shipped pair was made by."""
        return cls.from_dict(tomllib.loads((files("quernel.train") / "builtin.toml").read_text(encoding="utf-8")))

    @classmethod
    def load(cls, path: Path) -> "PairSettings":
        """The settings in a file.

        Raises:
            SettingsError: It cannot be read, or a key is missing or unknown.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}.", param="recipe") from error
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "PairSettings":
        """The settings in a parsed file. Raises `SettingsError` for a missing or unknown key."""
        try:
            table, reranker = raw["table"], raw["reranker"]
            runs = tuple(TableRun.read(run, "table.runs") for run in table["runs"])
            mined = MinedSettings.read(reranker["mined"], "reranker.mined")
            return cls(
                shape=ShapeSettings.read(raw["shape"], "shape"),
                text=TextSettings.read(raw["text"], "text"),
                mixture=MixtureSettings.read(raw["mixture"], "mixture"),
                teacher=TeacherSettings.read(raw["teacher"], "teacher"),
                table=TableSettings.read({**table, "runs": runs}, "table"),
                layers=LayersSettings.read(raw["layers"], "layers"),
                reranker=RerankerSettings.read({**reranker, "mined": mined}, "reranker"),
            )
        except KeyError as error:
            raise SettingsError(f"The recipe lacks [{error.args[0]}].", param=str(error.args[0])) from error
