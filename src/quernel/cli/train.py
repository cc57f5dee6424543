"""`quernel train`: a model from a recipe."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import OUTPUT
from quernel.cli.talk import say

if TYPE_CHECKING:
    from quernel.train.fit import Step
    from quernel.train.objectives import Teach

RECENT = 50
"""Steps over which the loss that is shown is averaged."""


@click.command(cls=Command, short_help="Train a model on your data.")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    section=OUTPUT,
    help="Folder for model, checkpoints and log.",
)
@option("--resume", is_flag=True, help="Go on where an earlier run of this recipe was ended, however it was.")
@option("--threads", type=click.IntRange(min=1), help="CPU threads to compute with.  [default: all cores]")
@quiet_option
def command(*, recipe: Path, output: Path, resume: bool, threads: int | None, quiet: bool) -> None:
    """Train an embedding model or a reranker as RECIPE, a TOML file, says.

    The result is OUTPUT/model, a folder like the one it began with. A run that was ended, by Ctrl-C or in any other
    way, goes on with --resume from its last checkpoint, to the same numbers.

    \b
    quernel train recipe.toml -o runs/first
    quernel train recipe.toml -o runs/first --resume
    """
    import torch
    from tqdm import tqdm

    from quernel.train.fit import fit
    from quernel.train.recipe import Recipe

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = Recipe.load(recipe)
    hidden = quiet or not sys.stderr.isatty()
    with ExitStack() as stack:
        teach = stack.enter_context(teacher_of(loaded.model.teacher)) if loaded.model.teacher else None
        bar = stack.enter_context(tqdm(unit=" steps", file=sys.stderr, disable=hidden))
        recent: list[float] = []

        def on_step(step: "Step") -> None:
            recent.append(step.losses["loss"])
            del recent[:-RECENT]
            mean = sum(recent) / len(recent)
            bar.total = sum(stage.steps for stage in loaded.stages)
            bar.n = sum(stage.steps for stage in loaded.stages[: step.stage - 1]) + step.step
            bar.set_postfix_str(f"loss {mean:.4f}, {step.num_tokens / step.seconds:,.0f} tokens/s")
            if hidden and (step.step % RECENT == 0 or step.step == step.steps):
                place = f"stage {step.stage}, step {step.step} of {step.steps}"
                say(f"{place}: loss {mean:.4f}, rate {step.rate:.2e}", quiet=quiet)

        model = fit(
            loaded, output, resume=resume, teach=teach, on_step=on_step, say=lambda line: say(line, quiet=quiet)
        )
    say(f"{model} is the model. Use it: -m {model}", quiet=quiet)


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
