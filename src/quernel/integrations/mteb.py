"""Models as `mteb` takes them, with the instructions that the family was evaluated with.

    import mteb
    from quernel.integrations.mteb import QuernelEncoder

    mteb.evaluate(QuernelEncoder("Qwen/Qwen3-Embedding-0.6B"), mteb.get_benchmark("MTEB(eng, v2)"))

Or from the shell, which also reranks (the best 100 of the first model) and prints the means that leaderboards have:

    python -m quernel.integrations.mteb Qwen/Qwen3-Embedding-0.6B --benchmark "MTEB(eng, v2)" --output results
    python -m quernel.integrations.mteb Qwen/Qwen3-Embedding-0.6B --reranker Qwen/Qwen3-Reranker-0.6B --tasks NFCorpus

Source: `EncoderProtocol` and `CrossEncoderProtocol` of mteb 2.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from mteb.cache import ResultCache
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from quernel.instructions import find_instruction
from quernel.integrations.backend import embedding_backend, rerank_backend
from quernel.types import Truncate, Vectors

DOCUMENTS_AT_ONCE = 1_000
NUM_RERANKED = 100
RETRIEVAL = "Retrieval relevant passage for the given query."
RERANKING = "Given the user query, retrieval the relevant passages"
"""What queries were evaluated with where their task has no sentence of its own; spelled as it was."""

PAIRED = frozenset({"Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking"})
"""Kinds of tasks in which one side asks and the other, which gets no instruction, answers."""

SYMMETRIC: Mapping[str, str] = {
    "STS": "Retrieve semantically similar text",
    "PairClassification": "Retrieve semantically similar text",
    "BitextMining": "Retrieve parallel sentences.",
}
"""The sentence before both sides, for kinds of tasks whose sides are alike."""

Batches = Iterable[Mapping[str, Any]]
"""What mteb's data loaders give: lists of texts under `text`."""


class _ForMteb:
    """What both kinds of model have.

    Attributes:
        mteb_model_meta: What mteb files the results under.
    """

    def __init__(self, name: str, revision: str | None, **more: Any) -> None:
        spelled = name if "/" in name else f"local/{name}"
        known = {"name": spelled, "revision": revision, "similarity_fn_name": ScoringFunction.COSINE}
        self.mteb_model_meta = ModelMeta.create_empty({**known, "use_instructions": True, **more})


class QuernelEncoder(_ForMteb):
    """An embedding model for mteb.

    Args:
        model_name: Hub id, folder or built-in name; with `base_url` the model's name at the server.
        revision: Branch, tag or commit on the hub.
        device: Where to compute.
        dimensions: Length of the vectors; the model's own where it is None.
        base_url: A server to ask instead of a model in this process.
        options: Others of `quernel.Embedder`, or of `quernel.Client`.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        dimensions: int | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model_name, revision)
        self._dimensions = dimensions
        self._model = embedding_backend(model_name, base_url, **_options(base_url, revision, device, options))

    def encode(
        self,
        inputs: Batches,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Vectors:
        """Unit vectors `[N, dimensions]` of a task's texts, each side with the instruction of the task.

        Args:
            inputs: Batches of texts.
            task_metadata: Which task.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Which side.
            kwargs: Not used: batches are the engine's business.
        """
        del hf_split, hf_subset, kwargs
        instruction = instruction_of(task_metadata, prompt_type)
        parts = []
        for batch in inputs:
            texts = list(batch["text"])
            if instruction is None:
                part = self._model.embed_documents(texts, dimensions=self._dimensions, truncate=Truncate.END)
            else:
                part = self._model.embed_queries(
                    texts, instruction=instruction, dimensions=self._dimensions, truncate=Truncate.END
                )
            parts.append(part)
        return np.concatenate(parts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Cosines of all pairs, `[N, M]`."""
        return _rows(embeddings1) @ _rows(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Cosines of pairs, `[N]`."""
        found: Vectors = (_rows(embeddings1) * _rows(embeddings2)).sum(axis=1)
        return found


class QuernelCrossEncoder(_ForMteb):
    """A reranker for mteb. Arguments as those of `QuernelEncoder`."""

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model_name, revision, model_type=["cross-encoder"])
        self._model = rerank_backend(model_name, base_url, **_options(base_url, revision, device, options))

    def predict(
        self,
        inputs1: Batches,
        inputs2: Batches,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Vectors:
        """The relevance of each document to the query beside it, float32 `[N]`.

        Args:
            inputs1: Batches of queries; those that follow each other are computed together.
            inputs2: Batches of documents.
            task_metadata: Which task.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Not used.
            kwargs: Not used.
        """
        del hf_split, hf_subset, prompt_type, kwargs
        instruction = instruction_of(task_metadata, PromptType.query, default=RERANKING)
        queries = [text for batch in inputs1 for text in batch["text"]]
        documents = [text for batch in inputs2 for text in batch["text"]]
        scores = np.empty(len(queries), dtype=np.float32)
        start = 0
        while start < len(queries):
            stop = start + 1
            while stop < len(queries) and queries[stop] == queries[start] and stop - start < DOCUMENTS_AT_ONCE:
                stop += 1
            for hit in self._model.rank(
                queries[start], documents[start:stop], instruction=instruction, truncate=Truncate.END
            ):
                scores[start + hit.index] = hit.relevance_score
            start = stop
        return scores


def instruction_of(task: Any, side: PromptType | None, *, default: str = RETRIEVAL) -> str | None:
    """What stands before the texts of one side of a task, as in the family's own evaluation.

    The published sentence of the task; else that of its kind; else what mteb says of the task.

    Args:
        task: mteb's metadata of the task.
        side: Which side; None where both are alike.
        default: For queries of tasks of which nothing is said.
    """
    is_document = side is PromptType.document
    found = find_instruction(task.name)
    if found is not None:
        return found.document if is_document else found.query
    if task.type in SYMMETRIC:
        return SYMMETRIC[task.type]
    if task.type in PAIRED and is_document:
        return None
    said: str | None = task.prompt.get("query") if isinstance(task.prompt, dict) else task.prompt
    return said or (default if task.type in PAIRED else None)


def _options(
    base_url: str | None, revision: str | None, device: str | None, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The options of a backend; revision and device are a server's own business."""
    return options if base_url is not None else {**options, "revision": revision, "device": device or "auto"}


def _rows(embeddings: Any) -> Vectors:
    rows: Vectors = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
    return rows


def run(
    encoder: QuernelEncoder, tasks: Iterable[Any], *, reranker: QuernelCrossEncoder | None = None, output: Path
) -> Mapping[str, tuple[str, float]]:
    """The main score of each task in percent, with the task's kind, by its name.

    Args:
        encoder: The embedding model.
        tasks: mteb's tasks.
        reranker: Ranks the best 100 of the embedding model, where a task retrieves.
        output: Folder for what mteb writes.
    """
    scores = {}
    for task in tasks:
        found = mteb.evaluate(encoder, task, cache=ResultCache(output), prediction_folder=output / "predictions")
        if reranker is not None:
            again = task.convert_to_reranking(output / "predictions", top_k=NUM_RERANKED)
            found = mteb.evaluate(reranker, again, cache=ResultCache(output))
        (result,) = found.task_results
        scores[result.task_name] = (task.metadata.type, 100 * float(result.get_score()))
    return scores


def table(scores: Mapping[str, tuple[str, float]]) -> str:
    """A line for each task, then the means by kind, of the kinds, and of the tasks."""
    by_kind: dict[str, list[float]] = {}
    for kind, score in scores.values():
        by_kind.setdefault(kind, []).append(score)
    means = {kind: float(np.mean(part)) for kind, part in by_kind.items()}
    lines = [f"{name:40} {kind:24} {score:6.2f}" for name, (kind, score) in scores.items()]
    lines += [f"{'mean':40} {kind:24} {mean:6.2f}" for kind, mean in means.items()]
    lines.append(f"{'mean (type)':65} {np.mean(list(means.values())):6.2f}")
    lines.append(f"{'mean (task)':65} {np.mean([score for _, score in scores.values()]):6.2f}")
    return "\n".join(lines)


def parser_of() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="embedding model: hub id, folder or built-in name")
    parser.add_argument("--benchmark", help="as mteb names it: MTEB(eng, v2)")
    parser.add_argument("--tasks", help="or tasks, with commas between them")
    parser.add_argument("--kinds", help="only tasks of these kinds: Retrieval,STS")
    parser.add_argument("--reranker", help="ranks the best 100 of the model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--max-tokens", type=int, default=8_192, help="texts are cut there, as they were for the family"
    )
    parser.add_argument("--dimensions", type=int)
    parser.add_argument("--output", type=Path, default=Path("mteb-results"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate from the shell."""
    parser = parser_of()
    given = parser.parse_args(arguments)
    if (given.benchmark is None) == (given.tasks is None):
        parser.error("give --benchmark or --tasks")
    tasks: list[Any] = list(
        mteb.get_benchmark(given.benchmark) if given.benchmark else mteb.get_tasks(tasks=given.tasks.split(","))
    )
    if given.kinds is not None:
        tasks = [task for task in tasks if task.metadata.type in given.kinds.split(",")]
    options = {"dtype": given.dtype, "max_tokens": given.max_tokens}
    encoder = QuernelEncoder(given.model, dimensions=given.dimensions, **options)
    reranker = None if given.reranker is None else QuernelCrossEncoder(given.reranker, **options)
    print(table(run(encoder, tasks, reranker=reranker, output=given.output)))


if __name__ == "__main__":
    main()
