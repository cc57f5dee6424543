"""A training run as a TOML file says it: the model, the data, the loss, the stages; see `docs/guides/train.md`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from quernel.errors import SettingsError
from quernel.train.drawing import Form
from quernel.train.lora import LoraSettings
from quernel.train.objectives import EmbeddingLoss, RerankLoss
from quernel.train.settings import Table

DEFAULT_TOKENS_AT_ONCE = 8_192


@dataclass(frozen=True, kw_only=True)
class StartSettings(Table):
    """The model that a run begins with.

    Attributes:
        start: Hub id, folder or built-in name.
        dtype: What products are computed in: float32, bfloat16 or float16; weights are trained in float32.
        device: Where.
        max_tokens: Texts are cut to so many.
        max_characters: Texts are cut to so many as they are read, which saves the time of long ones; None for no limit.
        checkpointing: Whether layers are computed twice, for less memory.
        compile: Whether what stands between the products is compiled; needs a C++ compiler, and a minute at first.
        teacher: Whose vectors are learned from: a name as in `start`, `http://host:port#model`, or a file of vectors.
    """

    start: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    max_tokens: int = 512
    max_characters: int | None = None
    checkpointing: bool = False
    compile: bool = False
    teacher: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSettings(Table):
    """A file of rows.

    Attributes:
        path: JSONL, also gzipped, or Parquet; relative to the recipe.
        name: For reports; the file's by default.
        weight: Its share of the batches, next to the others'.
        instruction: Of rows that have none.
        bare: Share of the queries that carry no instruction, as documents do.
        generic: Share of the others that carry the model's default instruction and not their own.
        symmetric: Whether documents are of one kind with queries, and carry what their query carries.
        translation: Whether what a teacher says of the document holds for the query too.
        crops: Whether rows are two spans of one document, the shorter one the query; queries are not read then.
    """

    path: str
    name: str = ""
    weight: float = 1.0
    instruction: str | None = None
    bare: float = 0.0
    generic: float = 0.0
    symmetric: bool = False
    translation: bool = False
    crops: bool = False

    @property
    def form(self) -> Form:
        """How its rows are read."""
        return Form(
            bare=self.bare,
            generic=self.generic,
            symmetric=self.symmetric,
            translation=self.translation,
            crops=self.crops,
        )


@dataclass(frozen=True, kw_only=True)
class StageSettings(Table):
    """A stretch of training with one schedule.

    Attributes:
        steps: Optimiser steps.
        rate: Peak learning rate.
        rates: Other peak rates, by the beginning of a parameter's name; 0 keeps parameters as they are.
        keep_zeros: Whether weights that are exactly zero stay so: a model that was built and not drawn keeps its shape.
        batch: Rows in a step.
        sources: Sources that a step draws its rows from; several teach the model to tell kinds apart.
        warmup: Share of the steps over which the rate rises.
        floor: Share of the peak that is left at the end of the cosine.
        weight_decay: Of AdamW.
        clip: Longest gradient.
        tokens_at_once: Whose activations are held; a larger batch goes in parts and gives the same gradients.
        save_every: Steps between checkpoints.
        data: Names of the sources; all where empty.
        weights: Other weights of sources, by name.
        loss: Settings of the loss that are other than the run's.
        merge: How many of the stage's last checkpoints are merged into its end; 1 for the end itself.
        seed: Fixes batches and what is drawn in them.
    """

    steps: int
    rate: float
    rates: Mapping[str, float] = field(default_factory=dict)
    keep_zeros: bool = False
    batch: int = 64
    sources: int = 1
    warmup: float = 0.05
    floor: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    tokens_at_once: int = DEFAULT_TOKENS_AT_ONCE
    save_every: int = 500
    data: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    merge: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "sources", "tokens_at_once", "save_every", "merge"):
            if getattr(self, name) < 1:
                raise SettingsError(f"stages.{name} is {getattr(self, name)}.", param=name, hint="Set 1 or more.")
        if not self.rate > 0:
            raise SettingsError(f"stages.rate is {self.rate}.", param="rate", hint="Set more than 0.")
        for name, weight in self.weights.items():
            if not weight > 0:
                raise SettingsError(f"The weight of {name} is {weight}.", param="weights", hint="Set more than 0.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run.

    Attributes:
        folder: What paths are relative to.
        model: The model to begin with.
        data: The rows.
        stages: What is done, one after the other.
        loss: Settings of the loss, for all stages.
        lora: The adapter that is trained; None to train the model itself.
        keep_out: Folder of evaluation sets whose texts rows may not share; None to trust the data.
        raw: The file as it was read, which is part of what a run is.
    """

    folder: Path
    model: StartSettings
    data: tuple[DataSettings, ...]
    stages: tuple[StageSettings, ...]
    loss: Mapping[str, Any]
    lora: LoraSettings | None
    keep_out: Path | None
    raw: Mapping[str, Any]

    @classmethod
    def load(
        cls, path: Path, *, folder: Path | None = None, keep_out: Path | None = None, teacher: str | None = None
    ) -> "Recipe":
        """The run that a file describes.

        Args:
            path: The file.
            folder: What its paths are relative to; its own folder where None.
            keep_out: In place of the file's.
            teacher: In place of the file's.

        Raises:
            SettingsError: It cannot be read, or a key is missing, unknown or wrong.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}.", param="recipe") from error
        if keep_out is not None:
            raw["keep_out"] = str(keep_out.absolute())
        if teacher is not None:
            raw["model"] = {**raw.get("model", {}), "teacher": teacher}
        return cls.from_dict(raw, folder or path.parent)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], folder: Path) -> "Recipe":
        """The run that a parsed file describes. Errors as `load`."""
        known = {"model", "data", "stages", "loss", "lora", "keep_out"}
        if unknown := sorted(set(raw) - known):
            raise SettingsError(f"The recipe holds {unknown[0]}.", param=unknown[0], hint=f"Of {', '.join(known)}.")
        for name in ("model", "data", "stages"):
            if not raw.get(name):
                raise SettingsError(f"The recipe lacks [{name}].", param=name)
        lora = raw.get("lora")
        recipe = cls(
            folder=folder,
            model=StartSettings.read(raw["model"], "model"),
            data=tuple(DataSettings.read(one, "data") for one in raw["data"]),
            stages=tuple(StageSettings.read(one, "stages") for one in raw["stages"]),
            loss=raw.get("loss", {}),
            lora=None if lora is None else LoraSettings.read(lora, "lora"),
            keep_out=None if raw.get("keep_out") is None else folder / raw["keep_out"],
            raw=raw,
        )
        names = recipe.source_names
        for stage in recipe.stages:
            for key, named in (("data", stage.data), ("weights", stage.weights)):
                if unknown := [name for name in named if name not in names]:
                    raise SettingsError(
                        f"stages.{key} names {unknown[0]!r}.", param=key, hint=f"Of {', '.join(names)}."
                    )
        if len(set(names)) < len(names):
            raise SettingsError("Two sources have one name.", param="data", hint="Give each a name.")
        return recipe

    @property
    def source_names(self) -> list[str]:
        """The sources' names, in order."""
        return [source.name or Path(source.path).name.partition(".")[0] for source in self.data]

    def embedding_loss(self, stage: StageSettings) -> EmbeddingLoss:
        """The loss of a stage of an embedding model. Raises `SettingsError` for unknown keys."""
        return EmbeddingLoss.read({**self.loss, **stage.loss}, "loss")

    def rerank_loss(self, stage: StageSettings) -> RerankLoss:
        """The loss of a stage of a reranker. Raises `SettingsError` for unknown keys."""
        return RerankLoss.read({**self.loss, **stage.loss}, "loss")
