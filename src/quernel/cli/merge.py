"""`quernel merge`: several checkpoints into one, or an adapter into its model."""

import sys
from pathlib import Path

import click

from quernel.cli.options import Command, option, quiet_option
from quernel.cli.requests import OUTPUT
from quernel.cli.talk import say
from quernel.errors import SettingsError


@click.command(cls=Command, short_help="Merge checkpoints, or an adapter into its model.")
@click.argument("models", nargs=-1, required=True)
@option("-o", "--output", type=click.Path(path_type=Path), required=True, section=OUTPUT, help="The folder to make.")
@option(
    "--method",
    type=click.Choice(("slerp", "linear")),
    default="slerp",
    help="Along the arc between the weights, as the family was made, or their mean.  [default: slerp]",
)
@option("--weights", help="Of each model, as in 2,1.  [default: equal]")
@option("--adapter", type=click.Path(exists=True, file_okay=False, path_type=Path), help="LoRA adapter to merge.")
@quiet_option
def command(
    *,
    models: tuple[str, ...],
    output: Path,
    method: str,
    weights: str | None,
    adapter: Path | None,
    quiet: bool,
) -> None:
    """Write the merge of MODELS, which are of one shape, to the folder OUTPUT; or one model with its --adapter.

    \b
    quernel merge runs/a/model runs/b/model -o merged
    quernel merge Qwen/Qwen3-Embedding-0.6B --adapter runs/lora/adapter -o mine
    """
    from tqdm import tqdm

    from quernel.model.config import Qwen3Config
    from quernel.model.files import locate
    from quernel.train.merge import Method, merge_adapter, merge_checkpoints

    folders = [locate(model, check=Qwen3Config.load).source for model in models]
    with tqdm(unit=" tensors", file=sys.stderr, disable=quiet or not sys.stderr.isatty(), leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if adapter is not None:
            if len(folders) > 1:
                raise SettingsError(
                    f"--adapter belongs to one model, and there are {len(folders)}.",
                    param="adapter",
                    hint="Merge it first, then the models.",
                )
            merge_adapter(folders[0], adapter, output, report=report)
        else:
            merge_checkpoints(folders, output, weights=parse_weights(weights), method=Method(method), report=report)
    say(f"{output} is the model. Use it: -m {output}", quiet=quiet)


def parse_weights(text: str | None) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        SettingsError: Something else.
    """
    try:
        return tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"weights is {text!r}.", param="weights", hint="Write it like 2,1.") from error
