"""What a visitor asks in the playground: a form's content, what is wrong with it, and the requests that it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from quernel.web.equivalents import EMBED_PATH, RERANK_PATH, Asked
from quernel.web.samples import Sample, join_texts, split_texts

MOST_TEXTS, MOST_CHARACTERS = 24, 2000
MOST_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a visitor asks, as they have typed it.

    Attributes:
        model: A model.
        query: What is searched for.
        instruction: The task.
        content: Texts or documents.
        dimensions: How much of the vectors to look at, where no script has a slider for it.
    """

    model: str = ""
    query: str = ""
    instruction: str = ""
    content: str = ""
    dimensions: str = ""

    @classmethod
    def of_form(cls, form: QueryParams) -> "Trial":
        """The one that a form has."""
        return cls(
            model=form.get("model", ""),
            query=form.get("query", ""),
            instruction=form.get("instruction", ""),
            content=form.get("texts", ""),
            dimensions=form.get("dimensions", "").strip(),
        )

    @classmethod
    def of_sample(cls, sample: Sample) -> "Trial":
        """The one that a sample has."""
        return cls(query=sample.query, instruction=sample.instruction, content=join_texts(sample.texts))

    @property
    def texts(self) -> list[str]:
        """Its texts, one by one."""
        return split_texts(self.content)

    def problem(self, kind: str) -> str | None:
        """Why a model of a kind cannot be asked this; `None` where it can."""
        texts = self.texts
        if not texts:
            return "There is no text yet. Write one on each line."
        if len(texts) > MOST_TEXTS:
            return f"There are {len(texts)} texts, and at most {MOST_TEXTS} are taken here at once."
        named = [(f"Text {number}", text) for number, text in enumerate(texts, start=1)]
        for name, text in (*named, ("The query", self.query), ("The instruction", self.instruction)):
            if len(text) > MOST_CHARACTERS:
                return f"{name} has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are taken here."
        if kind == "reranker" and not self.query.strip():
            return "A reranker needs a query to compare the documents with."
        number = self.dimensions
        if number and not (number.isascii() and number.isdigit() and len(number) <= MOST_DIGITS):
            return f"{number[:20]} is no number of dimensions."
        return None

    def length(self, least: int, whole: int) -> int:
        """How much of vectors of this length to look at."""
        return min(max(int(self.dimensions or whole), least), whole)

    def requests(self, model: Mapping[str, Any]) -> list[Asked]:
        """What a model is asked: for vectors of the texts and, with another prompt, of the query; or for an order.

        Without a query the instruction is put before the texts, as models want it for comparing texts of one kind.
        """
        name, query, instruction = model["id"], self.query.strip(), self.instruction.strip()
        told = {"instruction": instruction} if instruction else {}
        if model["kind"] == "reranker":
            body = {"model": name, "query": query, "documents": self.texts, **told}
            return [Asked("ranking", RERANK_PATH, body)]
        as_query, as_document = {"input_type": "query", **told}, {"input_type": "document"}
        kept = as_query if told and not query else as_document
        requests = [Asked("texts", EMBED_PATH, {"model": name, "input": self.texts, **kept})]
        if query:
            requests.append(Asked("query", EMBED_PATH, {"model": name, "input": [query], **as_query}))
        return requests
