"""Training data written by a language model, by the design of the Qwen3 Embedding paper.

Retrieval goes from a passage to a query in two steps. First the model chooses who would ask (of five persons that are
near to the passage), which type of question and how hard; then, as that person, it writes the query, in the length and
language asked for. The other kinds (translations, similarity, classification) take one step. Pairs whose cosine under
an embedding model is at most 0.7 are left out.

Source: arXiv 2506.05176, sections 3.2 and appendix A (types, difficulties, two steps, the filter); the wording of the
prompts is ours, and so are those of the other three kinds, which the paper does not print.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from quernel.errors import InvalidRequestError, SettingsError
from quernel.evaluate.run import Encoder
from quernel.types import EmbeddingModel, InputType

NUM_PERSONS = 5
LEAST_COSINE = 0.7
QUESTION_TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
DIFFICULTIES = ("high_school", "university", "phd")
LENGTHS = (5, 10, 20, 40)


class Kind(StrEnum):
    """What is written of a passage."""

    RETRIEVAL = "retrieval"
    BITEXT = "bitext"
    SIMILARITY = "similarity"
    CLASSIFICATION = "classification"


INSTRUCTIONS: Mapping[Kind, str | None] = {
    Kind.RETRIEVAL: None,
    Kind.BITEXT: "Retrieve parallel sentences.",
    Kind.SIMILARITY: "Retrieve semantically similar text",
    Kind.CLASSIFICATION: "Classify the given text",
}

CONFIGURATION_PROMPT = """\
Given a passage and some characters, choose how somebody would ask for the passage. Answer with one JSON object, in \
English, with the keys "Character", "Question_Type" and "Difficulty".

Character: the one of the characters below who would most likely want this passage.
Question_Type: one of {types}.
  keywords: the words somebody would type into a search box.
  acquire_knowledge: a question that the passage answers.
  summary: a question about what the passage says as a whole.
  yes_or_no: a question that the passage answers with yes or no.
  background: a question for what one has to know to follow the passage.
Difficulty: one of {difficulties}: the schooling that the question takes.

Examples:
{{"Character": "a nurse who works nights", "Question_Type": "acquire_knowledge", "Difficulty": "university"}}
{{"Character": "a boy who collects stones", "Question_Type": "keywords", "Difficulty": "high_school"}}
{{"Character": "a chemist writing a review", "Question_Type": "background", "Difficulty": "phd"}}

Characters:
{persons}

Passage:
{passage}
"""

QUERY_PROMPT = """\
You are {character}. Write the query with which you would look for the passage below.

Requirements:
- Type of the query: {question_type}.
- Difficulty: {difficulty}.
- Length: about {length} words.
- Language of the query: {language}.
- It must make sense to somebody who has not seen the passage, and the passage must answer it.

Answer with one JSON object with the key "query"; the key is English, the value {language}.

Passage:
{passage}
"""

OTHER_PROMPTS: Mapping[Kind, str] = {
    Kind.BITEXT: """\
Translate one sentence of the passage below, the one that says most, into {language}. Answer with one JSON object with \
the keys "source" (the sentence as it stands there) and "translation".

Passage:
{passage}
""",
    Kind.SIMILARITY: """\
Take one sentence of the passage below. Say the same in other words, in {language}, and write a sentence that is about \
the same subject but says something else. Answer with one JSON object with the keys "source", "similar" and "different".

Passage:
{passage}
""",
    Kind.CLASSIFICATION: """\
Think of a useful way to sort texts like the passage below into classes, such as topic, intent or tone. Answer with \
one JSON object, in {language}, with the keys "task" (what is decided, as an instruction), "label" (the class of this \
passage) and "wrong_label" (another class of the same task).

Passage:
{passage}
""",
}


class Chat(Protocol):
    """A language model behind some address."""

    async def complete(self, prompt: str, *, seed: int) -> str:
        """What the model answers to one message."""
        ...


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """What is written.

    Attributes:
        kind: Which kind of pair.
        languages: Languages of queries, in words; one is drawn for each.
        num_queries: Of each passage.
        concurrency: Requests at once.
        least_cosine: Pairs with no more are left out.
        seed: Of what is drawn, and of the model where it takes one.
    """

    kind: Kind = Kind.RETRIEVAL
    languages: Sequence[str] = ("English",)
    num_queries: int = 1
    concurrency: int = 8
    least_cosine: float = LEAST_COSINE
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """What became of one passage and number.

    Attributes:
        number: The passage's.
        turn: Which of its queries.
        row: The row; None where the model's answer was not to be used.
        problem: Why not.
    """

    number: int
    turn: int
    row: Mapping[str, Any] | None
    problem: str = ""


async def synthesize(
    passages: Sequence[str],
    persons: Sequence[str],
    nearest: Sequence[Sequence[int]],
    chat: Chat,
    settings: SynthesisSettings,
    *,
    done: frozenset[tuple[int, int]] = frozenset(),
) -> AsyncIterator[Written]:
    """Rows as they are written, in any order.

    Args:
        passages: What is written about.
        persons: Who may ask.
        nearest: For each passage the numbers of the persons that are offered.
        chat: The language model.
        settings: What is written.
        done: Passages and turns that need not be written again.
    """
    jobs = [
        (number, turn)
        for number in range(len(passages))
        for turn in range(settings.num_queries)
        if (number, turn) not in done
    ]
    results: asyncio.Queue[Written] = asyncio.Queue()
    gate = asyncio.Semaphore(settings.concurrency)

    async def work(number: int, turn: int) -> None:
        async with gate:
            offered = [persons[index] for index in nearest[number]]
            try:
                row = await write_row(passages[number], offered, chat, settings, number=number, turn=turn)
                await results.put(Written(number, turn, row))
            except (ValueError, InvalidRequestError) as error:
                await results.put(Written(number, turn, None, str(error)))

    tasks = {asyncio.create_task(work(number, turn)) for number, turn in jobs}
    try:
        for _ in jobs:
            getter = asyncio.create_task(results.get())
            pending = {getter, *tasks}
            while not getter.done():
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in finished - {getter}:
                    task.result()  # raises what was not to be expected: no connection, a wrong key
                    tasks.discard(task)
            yield getter.result()
    finally:
        for task in tasks:
            task.cancel()


async def write_row(
    passage: str, persons: Sequence[str], chat: Chat, settings: SynthesisSettings, *, number: int, turn: int
) -> dict[str, Any]:
    """One row of training data.

    Raises:
        ValueError: The model's answer is not what was asked for.
    """
    draw = np.random.default_rng([settings.seed, number, turn])
    language = settings.languages[int(draw.integers(len(settings.languages)))]
    seed = int(draw.integers(2**31))
    if settings.kind is not Kind.RETRIEVAL:
        prompt = OTHER_PROMPTS[settings.kind].format(passage=passage, language=language)
        return _other_row(settings.kind, passage, await chat.complete(prompt, seed=seed))
    prompt = CONFIGURATION_PROMPT.format(
        types=", ".join(QUESTION_TYPES),
        difficulties=", ".join(DIFFICULTIES),
        persons="\n".join(f"- {person}" for person in persons),
        passage=passage,
    )
    chosen = parse_object(await chat.complete(prompt, seed=seed), ("Character", "Question_Type", "Difficulty"))
    if chosen["Question_Type"] not in QUESTION_TYPES or chosen["Difficulty"] not in DIFFICULTIES:
        raise ValueError(f"the model chose {chosen['Question_Type']!r} and {chosen['Difficulty']!r}")
    prompt = QUERY_PROMPT.format(
        character=chosen["Character"],
        question_type=chosen["Question_Type"],
        difficulty=chosen["Difficulty"],
        length=LENGTHS[int(draw.integers(len(LENGTHS)))],
        language=language,
        passage=passage,
    )
    query = parse_object(await chat.complete(prompt, seed=seed), ("query",))["query"]
    return {
        "query": query,
        "pos": passage,
        "character": chosen["Character"],
        "question_type": chosen["Question_Type"],
        "difficulty": chosen["Difficulty"],
        "language": language,
    }


def _other_row(kind: Kind, passage: str, answer: str) -> dict[str, Any]:
    instruction = INSTRUCTIONS[kind]
    if kind is Kind.BITEXT:
        found = parse_object(answer, ("source", "translation"))
        return {"query": found["translation"], "pos": found["source"], "instruction": instruction}
    if kind is Kind.SIMILARITY:
        found = parse_object(answer, ("source", "similar", "different"))
        return {
            "query": found["source"],
            "pos": found["similar"],
            "neg": found["different"],
            "instruction": instruction,
        }
    found = parse_object(answer, ("task", "label", "wrong_label"))
    return {"query": passage, "pos": found["label"], "neg": found["wrong_label"], "instruction": found["task"]}


def parse_object(answer: str, keys: Sequence[str]) -> dict[str, str]:
    """The JSON object in an answer, which may have thoughts before it and a fence around it.

    Raises:
        ValueError: There is none, or a key is missing or empty.
    """
    answer = answer.rpartition("</think>")[2]
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError(f"the model answered {answer[:80]!r}, which holds no JSON object")
    found = json.loads(answer[start : end + 1])
    for key in keys:
        if not isinstance(found.get(key), str) or not found[key].strip():
            raise ValueError(f"the model's object has no {key!r}")
    return {key: found[key].strip() for key in keys}


async def offer_persons(model: EmbeddingModel, passages: Sequence[str], persons: Sequence[str]) -> list[list[int]]:
    """For each passage the persons that are nearest to it.

    Raises:
        SettingsError: There are too few.
    """
    if len(persons) < NUM_PERSONS:
        raise SettingsError(
            f"{len(persons)} persons are too few.", param="persons", hint=f"Give {NUM_PERSONS} or more, one a line."
        )
    encoder = Encoder(model)
    who, what = await encoder.embed(persons, None), await encoder.embed(passages, InputType.DOCUMENT)
    nearest = np.argsort(-(what @ who.T), axis=1, kind="stable")[:, :NUM_PERSONS]
    found: list[list[int]] = nearest.tolist()
    return found


async def cosines(model: EmbeddingModel, rows: Sequence[Mapping[str, Any]], kind: Kind) -> np.ndarray:
    """The cosine of each row's query and document, `[N]`."""
    side = InputType.QUERY if kind is Kind.RETRIEVAL else InputType.DOCUMENT
    encoder = Encoder(model)
    queries = await encoder.embed([row["query"] for row in rows], side)
    documents = await encoder.embed([row["pos"] for row in rows], InputType.DOCUMENT)
    found: np.ndarray = (queries * documents).sum(axis=1)
    return found
