"""`quernel train`: a model from a recipe."""

import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import OUTPUT
from quernel.cli.talk import say
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from quernel.train.fit import Step
    from quernel.train.objectives import Teach
    from quernel.train.pair_settings import PairSettings

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

RECENT = 50
"""Steps over which the loss that is shown is averaged."""


@click.command(cls=Command, short_help="Train a model on your data.")
@click.argument("recipe", type=click.Path(path_type=Path))
@option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    section=OUTPUT,
    help="Folder for model, checkpoints and log.",
)
@option("--data", type=FOLDER, help="Folder that the recipe's paths are relative to.  [default: the recipe's own]")
@option("--keep-out", type=FOLDER, help="Folder of evaluation sets: rows that share text with them are left out.")
@option("--teacher", help="Whose vectors are learned from, in place of the recipe's.")
@option("--resume", is_flag=True, help="Go on where an earlier run of this recipe was ended, however it was.")
@option("--stage", "stages", multiple=True, help="Of a recipe that makes a pair: run this stage again, and no other.")
@option("--threads", type=click.IntRange(min=1), help="CPU threads to compute with.  [default: all cores]")
@quiet_option
def command(
    *,
    recipe: Path,
    output: Path,
    data: Path | None,
    keep_out: Path | None,
    teacher: str | None,
    resume: bool,
    stages: tuple[str, ...],
    threads: int | None,
    quiet: bool,
) -> None:
    """Train an embedding model or a reranker as RECIPE, a TOML file, says.

    The result is OUTPUT/model, a folder like the one it began with. A run that was ended, by Ctrl-C or in any other
    way, goes on with --resume from its last checkpoint, to the same numbers.

    A recipe of the kind "pair" makes an embedding model and a reranker from nothing; `builtin` is the one by which
    those in this package were made.

    \b
    quernel train recipe.toml -o runs/first
    quernel train recipe.toml -o runs/first --resume
    quernel train builtin --data DIR --keep-out DIR --teacher DIR -o runs/pair
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
        os.environ["RAYON_NUM_THREADS"] = str(threads)
    settings = read_pair(recipe)
    if settings is not None:
        from quernel.train.pair import STAGES, Workshop, make_pair

        if unknown := [stage for stage in stages if stage not in STAGES]:
            raise SettingsError(f"There is no stage {unknown[0]!r}.", param="stage", hint=f"Of {', '.join(STAGES)}.")
        shop = Workshop(
            settings=settings,
            data=data or recipe.parent,
            out=output,
            keep_out=keep_out,
            teacher=None if teacher is None else Path(teacher),
            say=lambda line: say(line, quiet=quiet),
            on_step=Progress(None, quiet=quiet),
        )
        folder = make_pair(shop, resume=resume, stages=stages)
        say(f"{folder} holds {'the pair' if not stages else 'what the stages left'}.", quiet=quiet)
        return
    if stages:
        raise SettingsError("--stage is for recipes that make a pair.", param="stage")
    train_one(recipe, output, data=data, keep_out=keep_out, teacher=teacher, resume=resume, quiet=quiet)


def read_pair(recipe: Path) -> "PairSettings | None":
    """The settings of a pair, where the recipe makes one."""
    from quernel.train.pair_settings import BUILTIN, KIND, PairSettings

    if str(recipe) == BUILTIN and not recipe.exists():
        return PairSettings.builtin()
    try:
        raw = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{recipe} cannot be read: {error}.", param="recipe", hint=f"Name a TOML file, or {BUILTIN!r}."
        ) from error
    return PairSettings.from_dict(raw) if raw.get("kind") == KIND else None


def train_one(
    recipe: Path,
    output: Path,
    *,
    data: Path | None,
    keep_out: Path | None,
    teacher: str | None,
    resume: bool,
    quiet: bool,
) -> None:
    """Train one model."""
    from quernel.train.fit import fit
    from quernel.train.recipe import Recipe

    loaded = Recipe.load(recipe, folder=data, keep_out=keep_out, teacher=teacher)
    with ExitStack() as stack:
        name = loaded.model.teacher
        teach = stack.enter_context(teacher_of(name)) if name else None
        on_step = Progress([stage.steps for stage in loaded.stages], quiet=quiet)
        model = fit(
            loaded, output, resume=resume, teach=teach, on_step=on_step, say=lambda line: say(line, quiet=quiet)
        )
    say(f"{model} is the model. Use it: -m {model}", quiet=quiet)


class Progress:
    """A bar on a terminal, else a line now and then.

    Args:
        steps: Of each stage, where they are known.
        quiet: Whether to say nothing.
    """

    def __init__(self, steps: Sequence[int] | None, *, quiet: bool) -> None:
        self._steps, self._quiet = steps, quiet
        self._hidden = quiet or not sys.stderr.isatty()
        self._bar: Any = None
        self._recent: list[float] = []

    def __call__(self, step: "Step") -> None:
        """Show a step."""
        from tqdm import tqdm

        self._recent.append(step.losses["loss"])
        del self._recent[:-RECENT]
        mean = sum(self._recent) / len(self._recent)
        if self._hidden:
            if step.step % RECENT == 0 or step.step == step.steps:
                place = f"stage {step.stage}, step {step.step} of {step.steps}"
                speed = f"{step.num_tokens / step.seconds:,.0f} tokens/s"
                say(f"{place}: loss {mean:.4f}, rate {step.rate:.2e}, {speed}", quiet=self._quiet)
            return
        if self._bar is None:
            self._bar = tqdm(unit=" steps", file=sys.stderr)
        before = sum(self._steps[: step.stage - 1]) if self._steps else 0
        self._bar.total = sum(self._steps) if self._steps else step.steps
        self._bar.n = before + step.step
        self._bar.set_postfix_str(f"loss {mean:.4f}, {step.num_tokens / step.seconds:,.0f} tokens/s")
        if self._bar.n == self._bar.total:
            self._bar.close()
            self._bar = None


@contextmanager
def teacher_of(name: str) -> "Iterator[Teach]":
    """Whose vectors are learned from: a file, or a model here or behind an address for as long as the context lasts."""
    from quernel.embedder import Embedder
    from quernel.evaluate.endpoints import RemoteEmbeddingModel, is_endpoint, split_endpoint
    from quernel.evaluate.run import Encoder
    from quernel.train.vectors import SUFFIX, KnownVectors
    from quernel.types import InputType, Vectors

    if name.endswith(SUFFIX):
        yield KnownVectors(Path(name))
        return
    opened = closing(RemoteEmbeddingModel(*split_endpoint(name))) if is_endpoint(name) else Embedder(name)
    with opened as model:
        encode = Encoder(model)

        def teach(texts: Sequence[str], input_type: InputType, instruction: str | None) -> Vectors:
            return encode(texts, input_type=input_type, instruction=instruction)

        yield teach
