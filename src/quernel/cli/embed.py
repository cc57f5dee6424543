"""`quernel embed`: texts from arguments, standard input or a file, to vectors."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from quernel.cli.composition import LoadSettings, open_embedder
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.readers import SUFFIXES as INPUT_SUFFIXES
from quernel.cli.readers import Selection, resolve_format
from quernel.cli.requests import OUTPUT, REQUEST, blaming, model_option, open_texts, reading_options, truncate_option
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import progress, say
from quernel.cli.writers import STDOUT, SUFFIXES, WRITERS, is_terminal, open_writer
from quernel.engine.config import EngineConfig
from quernel.errors import SettingsError

INPUT_TYPES = ("query", "document")
"""The values of `quernel.types.InputType`, spelled here so that `--help` need not import it (and with it numpy)."""


@click.command(cls=Command, short_help="Turn texts into vectors.")
@click.argument("texts", nargs=-1)
@model_option("quernel/tiny-embedding")
@reading_options("-i", "--input", texts="texts")
@option("--query", section=REQUEST, is_flag=True, help="The texts are queries: short for --input-type query.")
@option("--input-type", section=REQUEST, type=click.Choice(INPUT_TYPES), help="What the texts are.")
@option("--instruction", section=REQUEST, help="The task in one sentence, best in English; it goes on every text.")
@option("--prompt-name", section=REQUEST, help="A prompt that the model's files name.")
@option("--dimensions", section=REQUEST, type=int, help="Length of the vectors, from 32 up; by default all of it.")
@truncate_option
@option("--no-normalize", section=REQUEST, is_flag=True, help="Leave the vectors at their own length.")
@option(
    "-o",
    "--output",
    section=OUTPUT,
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default=STDOUT,
    help="Write to this file, which appears once it is whole; by default to standard output.",
)
@option(
    "--output-format",
    section=OUTPUT,
    type=click.Choice(["auto", *WRITERS]),
    default="auto",
    help="By default as the name of the output says, and JSONL on standard output.",
)
@option("--json", "as_json", section=OUTPUT, is_flag=True, help="Short for --output-format jsonl.")
@option(
    "--keep", section=OUTPUT, multiple=True, metavar="COLUMN", help="Carry this column of the input along; repeats."
)
@quiet_option
@settings_options("load", "engine")
def command(
    *,
    texts: tuple[str, ...],
    model: str | None,
    input: Path | None,
    format: str,
    column: str,
    batch_size: int,
    output: Path,
    output_format: str,
    as_json: bool,
    keep: tuple[str, ...],
    quiet: bool,
    query: bool,
    input_type: str | None,
    instruction: str | None,
    prompt_name: str | None,
    dimensions: int | None,
    truncate: str,
    no_normalize: bool,
    **given: Any,
) -> None:
    """Turn texts into vectors.

    TEXTS, or the texts of a file, or the lines of standard input, become one vector each, in their order. Without
    --query or --instruction they are taken as documents.

    \b
    quernel embed "Paris is the capital of France."
    quernel embed --query "capital of France" --dimensions 64
    quernel embed -i articles.jsonl --column body --keep id -o articles.parquet
    """
    if texts and input is not None:
        raise SettingsError("There are texts on the command line and an --input.", hint="Give one of the two.")
    if query and input_type == "document":
        raise SettingsError("--query contradicts --input-type document.", hint="Give one of the two.")
    if as_json and output_format not in ("auto", "jsonl"):
        raise SettingsError(f"--json contradicts --output-format {output_format}.", hint="Give one of the two.")
    settings = Settings(given)
    load, engine = settings.build("load", LoadSettings), settings.build("engine", EngineConfig)

    output_format = resolve_format("jsonl" if as_json else output_format, output, SUFFIXES, flag="--output-format")
    if keep and output_format == "npy":
        raise SettingsError("npy holds vectors only, no columns.", param="keep", hint="Write JSONL or Parquet.")
    if input is not None:
        format = resolve_format(format, input, INPUT_SUFFIXES, flag="--format")
    keeps_all = format == output_format == "parquet" and not keep
    selection = Selection(column, None if keeps_all else keep)

    from quernel.types import EmbeddingRequest, InputType, Truncate

    ask = partial(
        EmbeddingRequest,
        instruction=instruction,
        input_type=InputType.QUERY if query else InputType(input_type) if input_type else None,
        prompt_name=prompt_name,
        dimensions=dimensions,
        normalize=False if no_normalize else None,
        truncate=Truncate(truncate),
    )
    started = time.monotonic()
    num_texts = num_tokens = num_truncated = 0
    with ExitStack() as stack:
        # In this order, so that what is wrong with output or input is told before a model is loaded.
        writer = stack.enter_context(open_writer(output, output_format))
        source = open_texts(texts, input, format=format, selection=selection, size=batch_size)
        embedder = stack.enter_context(open_embedder(model, load, engine))
        advance = stack.enter_context(progress(quiet=quiet or is_terminal(output)))
        for chunk in source.chunks:
            with blaming(source.name, chunk):
                result = embedder.embed_sync(ask(inputs=chunk.texts))
            writer.write(chunk, result.vectors)
            advance(chunk)
            num_texts += len(chunk.texts)
            num_tokens += sum(result.num_tokens)
            num_truncated += sum(result.truncated)
    seconds = time.monotonic() - started
    cut = f", {num_truncated} of them cut" if num_truncated else ""
    say(f"{num_texts} texts{cut}, {num_tokens} tokens, {seconds:.1f} s, {result.model}", quiet=quiet)
