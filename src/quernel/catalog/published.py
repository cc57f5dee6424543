"""The results that were published for the official models, each with the command that makes it on one's own machine.

That machine must have the weights, and reach the data sets; figures move by a few hundredths with types and versions.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

PREFIX = "Qwen/"
FIRST_STAGE = "Qwen/Qwen3-Embedding-0.6B"
COMMAND = "python -m quernel.integrations.mteb"

BENCHMARKS = {
    "mteb-multilingual": "MTEB(Multilingual, v2)",
    "mteb-eng-v2": "MTEB(eng, v2)",
    "c-mteb": "MTEB(cmn, v1)",
    "mteb-code": "MTEB(Code, v1)",
}
"""Table to what mteb calls its benchmark."""

RERANKED = {
    "MTEB-R": '--benchmark "MTEB(eng, v2)" --kinds Retrieval',
    "CMTEB-R": '--benchmark "MTEB(cmn, v1)" --kinds Retrieval',
    "MMTEB-R": '--benchmark "MTEB(Multilingual, v2)" --kinds Retrieval',
    "MLDR": "--tasks MultiLongDocRetrieval",
    "MTEB-Code": '--benchmark "MTEB(Code, v1)"',
    "FollowIR": "--benchmark FollowIR",
}
"""Column of the table of rerankers to what mteb runs."""

NOT_SCORES = frozenset({"model", "params", "role"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScore:
    """One number of a published table.

    Attributes:
        benchmark: What was measured, as the table says.
        measure: The column.
        score: In percent.
        source: Where it was published.
        command: What prints it.
    """

    benchmark: str
    measure: str
    score: float
    source: str
    command: str


def published_scores(model: str) -> list[PublishedScore]:
    """The scores of an official model, by its hub id; none where nothing was published."""
    name = model.removeprefix(PREFIX)
    found = []
    for table in published_tables():
        for row in table["rows"]:
            if row.get("model") != name:
                continue
            for measure, score in row.items():
                command = _command(model, table["id"], measure)
                if measure not in NOT_SCORES and command is not None:
                    found.append(
                        PublishedScore(
                            benchmark=table["benchmark"],
                            measure=measure,
                            score=score,
                            source=table["source"],
                            command=command,
                        )
                    )
    return found


@cache
def published_tables() -> list[dict[str, Any]]:
    """The tables as they were published, rows of other models among them."""
    text = files("quernel.catalog").joinpath("published.json").read_text(encoding="utf-8")
    tables: list[dict[str, Any]] = json.loads(text)["tables"]
    return tables


def _command(model: str, table: str, measure: str) -> str | None:
    is_reranker = "Reranker" in model
    models = f"{FIRST_STAGE} --reranker {model}" if is_reranker else model
    if table == "reranking" and measure in RERANKED:
        return f"{COMMAND} {models} {RERANKED[measure]}"
    if table in BENCHMARKS:
        return f'{COMMAND} {models} --benchmark "{BENCHMARKS[table]}"'
    return None
