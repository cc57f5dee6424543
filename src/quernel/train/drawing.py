"""How rows are read in a step: which positive and which negatives, which spans, which prompts. By the step's seed.

What a user sends at run time is not always what the data holds: queries come with another instruction, or with none.
Sources may ask for such variety, and for pairs that are made of documents alone.

Source: pairs of spans of one text are as in arXiv 1906.00300 ("inverse cloze task") and 2112.09118 (section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quernel.train.examples import Example, Passage, Row

SHORT_SPAN = (20, 120)
"""Characters of a span that stands for a query, from and to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the rows of a source are read.

    Attributes:
        bare: Share of the queries that carry no instruction, as documents do.
        generic: Share of the others that carry the model's default instruction and not their own.
        symmetric: Whether documents are of one kind with queries, and carry what their query carries.
        translation: Whether what a teacher says of the document holds for the query too.
        crops: Whether rows are two spans of one document, the shorter one the query; queries are not read then.
    """

    bare: float = 0.0
    generic: float = 0.0
    symmetric: bool = False
    translation: bool = False
    crops: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands before a text.

    Attributes:
        asks: Whether it is read as a query.
        instruction: The query's own; None for the model's default.
    """

    asks: bool
    instruction: str | None = None


BARE = Prompt(asks=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A row as a step reads it.

    Attributes:
        query: What is asked.
        prompt: Of the query.
        documents: The positive, then negatives.
        document_prompt: Of each of them.
        scores: A teacher's of the documents; None where there are none.
        label: Rows of one label are never negatives of each other.
        translation: Whether a teacher's vector of the positive holds for the query.
    """

    query: str
    prompt: Prompt
    documents: tuple[str, ...]
    document_prompt: Prompt
    scores: tuple[float, ...] | None
    label: str | None
    translation: bool


def draw_rows(rows: Sequence[Row], form: Form, num_negatives: int, seed: int) -> list[Drawn]:
    """The queries with documents among some rows, as a step reads them; passages are read where the form is `crops`.

    Args:
        rows: Of one source.
        form: How they are read.
        num_negatives: Of a row, at most.
        seed: Fixes what is drawn.
    """
    draw = np.random.default_rng(seed)
    if form.crops:
        pairs = [(text, _two_spans(text, draw)) for row in rows if (text := _long_text(row)) is not None]
        examples = [Example(query=spans[0], positives=(spans[1],), label=text) for text, spans in pairs if spans]
    else:
        examples = [row for row in rows if isinstance(row, Example)]
    return [_draw(row, _choose(row, num_negatives, draw), form, draw) for row in examples]


def _long_text(row: Row) -> str | None:
    if isinstance(row, Passage):
        return row.text
    return row.positives[0] if isinstance(row, Example) else None


def _draw(row: Example, numbers: Sequence[int], form: Form, draw: np.random.Generator) -> Drawn:
    prompt = Prompt(asks=True, instruction=row.instruction)
    if form.bare and draw.random() < form.bare:
        prompt = BARE
    elif form.generic and draw.random() < form.generic:
        prompt = Prompt(asks=True)
    texts = (*row.positives, *row.negatives)
    return Drawn(
        query=row.query,
        prompt=prompt,
        documents=tuple(texts[number] for number in numbers),
        document_prompt=prompt if form.symmetric else BARE,
        scores=tuple(row.scores[number] for number in numbers) if row.scores else None,
        label=row.label,
        translation=form.translation,
    )


def _choose(row: Example, num_negatives: int, draw: np.random.Generator) -> tuple[int, ...]:
    """Numbers of the texts that are read: one positive, then negatives."""
    positive = int(draw.integers(len(row.positives)))
    negatives = draw.permutation(len(row.negatives))[:num_negatives] + len(row.positives)
    return positive, *negatives.tolist()


def _two_spans(text: str, draw: np.random.Generator) -> tuple[str, str] | None:
    """A short span of a text and what is before or after it; None where it is too short for two."""
    low, high = SHORT_SPAN
    if len(text) < 3 * low:
        return None
    length = int(draw.integers(low, min(high, len(text) // 2) + 1))
    cut = _at_space(text, int(draw.integers(length, len(text) - low + 1)))
    start = _at_space(text, max(0, cut - length))
    short, after, before = text[start:cut].strip(), text[cut:].strip(), text[:start].strip()
    longer = max(after, before, key=len)
    return (short, longer) if short and longer else None


def _at_space(text: str, place: int) -> int:
    """The end of the word that a place is in, where words end; scripts without spaces are cut anywhere."""
    end = text.find(" ", place, place + 20)
    return place if end < 0 or place == 0 else end
