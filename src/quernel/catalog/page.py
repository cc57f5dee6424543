"""What a visitor wants to know of a model before using it: the `[page]` table of its card.

    [page]
    title = "Qwen3 Embedding 0.6B"
    summary = "A small multilingual embedding model."
    about = ["One paragraph.", "Another."]
    tasks = ["retrieval", "sts"]

Prose only: what is a fact of the checkpoint stands in the card, and `quernel.catalog.specs` shows it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import cache
from importlib.resources import files

from quernel.errors import SettingsError

DAY, DAY_OR_MONTH = (re.compile(pattern, re.ASCII) for pattern in (r"\d{4}-\d\d-\d\d", r"\d{4}-\d\d(-\d\d)?"))


class Task(StrEnum):
    """What a model may be good for."""

    RETRIEVAL = "retrieval"
    RERANKING = "reranking"
    CODE_RETRIEVAL = "code-retrieval"
    CLASSIFICATION = "classification"
    CLUSTERING = "clustering"
    PAIR_CLASSIFICATION = "pair-classification"
    BITEXT_MINING = "bitext-mining"
    STS = "sts"
    SUMMARIZATION = "summarization"
    CHAT = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A thing to know.

    Attributes:
        title: Its heading.
        text: One or two sentences.
    """

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """When another model is the better choice.

    Attributes:
        title: Its heading.
        text: One or two sentences.
        model: The name of that model, where it is one.
    """

    title: str
    text: str
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that is asked often.

    Attributes:
        question: The question.
        answer: The answer.
    """

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A page elsewhere.

    Attributes:
        title: What it is.
        url: Its address, with https.
    """

    title: str
    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise SettingsError(f"The url of the link {self.title!r} is {self.url!r}.", param="url", hint="Use https.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """The languages that a model reads.

    Attributes:
        names: Natural languages.
        family: A list of them that the package has, in place of `names`: `qwen3`.
        programming: Programming languages.
        note: What the names leave open.
    """

    names: tuple[str, ...] = ()
    family: str | None = None
    programming: tuple[str, ...] = ()
    note: str | None = None

    def __post_init__(self) -> None:
        if self.family is not None and self.family not in language_families():
            known = ", ".join(language_families())
            raise SettingsError(f"languages.family is {self.family!r}.", param="family", hint=f"One of {known}.")
        if self.family is not None and self.names:
            raise SettingsError("languages has both names and family.", param="family", hint="Write one of them.")

    @property
    def natural(self) -> tuple[str, ...]:
        """Natural languages, by name."""
        return self.names if self.family is None else language_families()[self.family]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """Whether a model can be told its task.

    Attributes:
        supported: Whether it can.
        default: What it is told where a request says nothing.
        gain: What an instruction gains.
        source: Who says so.
        advice: How to write one.
    """

    supported: bool
    default: str | None = None
    gain: str | None = None
    source: str | None = None
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A text to try the model with.

    Attributes:
        text: The text.
        language: Its natural or programming language.
    """

    text: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What to try the model with.

    Attributes:
        query: What is asked.
        texts: What is compared with it; for a reranker the documents.
    """

    query: str | None = None
    texts: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """What a visitor wants to know of a model.

    Attributes:
        title: Its name for people.
        summary: One sentence.
        about: Paragraphs.
        tasks: What it is good for.
        released: When its makers published it, as YYYY-MM-DD.
        updated: When they last changed its files, as YYYY-MM-DD, or YYYY-MM where that is known.
        architecture: How it is built.
        pair: The reranker to an embedding model, or the reverse.
        languages: What it reads.
        instructions: Whether it can be told its task; `None` where nobody says.
        best_for: What it is the right choice for.
        alternatives: When another is.
        providers: What to look at where several offer it.
        faq: Questions that are asked often.
        links: Pages elsewhere.
        samples: What to try it with.
    """

    title: str
    summary: str
    about: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    released: str | None = None
    updated: str | None = None
    architecture: str | None = None
    pair: str | None = None
    languages: Languages = field(default_factory=Languages)
    instructions: Instructions | None = None
    best_for: tuple[Point, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    providers: tuple[Point, ...] = ()
    faq: tuple[Question, ...] = ()
    links: tuple[Link, ...] = ()
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        for key, text, form in (("released", self.released, DAY), ("updated", self.updated, DAY_OR_MONTH)):
            if text is not None and not _is_time(text, form):
                raise SettingsError(f"{key} is {text!r}, which is no day.", param=key, hint="Write it like 2025-06-05.")


def _is_time(text: str, form: re.Pattern[str]) -> bool:
    try:
        return form.fullmatch(text) is not None and bool(date.fromisoformat(f"{text}-01"[:10]))
    except ValueError:
        return False


@cache
def language_families() -> Mapping[str, tuple[str, ...]]:
    """The lists of natural languages that the package has, by name."""
    text = files("quernel.catalog").joinpath("languages.json").read_text(encoding="utf-8")
    return {
        name: tuple(language for group in entry["families"].values() for language in group["languages"])
        for name, entry in json.loads(text).items()
    }
