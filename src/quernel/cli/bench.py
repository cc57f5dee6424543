"""`quernel bench`: how fast a model is on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import LoadSettings, ModelChoice, open_model
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.readers import SUFFIXES, Selection, read_chunks, require_texts, resolve_format
from quernel.cli.requests import DEFAULT_CHUNK_SIZE, INPUT, OUTPUT, READABLE
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import say, table
from quernel.engine.config import EngineConfig

if TYPE_CHECKING:
    from quernel.benchmarking import Measurement

WORKLOADS = ("queries", "passages", "mix", "long", "rerank")
"""The names in `quernel.benchmarking.WORKLOADS`, spelled here so that `--help` need not import torch."""

HEADER = ("WORKLOAD", "TEXTS/S", "TOKENS/S", "OF CEILING", "ONE TEXT P50", "P99", "PEAK MEMORY")


@click.command(cls=Command, short_help="Measure how fast a model is on this machine.")
@click.argument("model")
@option(
    "-w",
    "--workload",
    "workloads",
    section=INPUT,
    type=click.Choice(WORKLOADS),
    multiple=True,
    help="Made-up requests to send; repeats. By default all that suit the model.",
)
@option(
    "--texts",
    section=INPUT,
    type=READABLE,
    help="Measure these texts instead, one a line (or JSONL, CSV, Parquet by name). For a reranker the first is the "
    "query.",
)
@option("--repetitions", section=INPUT, type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each.")
@option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, one for each workload.")
@quiet_option
@settings_options("load", "engine")
def command(
    *,
    model: str,
    workloads: tuple[str, ...],
    texts: Path | None,
    repetitions: int,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Measure how fast MODEL is on this machine.

    Rates are those of the median repetition. OF CEILING compares them with the matrix products alone, in the same type
    and measured in the same run: 80 % means that a fifth of the time goes elsewhere, more than 100 % that what is left
    out (shared prefixes, most of the last layer) saves more than that. ONE TEXT is the wait for a single text (or one
    document) on an idle engine.

    \b
    quernel bench quernel/tiny-embedding
    quernel bench Qwen/Qwen3-Reranker-0.6B --dtype float32
    """
    settings = Settings(given)
    choice = ModelChoice.parse(model, settings.build("load", LoadSettings))
    engine = settings.build("engine", EngineConfig)
    own = _read_texts(texts) if texts is not None else None

    from quernel.benchmarking import Benchmark

    with open_model(choice, engine) as opened:
        say(f"{opened.info.name}: {opened.budget}", quiet=quiet)
        benchmark = Benchmark(
            opened, opened.config, repetitions=repetitions, report=lambda line: say(line, quiet=quiet)
        )
        names = [str(texts)] if own is not None else list(workloads) or benchmark.workloads()
        measured = [benchmark.run(name, own) for name in names]
        info = opened.info
    _print(measured, as_json=as_json)
    say(f"{info.name}, {info.dtype} on {info.device}", quiet=quiet)


def _read_texts(path: Path) -> list[str]:
    format = resolve_format("auto", path, SUFFIXES, flag="--texts")
    chunks = require_texts(read_chunks(path, format, Selection(), DEFAULT_CHUNK_SIZE), str(path))
    return [text for chunk in chunks for text in chunk.texts]


def _print(measured: "list[Measurement]", *, as_json: bool) -> None:
    if as_json:
        import orjson

        for one in measured:
            rates = {
                "texts_per_second": one.texts_per_second,
                "tokens_per_second": one.tokens_per_second,
                "share_of_ceiling": one.share_of_ceiling,
                "single_p50_seconds": one.wait(0.5),
                "single_p99_seconds": one.wait(0.99),
            }
            click.echo(orjson.dumps(asdict(one) | rates))
        return
    rows = [
        (
            one.workload,
            f"{one.texts_per_second:,.1f}",
            f"{one.tokens_per_second:,.0f}",
            f"{one.share_of_ceiling:.0%}",
            f"{one.wait(0.5) * 1000:,.1f} ms",
            f"{one.wait(0.99) * 1000:,.1f} ms",
            f"{one.peak_bytes / 2**20:,.0f} MiB",
        )
        for one in measured
    ]
    click.echo(table(HEADER, rows, right=(1, 2, 3, 4, 5, 6)))
