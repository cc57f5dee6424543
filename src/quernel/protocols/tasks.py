"""What the vendors' words for a text's purpose mean to a Qwen3 model, which takes its purpose as an instruction.

Cohere calls it `input_type`, Jina `task`. Searching has two sides, and only the query is instructed. The other tasks
have one, and the family wants the instruction on every text: for similarity it is the one that the models were
evaluated with, for classification and clustering, where that names the data set, the same in general words. A request's
own `instruction` comes before them and, best in one sentence about the data at hand, is better.

Source: https://docs.cohere.com/reference/embed, https://jina.ai/embeddings (API); `evaluation/task_prompts.json` of
https://github.com/QwenLM/Qwen3-Embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from quernel.types import InputType


@dataclass(frozen=True, slots=True)
class Task:
    """What a vendor's word stands for.

    Attributes:
        input_type: Query or document.
        instruction: The task as a sentence, where it is not the model's default.
    """

    input_type: InputType
    instruction: str | None = None


class CohereInputType(StrEnum):
    """What a text is for, in Cohere's words."""

    SEARCH_QUERY = "search_query"
    SEARCH_DOCUMENT = "search_document"
    CLASSIFICATION = "classification"
    CLUSTERING = "clustering"


class JinaTask(StrEnum):
    """What a text is for, in Jina's words."""

    RETRIEVAL_QUERY = "retrieval.query"
    RETRIEVAL_PASSAGE = "retrieval.passage"
    TEXT_MATCHING = "text-matching"
    CLASSIFICATION = "classification"
    CLUSTERING = "clustering"
    SEPARATION = "separation"


QUERY = Task(InputType.QUERY)
DOCUMENT = Task(InputType.DOCUMENT)
SIMILARITY = Task(InputType.QUERY, "Retrieve semantically similar text")
CLASSIFICATION = Task(InputType.QUERY, "Classify the given text")
CLUSTERING = Task(InputType.QUERY, "Identify the topic of the given text")

COHERE_TASKS: Mapping[CohereInputType, Task] = {
    CohereInputType.SEARCH_QUERY: QUERY,
    CohereInputType.SEARCH_DOCUMENT: DOCUMENT,
    CohereInputType.CLASSIFICATION: CLASSIFICATION,
    CohereInputType.CLUSTERING: CLUSTERING,
}

JINA_TASKS: Mapping[JinaTask, Task] = {
    JinaTask.RETRIEVAL_QUERY: QUERY,
    JinaTask.RETRIEVAL_PASSAGE: DOCUMENT,
    JinaTask.TEXT_MATCHING: SIMILARITY,
    JinaTask.CLASSIFICATION: CLASSIFICATION,
    JinaTask.CLUSTERING: CLUSTERING,
    JinaTask.SEPARATION: CLUSTERING,
}
