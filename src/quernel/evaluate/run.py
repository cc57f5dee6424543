"""Models on tasks: vectors once at full length, figures at each length and kind of numbers.

A model is anything of the two protocols: in this process, or behind any server that a client of ours speaks to.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quernel.evaluate import measures
from quernel.evaluate.measures import Figure
from quernel.evaluate.tasks import (
    Classification,
    Clustering,
    Following,
    Retrieval,
    Similarity,
    Task,
    Translations,
)
from quernel.protocols.vectors import OutputDtype, dequantise, quantise
from quernel.types import (
    EmbeddingModel,
    EmbeddingRequest,
    InputType,
    RerankModel,
    RerankRequest,
    Truncate,
    Vectors,
)

RETRIEVAL_MEASURES = ("nDCG@10", "R@100", "RR@10")
TEXTS_PER_REQUEST = 256
REQUESTS_AT_ONCE = 2
QUERIES_AT_ONCE = 512
"""Rows of the table of scores that is held at once."""

TASK_INSTRUCTIONS: Mapping[type, str] = {
    Similarity: "Retrieve semantically similar text",
    Translations: "Retrieve parallel sentences.",
    Classification: "Classify the given text",
    Clustering: "Identify the topic of the given text",
}
"""What the family was evaluated with where both sides of a task are alike, in the words of its task prompts."""

Report = Callable[[int], None]
"""Told how many more texts are done."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are evaluated.

    Attributes:
        dimensions: Lengths of vectors to try; the model's own where empty.
        dtypes: Kinds of numbers to try.
        instructions: Whether texts of tasks that are not retrieval get their task's instruction.
        instruction: The instruction of retrieval queries; the model's default where it is None.
        depth: Documents of a query that are kept, and reranked.
        measures: Of retrieval, as https://ir-measur.es names them.
    """

    dimensions: tuple[int, ...] = ()
    dtypes: tuple[OutputDtype, ...] = (OutputDtype.FLOAT,)
    instructions: bool = True
    instruction: str | None = None
    depth: int = 100
    measures: tuple[str, ...] = RETRIEVAL_MEASURES


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one model did on one task in one form.

    Attributes:
        task: The task's name.
        kind: Its kind, as a word.
        model: The model's name; with a reranker after a plus sign.
        dimensions: Length of its vectors.
        dtype: Kind of their numbers.
        figures: The measures, the main one first.
        seconds: That the model took for its texts, whatever the form.
        num_texts: That it read.
    """

    task: str
    kind: str
    model: str
    dimensions: int
    dtype: str
    figures: tuple[Figure, ...]
    seconds: float
    num_texts: int


@dataclass
class Encoder:
    """A model with the texts it has read, counted and timed."""

    model: EmbeddingModel
    report: Report = field(default=lambda count: None)
    seconds: float = 0.0
    num_texts: int = 0

    def __call__(
        self, texts: Sequence[str], *, input_type: InputType | None, instruction: str | None = None
    ) -> Vectors:
        """Unit vectors of the texts, float32 `[N, C]`. Each text is read once, however often it stands there."""
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        started = time.perf_counter()
        vectors = asyncio.run(self.embed(distinct, input_type, instruction))
        self.seconds += time.perf_counter() - started
        self.num_texts += len(distinct)
        return vectors[[place[text] for text in texts]]

    async def embed(
        self, texts: Sequence[str], input_type: InputType | None, instruction: str | None = None
    ) -> Vectors:
        """Unit vectors of the texts, float32 `[N, C]`, whatever their number; too long ones are cut."""
        parts = [texts[start : start + TEXTS_PER_REQUEST] for start in range(0, len(texts), TEXTS_PER_REQUEST)]
        gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def one(part: Sequence[str]) -> Vectors:
            request = EmbeddingRequest(
                inputs=part, input_type=input_type, instruction=instruction, normalize=True, truncate=Truncate.END
            )
            async with gate:
                result = await self.model.embed(request)
            self.report(len(part))
            return result.vectors

        return np.concatenate(await asyncio.gather(*(one(part) for part in parts)))


def evaluate_embedding(
    model: EmbeddingModel, task: Task, settings: Settings, *, report: Report = lambda count: None
) -> tuple[list[Result], Mapping[str, Mapping[str, float]] | None]:
    """Figures of an embedding model on a task in each form, and for retrieval its run in the first form, to rerank."""
    encode = Encoder(model, report)
    sides = _encode(encode, task, settings)
    full = next(iter(sides.values())).shape[1]
    results, first_run = [], None
    for dimensions in settings.dimensions or (full,):
        if dimensions > full:
            continue
        for dtype in settings.dtypes:
            cut = {name: as_form(side, dimensions, dtype) for name, side in sides.items()}
            figures, run = _figures(task, cut, settings)
            first_run = first_run if first_run is not None else run
            results.append(
                Result(
                    task=task.name,
                    kind=type(task).__name__,
                    model=model.info.name,
                    dimensions=dimensions,
                    dtype=dtype.value,
                    figures=tuple(figures),
                    seconds=encode.seconds,
                    num_texts=encode.num_texts,
                )
            )
    return results, first_run


def as_form(vectors: Vectors, dimensions: int, dtype: OutputDtype) -> Vectors:
    """Vectors as a client gets them: cut, of length 1, and perhaps in fewer bits, `[N, dimensions]`."""
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    unit = (cut / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    if dtype is OutputDtype.FLOAT:
        return unit
    return dequantise(quantise(unit, dtype), dtype)[:, :dimensions]


def _encode(encode: Encoder, task: Task, settings: Settings) -> dict[str, Vectors]:
    """The vectors of a task's sides, at full length."""
    common = TASK_INSTRUCTIONS.get(type(task)) if settings.instructions else None
    side = InputType.QUERY if common else None
    if isinstance(task, Retrieval):
        asked = settings.instruction
        return {
            "documents": encode(list(task.documents.values()), input_type=InputType.DOCUMENT),
            "queries": encode(list(task.queries.values()), input_type=InputType.QUERY, instruction=asked),
        }
    if isinstance(task, Following):
        sides = {"documents": encode([task.documents[one] for one in task.ranked], input_type=InputType.DOCUMENT)}
        for index, name in enumerate(("before", "after")):
            rows = [
                encode([text], input_type=InputType.QUERY, instruction=task.instructions[query][index])
                for query, text in task.queries.items()
            ]
            sides[name] = np.concatenate(rows)
        return sides
    if isinstance(task, Similarity):
        texts = {"first": task.first, "second": task.second}
    elif isinstance(task, Translations):
        texts = {"left": task.left, "right": task.right}
    elif isinstance(task, Classification):
        texts = {"train": task.train, "test": task.test}
    else:
        texts = {"texts": task.texts}
    return {name: encode(list(part), input_type=side, instruction=common) for name, part in texts.items()}


def _figures(
    task: Task, sides: Mapping[str, Vectors], settings: Settings
) -> tuple[list[Figure], Mapping[str, Mapping[str, float]] | None]:
    if isinstance(task, Retrieval):
        run = nearest(task, sides["queries"], sides["documents"], settings.depth)
        return measures.retrieval_figures(run, task.qrels, settings.measures), run
    if isinstance(task, Following):
        place = {document: row for row, document in enumerate(task.ranked)}
        before, after = (
            {
                query: {one: float(sides[name][row] @ sides["documents"][place[one]]) for one in task.candidates[query]}
                for row, query in enumerate(task.queries)
            }
            for name in ("before", "after")
        )
        return measures.following_figures(before, after, task.qrels, task.changed_qrels), None
    if isinstance(task, Similarity):
        cosines = (sides["first"] * sides["second"]).sum(axis=1).astype(np.float64)
        return measures.similarity_figures(cosines, task.scores), None
    if isinstance(task, Translations):
        return measures.translation_figures(sides["left"], sides["right"]), None
    if isinstance(task, Classification):
        return (
            measures.classification_figures(sides["train"], task.train_labels, sides["test"], task.test_labels),
            None,
        )
    return measures.clustering_figures(sides["texts"], task.labels), None


def nearest(task: Retrieval, queries: Vectors, documents: Vectors, depth: int) -> dict[str, dict[str, float]]:
    """The best documents of each query with their scores; equal scores keep the corpus's order."""
    ids, run = list(task.documents), {}
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        scores = queries[start : start + QUERIES_AT_ONCE] @ documents.T
        for query, row in zip(list(task.queries)[start : start + QUERIES_AT_ONCE], scores, strict=True):
            best = np.argsort(-row, kind="stable")[:depth]
            run[query] = {ids[index]: float(row[index]) for index in best}
    return run


def evaluate_reranker(
    model: RerankModel,
    task: Retrieval,
    run: Mapping[str, Mapping[str, float]],
    settings: Settings,
    *,
    first: Result,
    report: Report = lambda count: None,
) -> Result:
    """Figures of a reranker on what an embedding model found, `first`."""
    started = time.perf_counter()
    scored = asyncio.run(_rerank(model, task, run, settings.instruction, report))
    return Result(
        task=task.name,
        kind="Reranking",
        model=f"{first.model} + {model.info.name}",
        dimensions=first.dimensions,
        dtype=first.dtype,
        figures=tuple(measures.retrieval_figures(scored, task.qrels, settings.measures)),
        seconds=time.perf_counter() - started,
        num_texts=sum(map(len, run.values())),
    )


async def _rerank(
    model: RerankModel,
    task: Retrieval,
    run: Mapping[str, Mapping[str, float]],
    instruction: str | None,
    report: Report,
) -> dict[str, dict[str, float]]:
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def one(query: str, candidates: Sequence[str]) -> tuple[str, dict[str, float]]:
        request = RerankRequest(
            query=task.queries[query],
            documents=[task.documents[document] for document in candidates],
            instruction=instruction,
            truncate=Truncate.END,
        )
        async with gate:
            result = await model.rerank(request)
        report(len(candidates))
        return query, {candidates[ranked.index]: ranked.relevance_score for ranked in result.results}

    pairs = await asyncio.gather(*(one(query, list(candidates)) for query, candidates in run.items()))
    return dict(pairs)


def best_of(results: Sequence[Result]) -> Iterator[Result]:
    """The first form of each model on each task: what models are compared by."""
    seen = set()
    for result in results:
        key = result.task, result.model
        if key not in seen:
            seen.add(key)
            yield result
