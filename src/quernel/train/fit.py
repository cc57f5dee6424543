"""A run from recipe to model: steps, checkpoints, logs; it can be killed anywhere and goes on to the same bits.

OUT/recipe.json            what is run
OUT/log.jsonl              a line for each step
OUT/tensorboard/           the same for TensorBoard, where it is installed
OUT/checkpoints/           weights and optimiser, the last few
OUT/adapter/               with [lora]: what PEFT reads
OUT/model/                 the result, a folder like the one it began with
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quernel.errors import InputTooLongError, SettingsError
from quernel.model.config import Qwen3Config
from quernel.model.dtypes import resolve_device
from quernel.model.files import locate
from quernel.model.gguf import load_raw_config
from quernel.model.heads import load_score_row
from quernel.model.qwen3 import Qwen3
from quernel.model.rewrite import rewrite
from quernel.model.side_files import load_side_files
from quernel.model.weights import PREFIX, Checkpoint, load_model
from quernel.prompts.embedding import EmbeddingPrompts
from quernel.prompts.reranking import RerankPrompts
from quernel.prompts.tokenizer import Tokenizer
from quernel.train.contamination import ContaminationFilter, read_evaluation_texts
from quernel.train.encode import Encoder
from quernel.train.examples import Example, JudgedPair, Passage, Row, read_examples
from quernel.train.lora import adapters_of, add_adapters, write_adapter
from quernel.train.merge import slerp_all
from quernel.train.mixture import Mixture, Source
from quernel.train.objectives import EmbeddingObjective, Objective, RerankObjective, Teach
from quernel.train.recipe import Recipe, StageSettings
from quernel.types import ModelKind, RerankRequest, Truncate

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did.

    Attributes:
        stage: Which stage, from 1.
        step: Which of its steps, from 1.
        steps: How many it has.
        source: Where the batch came from.
        losses: The parts of the loss; `loss` is the sum.
        rate: The learning rate.
        gradient: The gradients' length before it was clipped.
        num_tokens: Tokens of the batch.
        seconds: How long it took.
    """

    stage: int
    step: int
    steps: int
    source: str
    losses: Mapping[str, float]
    rate: float
    gradient: float
    num_tokens: int
    seconds: float


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Start:
    """The model that a run begins with.

    Attributes:
        name: Its name.
        folder: Its files.
        kind: What it is.
        encode: The model, its weights in float32.
        prompts: Its prompts.
        head: A reranker's head, `[C]`.
    """

    name: str
    folder: Path
    kind: ModelKind
    encode: Encoder
    prompts: EmbeddingPrompts | RerankPrompts
    head: Callable[[], Tensor]

    @property
    def model(self) -> Qwen3:
        """The model."""
        return self.encode.model


def fit(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    teach: Teach | None = None,
    on_step: OnStep = lambda step: None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run a recipe; the folder of the trained model.

    Args:
        recipe: What to do.
        out: Folder of everything that comes of it.
        resume: Go on where an earlier run of the same recipe was ended.
        teach: A teacher's vectors, where the loss asks for them.
        on_step: Told of each step.
        say: Told what happens besides.

    Raises:
        SettingsError: The recipe does not fit the model or the data, or `out` holds another run.
        ModelLoadError: The model cannot be found, read or used.
    """
    _claim(out, recipe, resume=resume)
    start = open_start(recipe)
    sources = read_sources(recipe, say=say)
    if isinstance(start.prompts, RerankPrompts):
        sources = [leave_room(source, start.prompts, say) for source in sources]
    if recipe.lora is not None:
        add_adapters(start.model, recipe.lora, seed=recipe.stages[0].seed)
    else:
        start.model.requires_grad_(True)
    trained = {name: one for name, one in start.model.named_parameters() if one.requires_grad}
    store = CheckpointStore(out / "checkpoints")
    log = Log(out)
    begun = store.latest() if resume else None
    if begun is not None:
        say(f"going on after step {begun.step} of stage {begun.stage}")
    first = begun.stage if begun else 1
    with closing(log):
        log.begin(begun)
        for number, stage in enumerate(recipe.stages[first - 1 :], first):
            chosen = [
                replace(source, weight=stage.weights.get(source.name, source.weight))
                for source in sources
                if not stage.data or source.name in stage.data
            ]
            objective = _objective(start, recipe, stage, teach)
            _check(chosen, start.kind)
            runner = StageRunner(number, stage, sources=chosen, trained=trained, objective=objective, store=store)
            for step in runner.run(begun if begun is not None and begun.stage == number else None):
                log.write(step)
                on_step(step)
            _merge_last(start.model, store, number, stage)
    return _write(start, recipe, out)


def open_start(recipe: Recipe) -> Start:
    """The model of a recipe, loaded to be trained.

    Raises:
        SettingsError: It is a GGUF file, or its kind is not known.
        ModelLoadError: It cannot be found, read or used.
    """
    settings = recipe.model
    files = locate(settings.start, check=Qwen3Config.load)
    if files.file:
        raise SettingsError(f"{settings.start} is a GGUF file.", param="start", hint="Train the original checkpoint.")
    raw = load_raw_config(files.source)
    config = Qwen3Config.from_dict(raw)
    side_files = load_side_files(files.source, config, raw)
    device = resolve_device(settings.device)
    model = load_model(files.source, config, dtype=torch.float32, device=device)
    for parameter in model.parameters():  # of their own, not a map of the file, and all of one type
        parameter.data = parameter.detach().float().clone()
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(settings.dtype)
    if dtype is None:
        raise SettingsError(f"model.dtype is {settings.dtype!r}.", param="dtype", hint="Of float32, bfloat16, float16.")
    encode = Encoder(model, dtype=dtype, checkpointing=settings.checkpointing, compiled=settings.compile)
    tokenizer = Tokenizer.load(files.source)
    max_tokens = min(settings.max_tokens, side_files.max_tokens or config.max_position_embeddings)
    if side_files.kind is None:
        raise SettingsError(
            f"The files of {files.name} do not say whether it embeds or reranks.",
            param="start",
            hint="Add modules.json, as the official models have it.",
        )
    if side_files.kind is ModelKind.EMBEDDING:
        prompts: EmbeddingPrompts | RerankPrompts = EmbeddingPrompts(
            tokenizer,
            max_tokens=max_tokens,
            prompts=side_files.prompts,
            default_prompt_name=side_files.default_prompt_name,
        )
        return Start(files.name, files.source, side_files.kind, encode, prompts, lambda: model.norm.weight)
    rerank_prompts = RerankPrompts(tokenizer, max_tokens=max_tokens, default_instruction=side_files.instruction)
    yes, no = side_files.answer_ids or rerank_prompts.answer_ids()
    own_head = "score.weight" in Checkpoint.open(files.source).tensors or not config.tie_word_embeddings
    frozen = load_score_row(files.source, config, yes, no).to(device)

    def head() -> Tensor:
        table = model.embed_tokens.weight
        return frozen if own_head else table[yes] - table[no]

    return Start(files.name, files.source, side_files.kind, encode, rerank_prompts, head)


def read_sources(recipe: Recipe, *, say: Callable[[str], None] = lambda line: None) -> list[Source[Row]]:
    """The rows of a recipe, without those that share text with its evaluation sets.

    Raises:
        SettingsError: A file cannot be read, or nothing of it is left.
    """
    held = None if recipe.keep_out is None else ContaminationFilter(read_evaluation_texts(recipe.keep_out))
    read: dict[Path, tuple[int, list[Row]]] = {}
    sources = []
    for name, settings in zip(recipe.source_names, recipe.data, strict=True):
        path = recipe.folder / settings.path
        if path not in read:
            rows = [cut_row(row, recipe.model.max_characters) for row in read_examples(path)]
            shared = [False] * len(rows) if held is None else held.which_rows_share([texts_of(row) for row in rows])
            read[path] = len(rows), [row for row, left_out in zip(rows, shared, strict=True) if not left_out]
        count, kept = read[path]
        if not kept:
            raise SettingsError(f"All rows of {name} share text with the evaluation sets.", param="keep_out")
        if settings.instruction is not None:
            kept = [
                row if isinstance(row, Passage) else replace(row, instruction=row.instruction or settings.instruction)
                for row in kept
            ]
        left_out = f", {count - len(kept):,} left out" if held is not None else ""
        say(f"{name}: {len(kept):,} rows{left_out}")
        sources.append(Source(name, kept, settings.weight, settings.form))
    return sources


def leave_room(source: Source[Row], prompts: RerankPrompts, say: Callable[[str], None]) -> Source[Row]:
    """A source without the rows whose query leaves a reranker no room for a document.

    Raises:
        SettingsError: No row is left.
    """

    def has_room(row: Row) -> bool:
        if not isinstance(row, Example):
            return True
        try:
            for instruction in {row.instruction, None}:
                request = RerankRequest(
                    query=row.query, documents=["."], instruction=instruction, truncate=Truncate.END
                )
                prompts.render(request)
        except InputTooLongError:
            return False
        return True

    kept = [row for row in source.rows if has_room(row)]
    if not kept:
        raise SettingsError(
            f"No query of {source.name} leaves room for a document.", param="max_tokens", hint="Set more in [model]."
        )
    if len(kept) < len(source.rows):
        say(f"{source.name}: {len(source.rows) - len(kept):,} left out, whose queries leave no room for a document")
    return replace(source, rows=kept)


def cut_row(row: Row, max_characters: int | None) -> Row:
    """A row whose texts have at most so many characters."""
    if max_characters is None:
        return row
    if isinstance(row, JudgedPair):
        return replace(row, first=row.first[:max_characters], second=row.second[:max_characters])
    if isinstance(row, Passage):
        return replace(row, text=row.text[:max_characters])
    positives, negatives = (tuple(text[:max_characters] for text in side) for side in (row.positives, row.negatives))
    return replace(row, query=row.query[:max_characters], positives=positives, negatives=negatives)


def texts_of(row: Row) -> tuple[str, ...]:
    """Every text of a row."""
    if isinstance(row, JudgedPair):
        return row.first, row.second
    if isinstance(row, Passage):
        return (row.text,)
    return row.query, *row.positives, *row.negatives


def _objective(start: Start, recipe: Recipe, stage: StageSettings, teach: Teach | None) -> Objective:
    if isinstance(start.prompts, EmbeddingPrompts):
        loss = recipe.embedding_loss(stage)
        width = start.model.config.hidden_size
        if unfit := [size for size in map(int, loss.dimensions) if not 1 <= size <= width]:
            raise SettingsError(f"loss.dimensions holds {unfit[0]}, but the model has {width}.", param="dimensions")
        return EmbeddingObjective(
            start.encode, start.prompts, loss, max_tokens_at_once=stage.tokens_at_once, teach=teach
        )
    return RerankObjective(
        start.encode,
        start.prompts,
        start.head,
        recipe.rerank_loss(stage),
        max_tokens_at_once=stage.tokens_at_once,
    )


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk.

    Attributes:
        path: Its file.
        stage: The stage that it is of, from 1.
        step: Steps of it that were done.
    """

    path: Path
    stage: int
    step: int

    def load(self) -> dict[str, Any]:
        """What was saved."""
        found: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        return found


class CheckpointStore:
    """Checkpoints of a run, each complete or not there.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[Saved]:
        """Those there are, the oldest first."""
        names = [(path, path.stem.split("-")) for path in self._folder.glob("stage-*-step-*.pt")]
        return sorted((Saved(path, int(p[1]), int(p[3])) for path, p in names), key=lambda s: (s.stage, s.step))

    def latest(self) -> Saved | None:
        """The last one."""
        return self.all()[-1] if self.all() else None

    def save(self, stage: int, step: int, state: Mapping[str, Any], *, keep: int) -> None:
        """Write one, and drop those before the last `keep` of its stage, and of stages before."""
        target = self._folder / f"stage-{stage:03d}-step-{step:08d}.pt"
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        own = [saved for saved in self.all() if saved.stage == stage]
        for saved in [*[one for one in self.all() if one.stage < stage], *own[:-keep]]:
            saved.path.unlink()


def _check(sources: Sequence[Source[Row]], kind: ModelKind) -> None:
    """See that a model of a kind can learn from some sources."""
    if kind is ModelKind.EMBEDDING:
        return
    rows = [row for source in sources for row in source.rows]
    examples = [row for row in rows if isinstance(row, Example)]
    if len(examples) < len(rows):
        raise SettingsError("A reranker learns from queries with documents alone.", param="data")
    if not all(row.negatives for row in examples):
        raise SettingsError(
            "A reranker learns from rows with negatives, and some have none.",
            param="data",
            hint="Find them with `quernel mine`.",
        )


class StageRunner:
    """The steps of a stage.

    Args:
        number: Which stage, from 1.
        stage: Its settings.
        sources: Its rows.
        trained: The parameters that the run trains.
        objective: What it minimises.
        store: Where checkpoints go.
    """

    def __init__(
        self,
        number: int,
        stage: StageSettings,
        *,
        sources: Sequence[Source[Row]],
        trained: Mapping[str, nn.Parameter],
        objective: Objective,
        store: CheckpointStore,
    ) -> None:
        self._number, self._stage, self._objective, self._store = number, stage, objective, store
        self._mixture = Mixture(
            sources, steps=stage.steps, batch_size=stage.batch, batches=stage.sources, seed=stage.seed
        )
        self._parameters, self._groups = trained, _groups(trained, stage)
        self._optimiser = torch.optim.AdamW([group for group, _ in self._groups], lr=stage.rate, fused=True)

    def run(self, begun: Saved | None) -> Iterator[Step]:
        """Do the steps that are left."""
        stage, done = self._stage, 0
        if begun is not None:
            state, done = begun.load(), begun.step
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(state["weights"][name])
            self._optimiser.load_state_dict(state["optimiser"])
        for step in range(done, stage.steps):
            started = time.perf_counter()
            batches, share = self._mixture[step], schedule(step, stage)
            for group, (_, peak) in zip(self._optimiser.param_groups, self._groups, strict=True):
                group["lr"] = peak * share
            self._optimiser.zero_grad(set_to_none=True)
            losses, num_tokens = self._objective(batches)
            if not math.isfinite(losses["loss"]):
                raise SettingsError(
                    f"The loss is {losses['loss']} at step {step + 1} of stage {self._number}.",
                    param="rate",
                    hint="Lower the rate, or compute in float32; checkpoints before it are whole.",
                )
            if stage.keep_zeros:
                for parameter in self._parameters.values():
                    if parameter.grad is not None:
                        parameter.grad.mul_(parameter != 0)
            gradient = nn.utils.clip_grad_norm_(self._parameters.values(), stage.clip)
            self._optimiser.step()
            if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
                self._save(step + 1)
            yield Step(
                stage=self._number,
                step=step + 1,
                steps=stage.steps,
                source=", ".join(batch.source for batch in batches),
                losses=losses,
                rate=stage.rate * share,
                gradient=float(gradient),
                num_tokens=num_tokens,
                seconds=time.perf_counter() - started,
            )

    def _save(self, step: int) -> None:
        weights = {name: parameter.detach().cpu() for name, parameter in self._parameters.items()}
        state = {"weights": weights, "optimiser": self._optimiser.state_dict()}
        self._store.save(self._number, step, state, keep=max(KEPT_CHECKPOINTS, self._stage.merge))


def _groups(parameters: Mapping[str, nn.Parameter], stage: StageSettings) -> list[tuple[dict[str, Any], float]]:
    """Parameters of one rate and decay, as the optimiser takes them, and their peak rate."""
    if unknown := [start for start in stage.rates if not any(name.startswith(start) for name in parameters)]:
        raise SettingsError(f"stages.rates names {unknown[0]!r}, as no parameter begins.", param="rates")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        # The longest beginning counts, so that a part may have another rate than the whole.
        matching = max((start for start in stage.rates if name.startswith(start)), key=len, default=None)
        rate = stage.rate if matching is None else stage.rates[matching]
        parameter.requires_grad_(rate > 0)
        groups.setdefault((rate, stage.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    groups = {key: held for key, held in groups.items() if key[0] > 0}
    return [({"params": held, "weight_decay": decay}, rate) for (rate, decay), held in groups.items()]


def schedule(step: int, stage: StageSettings) -> float:
    """The share of the peak rate at a step: a straight rise, then a cosine down to the floor."""
    rise = stage.warmup * stage.steps
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = (step - rise) / max(1.0, stage.steps - rise)
    return stage.floor + (1 - stage.floor) * (1 + math.cos(math.pi * progress)) / 2


def _merge_last(model: Qwen3, store: CheckpointStore, number: int, stage: StageSettings) -> None:
    """Put the slerp of the stage's last checkpoints into the model, which is at its end."""
    if stage.merge == 1:
        return
    saved = [one for one in store.all() if one.stage == number][-stage.merge :]
    states = [one.load()["weights"] for one in saved]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in states[0]:
                parameter.copy_(slerp_all([state[name] for state in states], [1.0] * len(states)))


class Log:
    """A line of JSON for each step, and TensorBoard where it is installed.

    Args:
        out: The run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._path, self._board_folder = out / "log.jsonl", out / "tensorboard"
        self._board: Any = None

    def begin(self, begun: Saved | None) -> None:
        """Open it; of an earlier run what is after the checkpoint is dropped, since it is done again."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if begun and self._path.exists() else []
        kept = [
            line
            for line in lines
            if begun and ((row := json.loads(line))["stage"], row["step"]) <= (begun.stage, begun.step)
        ]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._steps = len(kept)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(self._board_folder), purge_step=self._steps + 1)

    def write(self, step: Step) -> None:
        """Take a step down."""
        self._steps += 1
        row = {
            "stage": step.stage,
            "step": step.step,
            "source": step.source,
            **step.losses,
            "rate": step.rate,
            "gradient": step.gradient,
            "tokens": step.num_tokens,
            "seconds": round(step.seconds, 4),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in {**step.losses, "rate": step.rate, "gradient": step.gradient}.items():
                self._board.add_scalar(name, value, self._steps)

    def close(self) -> None:
        """Close it."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _claim(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the folder a run's, or see that it is this run's."""
    file = out / "recipe.json"
    said = json.dumps(recipe.raw, indent=2, sort_keys=True)
    if file.exists():
        if not resume:
            raise SettingsError(f"{out} holds a run.", param="output", hint="Go on with --resume, or name another.")
        if file.read_text(encoding="utf-8") != said:
            raise SettingsError(
                f"{out} holds a run of another recipe.",
                param="output",
                hint="Name another folder, or undo the changes.",
            )
        return
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} holds something else.", param="output", hint="Name a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(said, encoding="utf-8")


def _write(start: Start, recipe: Recipe, out: Path) -> Path:
    """Write the result."""
    target = out / "model"
    if target.exists():
        return target  # a run that was complete
    trained = {name: one.detach() for name, one in start.model.named_parameters()}
    for name, module in adapters_of(start.model).items():
        trained[f"{name}.weight"] = module.merged()
    partial = out / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    stored = Checkpoint.open(start.folder).tensors
    tied = start.model.config.tie_word_embeddings

    def parts(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        own = name.removeprefix(PREFIX)
        if own == "lm_head.weight" and tied:
            own = "embed_tokens.weight"
        new = trained.get(own)
        return {name: tensor if new is None else new.to(tensor.dtype).cpu().contiguous()}

    rewrite(start.folder, partial, parts)
    if recipe.lora is not None:
        prefix = PREFIX if any(one.name.startswith(PREFIX) for one in stored.values()) else ""
        write_adapter(out / "adapter", start.model, recipe.lora, base=start.name, prefix=prefix)
    partial.replace(target)
    return target
