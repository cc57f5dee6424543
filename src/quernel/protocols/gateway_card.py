"""The page of a model, as a gateway gives it: what it is, what it is for, how good it is, what else there is.

Facts are of the model and of this gateway; prose, questions and samples are written by whoever added the model, and are
empty where nobody wrote any. Scores are in percent.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from quernel.protocols.gateway import ModelEntry


class SpecEntry(Struct, kw_only=True):
    """A fact."""

    name: Annotated[str, Meta(description="Such as `Parameters`.")]
    value: Annotated[str, Meta(description="As it is shown.")]


class PointEntry(Struct, kw_only=True):
    """A thing to know, with its heading."""

    title: str
    text: str


class AlternativeEntry(PointEntry, kw_only=True):
    """When another model is the better choice."""

    model: Annotated[str | None, Meta(description="Its name, where it is one model.")] = None
    served: Annotated[bool, Meta(description="Whether it can be asked here.")] = False


class QuestionEntry(Struct, kw_only=True):
    """A question with its answer."""

    question: str
    answer: str


class LinkEntry(Struct, kw_only=True):
    """A page elsewhere."""

    title: str
    url: str


class LanguagesEntry(Struct, kw_only=True):
    """The languages that a model reads."""

    count: Annotated[int, Meta(description="How many natural languages there are in `names`.")] = 0
    names: Annotated[list[str], Meta(description="Natural languages.")] = []
    programming: Annotated[list[str], Meta(description="Programming languages.")] = []
    note: Annotated[str | None, Meta(description="What the names leave open.")] = None


class InstructionsEntry(Struct, kw_only=True):
    """Whether a model can be told its task, and what that gains."""

    supported: bool = False
    default: Annotated[str | None, Meta(description="What it is told where a request says nothing.")] = None
    gain: Annotated[str | None, Meta(description="What an instruction gains.")] = None
    source: Annotated[str | None, Meta(description="Who says so.")] = None
    advice: Annotated[str | None, Meta(description="How to write one.")] = None


class SampleEntry(Struct, kw_only=True):
    """A text to try the model with."""

    text: str
    language: Annotated[str, Meta(description="Natural or programming language.")]


class SamplesEntry(Struct, kw_only=True):
    """What to try the model with. For a reranker the texts are the documents."""

    query: str | None = None
    texts: list[SampleEntry] = []


class BenchmarkRow(Struct, kw_only=True):
    """The scores of one model."""

    model: Annotated[str, Meta(description="As the table calls it.")]
    id: Annotated[str | None, Meta(description="The name to ask for it by, where it is served here.")] = None
    parameters: Annotated[str | None, Meta(description="As the table has it, such as `0.6B`.")] = None
    scores: Annotated[dict[str, float | None], Meta(description="By the names in `measures`, in percent.")]
    is_this: Annotated[bool, Meta(description="Whether it is the model of this page.")] = False
    note: str | None = None


class BenchmarkEntry(Struct, kw_only=True):
    """A table of scores."""

    id: Annotated[str, Meta(description="The same for a table on all pages that show it.")]
    title: str
    source: Annotated[str, Meta(description="Where the numbers were published.")]
    note: str | None = None
    measures: Annotated[list[str], Meta(description="What was measured, in the order to show it.")]
    rows: list[BenchmarkRow]


class RelatedEntry(ModelEntry, kw_only=True):
    """Another model of this gateway."""

    relation: Annotated[
        Literal["pair", "kind"],
        Meta(description="`pair`: the reranker to this embedding model, or the reverse; `kind`: it does the same."),
    ]


class CardReply(Struct, kw_only=True):
    """The page of a model."""

    id: Annotated[str, Meta(description="The name to ask for it by.")]
    object: Literal["model.card"] = "model.card"
    kind: Annotated[str, Meta(description="`embedding`, `reranker` or `chat`.")]
    type: Annotated[str, Meta(description="The same in other gateways' words: `embedding`, `reranking`, `language`.")]
    title: Annotated[str, Meta(description="Its name for people.")]
    summary: Annotated[str, Meta(description="One sentence.")] = ""
    released: Annotated[str | None, Meta(description="When its makers published it, as YYYY-MM-DD.")] = None
    updated: Annotated[
        str | None, Meta(description="When they last changed its files, as YYYY-MM-DD, or YYYY-MM where that is known.")
    ] = None
    tasks: Annotated[list[str], Meta(description="What it is good for, such as `retrieval`.")] = []
    architecture: str | None = None
    specs: Annotated[list[SpecEntry], Meta(description="Its facts, in the order to show them.")]
    about: Annotated[list[str], Meta(description="Paragraphs.")] = []
    languages: Annotated[LanguagesEntry | None, Meta(description="Null where nobody says.")] = None
    instructions: Annotated[InstructionsEntry | None, Meta(description="Null where nobody says.")] = None
    best_for: list[PointEntry] = []
    alternatives: list[AlternativeEntry] = []
    providers: Annotated[list[PointEntry], Meta(description="What to look at where several offer it.")] = []
    faq: list[QuestionEntry] = []
    links: list[LinkEntry] = []
    samples: SamplesEntry
    benchmarks: Annotated[list[BenchmarkEntry], Meta(description="Published or measured tables that name it.")] = []
    related: Annotated[list[RelatedEntry], Meta(description="Models of this gateway that belong with it.")] = []
