"""Training rows as the data folder spells them: one gzipped JSON-lines file a source, four kinds of line.

It knows the spelling of the files and nothing of tokens, batches or losses. A data folder holds `<source>.jsonl.gz`:

    pair        {"task", "query", "pos", "lang"}, perhaps "label": rows of one label are never negatives of each other
    bitext      {"type": "bitext", "task", "query" (other language), "pos" (English), "lang"}
    similarity  {"type": "sts", "s1", "s2", "score" (0 to 1), "lang"}
    text        {"type": "text", "query", "lang"}
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quernel.errors import SettingsError

SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training example.

    Attributes:
        query: The asking side; of a similarity pair the first text; of plain text the text.
        positive: What answers it; `None` for plain text.
        task: The instruction that the query may carry.
        label: Rows that share it are never negatives of each other.
        score: Similarity from 0 to 1 where people judged it.
        is_bitext: Whether `positive` is the English translation of `query`.
    """

    query: str
    positive: str | None = None
    task: str = ""
    label: str | None = None
    score: float | None = None
    is_bitext: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """Both sides, or the one that there is."""
        return (self.query,) if self.positive is None else (self.query, self.positive)


def list_sources(folder: Path) -> dict[str, Path]:
    """The sources in a data folder by name, in alphabetical order.

    Raises:
        SettingsError: There are none.
    """
    found = {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    if not found:
        raise SettingsError(f"{folder} holds no *{SUFFIX} files.", param="data", hint="Name a folder of training data.")
    return found


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one source, in the order of its file; rows with an empty side are left out.

    Raises:
        SettingsError: A line is not JSON, or not one of the four kinds.
    """
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = _parse(json.loads(line))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SettingsError(
                    f"{path.name} line {number} is no training row ({error!r}).", param="data"
                ) from error
            if all(text.strip() for text in row.texts):
                yield row


def _parse(raw: dict[str, Any]) -> Row:
    kind = raw.get("type", "pair")
    if kind == "sts":
        return Row(query=raw["s1"], positive=raw["s2"], score=float(raw["score"]))
    if kind == "text":
        return Row(query=raw["query"])
    return Row(
        query=raw["query"],
        positive=raw["pos"],
        task=raw["task"],
        label=raw.get("label"),
        is_bitext=kind == "bitext",
    )
