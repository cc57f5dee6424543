"""The scores that a model's page shows: as published for the official models, as measured for the built-in pair.

What was measured stands in the model's own README, which a training run replaces with the model; it is read from there.
Scores are in percent.

Source: `published.json` names the paper and README of its tables; `benchmarks/builtin_quality.py` prints the others.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from quernel.catalog.catalog import BUILTIN, builtin_folder
from quernel.catalog.published import NOT_SCORES, PREFIX, published_tables

TITLES: Mapping[str, str] = {
    "mean_task": "Mean of tasks",
    "mean_type": "Mean of types",
    "BitextMining": "Bitext mining",
    "InstructionRetrieval": "Instruction retrieval",
    "MultilabelClassification": "Multilabel classification",
    "PairClassification": "Pair classification",
    "MTEB-R": "English (MTEB-R)",
    "CMTEB-R": "Chinese (CMTEB-R)",
    "MMTEB-R": "Multilingual (MMTEB-R)",
    "MLDR": "Long documents (MLDR)",
    "MTEB-Code": "Code (MTEB-Code)",
    "FollowIR": "Instructions (FollowIR)",
    "eng_v2_mean_task": "English, mean of tasks",
    "eng_v2_mean_type": "English, mean of types",
    "cmteb_mean_task": "Chinese, mean of tasks",
    "cmteb_mean_type": "Chinese, mean of types",
    "code_mean_task": "Code, mean of tasks",
}
"""Column of a published table to its heading; the others are the names of tasks and stay as they are."""

NO_COLUMNS = NOT_SCORES | {"dimension", "code_source"}

REPOSITORY, PAPER = "QwenLM/Qwen3-Embedding", "arXiv 2506.05176"

SECTION = re.compile(r"^## How good it is\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^\*\*(?P<title>.+)\*\*\n\n(?P<lines>(?:\|.*\|\n)+)", re.MULTILINE)
CELL = re.compile(r"(?P<score>\d+(?:\.\d+)?)(?: \(.*\))?")
"""A score, perhaps with its interval."""
SETS, QUERIES, MODELS = "set", "queries", "model"
"""Columns of a measured table that are no scores: what was searched, with how many queries, and by what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow:
    """The scores of one model.

    Attributes:
        model: As the table calls it.
        parameters: As the table has them, such as `0.6B`.
        scores: In the order of the table's measures; `None` where there is none.
        is_this: Whether it is the model whose page it is.
        note: What is to be known of the row.
    """

    model: str
    parameters: str | None = None
    scores: tuple[float | None, ...]
    is_this: bool
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkTable:
    """Models compared by some measures.

    Attributes:
        id: Its name.
        title: What was measured.
        source: Where the numbers are from.
        note: What is to be known of them.
        measures: What the columns are.
        rows: The models.
    """

    id: str
    title: str
    source: str
    note: str | None = None
    measures: tuple[str, ...]
    rows: tuple[BenchmarkRow, ...]


@cache
def benchmark_tables(model: str) -> tuple[BenchmarkTable, ...]:
    """The tables that name a model of the catalogue, by its full name; none where there are no numbers."""
    if model in BUILTIN:
        readme = builtin_folder(model) / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        return tuple(parse_measured(text, model.rpartition("/")[2]))
    name = model.removeprefix(PREFIX)
    tables = (table for table in published_tables() if any(row.get("model") == name for row in table["rows"]))
    return tuple(_published(table, name) for table in tables)


def _published(table: Mapping[str, Any], name: str) -> BenchmarkTable:
    columns = tuple(dict.fromkeys(key for row in table["rows"] for key in row if key not in NO_COLUMNS))
    source, title = table["source"], table["benchmark"]
    return BenchmarkTable(
        id=table["id"],
        title=title[:1].upper() + title[1:],
        source=f"{REPOSITORY} {source} of {PAPER}" if source.startswith("README") else source,
        note=table.get("note"),
        measures=tuple(TITLES.get(column, column) for column in columns),
        rows=tuple(
            BenchmarkRow(
                model=row["model"],
                parameters=row.get("params"),
                scores=tuple(row.get(column) for column in columns),
                is_this=row["model"] == name,
                note=row.get("role") or row.get("code_source"),
            )
            for row in table["rows"]
        ),
    )


def parse_measured(readme: str, name: str) -> Iterator[BenchmarkTable]:
    """The tables of a built-in model's README.

    There a line is a data set and a column is a way to search it, or a line is a model, or there is one line for the
    model alone. Columns of differences, which have a sign, are left out.

    Args:
        readme: The text.
        name: What the model is called there.
    """
    section = SECTION.search(readme)
    if section is None:
        return
    note = " ".join(section["text"].strip().partition("\n\n")[0].split())
    for number, table in enumerate(TABLE.finditer(section["text"])):
        header, _, *lines = (_cells(line) for line in table["lines"].splitlines())
        if header[0] == SETS:
            measures = [line[0] for line in lines]
            columns = [(heading, [line[place] for line in lines]) for place, heading in enumerate(header)]
        elif header[0] == MODELS:
            measures, columns = header[1:], [(line[0], line[1:]) for line in lines]
        else:
            measures, columns = header, [(name, lines[0])]
        scored = [
            (heading, [_score(cell) for cell in cells])
            for heading, cells in columns
            if heading not in (SETS, QUERIES) and not any(cell.startswith(("+", "-")) for cell in cells)
        ]
        yield BenchmarkTable(
            id=f"{name}-{number + 1}",
            title=table["title"],
            source="README of the model, section How good it is",
            note=note,
            measures=tuple(measures),
            rows=tuple(
                BenchmarkRow(
                    model=f"{heading} dimensions" if heading.isdecimal() else heading,
                    scores=tuple(scores),
                    is_this=heading.removeprefix("+ ") == name,
                )
                for heading, scores in scored
            ),
        )


def _score(cell: str) -> float | None:
    found = CELL.fullmatch(cell)
    return round(float(found["score"]) * 100, 2) if found else None


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
