"""`quernel verify`: a model on this machine against published values and against the reference."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quernel.cli.composition import LoadSettings, ModelChoice, open_model
from quernel.cli.options import Command, option, quiet_option
from quernel.cli.readers import STDIN, SUFFIXES, Selection, read_chunks, require_texts, resolve_format
from quernel.cli.requests import DEFAULT_CHUNK_SIZE, INPUT, OUTPUT, READABLE
from quernel.cli.settings import Settings, settings_options
from quernel.cli.talk import announce_terminal_input, say, table
from quernel.engine.config import EngineConfig
from quernel.errors import InvalidRequestError, SettingsError

if TYPE_CHECKING:
    from quernel.types import ModelInfo, Vectors
    from quernel.verification.checks import Check

SAMPLE_TEXTS = (
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other.\nIt gives weight to physical objects.",
    "北京是中国的首都。",
    "def area(radius):\n    return 3.14159 * radius**2  # πr²",
    "",
)
"""What is compared with the reference where nothing is published and no texts are given."""

TOLD = {"pass": "passed", "fail": "failed", "doubtful": "doubtful", "skipped": "skipped"}
"""The values of `quernel.verification.checks.Outcome`, and how the closing line says them."""

Ask = Callable[[Any, Sequence[str]], Coroutine[Any, Any, Any]]
Compare = Callable[..., "list[Check]"]

HEADER = ("RESULT", "CASE", "VALUE", "THERE", "HERE", "DIFFERENCE", "TOLERANCE", "REMARK")


@click.command(cls=Command, short_help="Check a model on this machine against published results.")
@click.argument("model")
@option(
    "--texts",
    section=INPUT,
    type=READABLE,
    help="Compare with transformers on these texts, one a line (or JSONL, CSV, Parquet by name); - is standard input. "
    "For a reranker the first is the query.",
)
@option(
    "--as",
    "published_as",
    section=INPUT,
    metavar="HUB_ID",
    help="The published model that a folder is a copy of, such as Qwen/Qwen3-Embedding-0.6B.",
)
@option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, one for each compared number.")
@quiet_option
@settings_options("load")
def command(
    *, model: str, texts: Path | None, published_as: str | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Check MODEL on this machine against published results.

    Everything that is published for one of the official checkpoints is computed again and compared, within what other
    programs differ by in the same type. With --texts, and for a model of which nothing is published, the same
    comparison is made with transformers. The exit code is 1 if anything differs by more.

    \b
    quernel verify Qwen/Qwen3-Embedding-0.6B
    quernel verify ./my-fine-tune --texts samples.txt
    """
    load = Settings(given).build("load", LoadSettings)
    choice = ModelChoice.parse(model, load)
    own_texts = _read_texts(texts) if texts is not None else ()

    from quernel.verification.reference import reference_name

    if own_texts:
        reference_name()  # What is missing shows before a model is loaded.
    with open_model(choice, EngineConfig()) as opened:
        info = opened.info
        published = find_published(info, published_as)
        if published is None:
            own_texts = own_texts or SAMPLE_TEXTS
            say(
                f"Nothing is published for {info.name}; comparing with {reference_name()}.{_suggest(info)}", quiet=quiet
            )
        ask, compare = KINDS[info.kind]
        checks = asyncio.run(_against_published(opened, published)) if published else []
        got = asyncio.run(ask(opened, own_texts)) if own_texts else None
    del opened  # Its memory is wanted for the reference.
    if got is not None:
        checks += compare(got, own_texts, _folder(choice), info)

    _print(checks, as_json=as_json)
    counts = Counter(str(check.outcome) for check in checks)
    told = ", ".join(f"{counts[outcome]} {word}" for outcome, word in TOLD.items() if counts[outcome])
    say(f"{told}: {info.name}, {info.dtype} on {info.device}", quiet=quiet)
    if counts["fail"] or not counts["pass"] + counts["doubtful"]:
        click.get_current_context().exit(1)


def find_published(info: "ModelInfo", declared: str | None) -> str | None:
    """The published checkpoint that a model is: by its own name, or as declared.

    Args:
        info: The model.
        declared: A hub id; `None` to go by the name.

    Raises:
        SettingsError: Nothing is published under the declared name, or that model has another kind or shape.
    """
    from quernel.catalog.catalog import load_official_cards
    from quernel.verification.golden import published_models

    if declared is None:
        return info.name if info.name in published_models() else None
    if declared not in published_models():
        raise SettingsError(
            f"Nothing is published for {declared!r}.", param="as", hint=f"One of {', '.join(published_models())}."
        )
    (card,) = (card for card in load_official_cards() if card.name == declared)
    if (card.kind, card.dimensions) != (info.kind, info.dimensions):
        raise SettingsError(
            f"{info.name} is no copy of {declared}: {info.kind}, {info.dimensions} dimensions, where that is "
            f"{card.kind}, {card.dimensions} dimensions.",
            param="as",
        )
    return declared


def _suggest(info: "ModelInfo") -> str:
    from quernel.catalog.catalog import load_official_cards

    for card in load_official_cards():
        if (card.kind, card.dimensions) == (info.kind, info.dimensions):
            return f" If it is a copy of {card.name}, add --as {card.name}."
    return ""


def _read_texts(path: Path) -> tuple[str, ...]:
    if path == STDIN:
        announce_terminal_input()
    file_format = resolve_format("auto", path, SUFFIXES, flag="--texts")
    chunks = read_chunks(path, file_format, Selection(), DEFAULT_CHUNK_SIZE)
    return tuple(chain.from_iterable(chunk.texts for chunk in require_texts(chunks, str(path))))


def _folder(choice: ModelChoice) -> Path:
    """Where the model's files are; they are on this machine already."""
    from quernel.model.files import locate

    load = choice.load
    assert choice.model is not None
    return locate(
        choice.model, revision=load.revision, cache_dir=load.cache_dir, token=load.token, offline=load.offline
    ).folder


async def _against_published(model: Any, published: str) -> "list[Check]":
    from quernel.types import ModelKind
    from quernel.verification.checks import check_embedding, check_reranker
    from quernel.verification.golden import load_golden

    check = check_embedding if model.info.kind is ModelKind.EMBEDDING else check_reranker
    return [row for case in load_golden() if case.model == published for row in await check(model, case)]


async def _embed(model: Any, texts: Sequence[str]) -> "Vectors":
    from quernel.prompts.templates import DEFAULT_INSTRUCTION
    from quernel.verification.checks import embed_texts

    return await embed_texts(model, texts, DEFAULT_INSTRUCTION)


def _compare_vectors(got: "Vectors", texts: Sequence[str], folder: Path, info: "ModelInfo") -> "list[Check]":
    from quernel.prompts.templates import DEFAULT_INSTRUCTION, QUERY_PROMPT
    from quernel.verification.checks import compare_vectors
    from quernel.verification.reference import reference_name, reference_vectors

    prompt = QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION)
    whole = [*texts, *(prompt + text for text in texts)]
    expected = reference_vectors(folder, whole, device=info.device, dtype=info.dtype)
    names = [f"text {number} as {role}" for role in ("document", "query") for number in range(1, len(texts) + 1)]
    return compare_vectors(names, got, expected, dtype=info.dtype, source=reference_name())


async def _rerank(model: Any, texts: Sequence[str]) -> list[float]:
    from quernel.prompts.templates import DEFAULT_INSTRUCTION
    from quernel.verification.checks import rerank_texts

    query, *documents = texts
    if not documents:
        raise InvalidRequestError(
            "There is one text, the query, and no document.", param="texts", hint="Give two or more."
        )
    return await rerank_texts(model, query, documents, DEFAULT_INSTRUCTION)


def _compare_logits(got: Sequence[float], texts: Sequence[str], folder: Path, info: "ModelInfo") -> "list[Check]":
    from quernel.prompts.templates import DEFAULT_INSTRUCTION
    from quernel.verification.checks import compare_logits, reads_as_token
    from quernel.verification.reference import added_tokens, reference_logits, reference_name

    query, *documents = texts
    expected = reference_logits(folder, query, documents, DEFAULT_INSTRUCTION, device=info.device, dtype=info.dtype)
    names = [f"text {number}" for number in range(2, len(texts) + 1)]
    checks = compare_logits(names, got, expected, dtype=info.dtype, source=reference_name())
    tokens = added_tokens(folder)
    return [
        reads_as_token(check) if any(token in query + document for token in tokens) else check
        for check, document in zip(checks, documents, strict=True)
    ]


KINDS: Mapping[str, tuple[Ask, Compare]] = {
    "embedding": (_embed, _compare_vectors),
    "reranker": (_rerank, _compare_logits),
}
"""Kind of a model to how it is asked about texts, and how the answer is compared with the reference."""


def _print(checks: "Sequence[Check]", *, as_json: bool) -> None:
    if as_json:
        import orjson

        for check in checks:
            click.echo(orjson.dumps(check))
        return
    rows = [
        (
            str(check.outcome),
            check.case,
            check.what,
            _number(check.expected, ".6f"),
            _number(check.got, ".6f"),
            _number(check.difference, ".1e"),
            _number(check.tolerance, ".1e"),
            check.why or "",
        )
        for check in checks
    ]
    click.echo(table(HEADER, rows, right=range(3, 7)))


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
