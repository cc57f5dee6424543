"""`SentenceTransformer` and `CrossEncoder` as sentence-transformers has them, computed by Quernel.

    from quernel.integrations.sentence_transformers import CrossEncoder, SentenceTransformer

Nothing of sentence-transformers is imported. What does not change a result (`batch_size`, `num_workers`) is taken and
passed over; arguments that would, and are not offered, are refused by Python as unknown.

Source: `SentenceTransformer` and `CrossEncoder` of sentence-transformers 6.
"""

# The signatures are theirs.
# ruff: noqa: PLR0917

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel.embedder import Embedder
from quernel.errors import InvalidRequestError
from quernel.reranker import Reranker
from quernel.types import EmbeddingRequest, InputType, RerankRequest, Truncate, Vectors


class SentenceTransformer:
    """An embedding model by the methods of sentence-transformers.

    Args:
        model_name_or_path: A hub id, a folder, a GGUF file, or a built-in name; the built-in model where it is None.
        device: `cpu`, `cuda`, ...; the best there is where it is None.
        truncate_dim: Length of the vectors; all of it where it is None.
        cache_folder: Folder of downloaded models.
        revision: Branch, tag or commit on the hub.
        token: Access token of the hub.
        local_files_only: Use only what is on this machine.
        options: Those of `quernel.Embedder`.
    """

    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        device: str | None = None,
        truncate_dim: int | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> None:
        self._embedder = Embedder(
            model_name_or_path,
            device=device or "auto",
            cache_dir=cache_folder,
            revision=revision,
            token=token,
            offline=local_files_only,
            **options,
        )
        self.truncate_dim = truncate_dim

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens; longer ones lose their end, as there."""
        return self._embedder.info.max_tokens

    @property
    def device(self) -> str:
        """Where it computes."""
        return self._embedder.info.device

    def get_sentence_embedding_dimension(self) -> int:
        """Length of the vectors."""
        return self.truncate_dim or self._embedder.info.dimensions

    get_embedding_dimension = get_sentence_embedding_dimension

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Vectors of texts, float32 `[N, D]`, or `[D]` of one.

        Args:
            sentences: Texts, or one.
            prompt_name: A prompt named in the model's files.
            prompt: A string that is put before each text.
            batch_size: Passed over.
            show_progress_bar: Passed over.
            convert_to_numpy: An array; else a list of arrays.
            convert_to_tensor: A tensor instead.
            normalize_embeddings: Length 1 whatever the model's files say.
            truncate_dim: Length of the vectors; the model's `truncate_dim` where it is None.
        """
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        if prompt is not None:
            texts, prompt_name = [prompt + text for text in texts], None
        request = EmbeddingRequest(
            inputs=texts,
            prompt_name=prompt_name,
            dimensions=truncate_dim or self.truncate_dim,
            normalize=True if normalize_embeddings else None,
            truncate=Truncate.END,
        )
        return self._given(request, sentences, convert_to_numpy, convert_to_tensor)

    def encode_query(self, sentences: str | Sequence[str], prompt: str | None = None, **arguments: Any) -> Any:
        """`encode` of texts that ask, with the model's prompt for queries."""
        return self._encode_as(InputType.QUERY, sentences, prompt, arguments)

    def encode_document(self, sentences: str | Sequence[str], prompt: str | None = None, **arguments: Any) -> Any:
        """`encode` of texts that answer."""
        return self._encode_as(InputType.DOCUMENT, sentences, prompt, arguments)

    def similarity(self, left: Any, right: Any) -> npt.NDArray[np.float32]:
        """Cosines between rows, float32 `[N, M]`."""
        ours, theirs = (_unit(np.atleast_2d(np.asarray(each, dtype=np.float32))) for each in (left, right))
        return ours @ theirs.T

    def close(self) -> None:
        """Stop the engine. Safe to call twice."""
        self._embedder.close()

    def _encode_as(
        self, input_type: InputType, sentences: str | Sequence[str], prompt: str | None, arguments: dict[str, Any]
    ) -> Any:
        if prompt is not None or "prompt_name" in arguments:
            return self.encode(sentences, prompt=prompt, **arguments)
        arguments.pop("batch_size", None)
        arguments.pop("show_progress_bar", None)
        to_numpy = arguments.pop("convert_to_numpy", True)
        to_tensor = arguments.pop("convert_to_tensor", False)
        request = EmbeddingRequest(
            inputs=[sentences] if isinstance(sentences, str) else list(sentences),
            input_type=input_type,
            dimensions=arguments.pop("truncate_dim", None) or self.truncate_dim,
            normalize=True if arguments.pop("normalize_embeddings", False) else None,
            truncate=Truncate.END,
        )
        if arguments:
            raise TypeError(f"unknown argument {next(iter(arguments))!r}")
        return self._given(request, sentences, to_numpy, to_tensor)

    def _given(self, request: EmbeddingRequest, sentences: object, to_numpy: bool, to_tensor: bool) -> Any:
        vectors: Vectors = self._embedder.embed_sync(request).vectors
        if to_tensor:
            import torch

            tensor = torch.from_numpy(vectors)
            return tensor[0] if isinstance(sentences, str) else tensor
        if isinstance(sentences, str):
            return vectors[0]
        return vectors if to_numpy else list(vectors)


class CrossEncoder:
    """A reranker by the methods of sentence-transformers.

    Args:
        model_name_or_path: A hub id, a folder, a GGUF file, or a built-in name; the built-in model where it is None.
        device: `cpu`, `cuda`, ...; the best there is where it is None.
        cache_folder: Folder of downloaded models.
        revision: Branch, tag or commit on the hub.
        token: Access token of the hub.
        local_files_only: Use only what is on this machine.
        options: Those of `quernel.Reranker`.
    """

    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        device: str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> None:
        self._reranker = Reranker(
            model_name_or_path,
            device=device or "auto",
            cache_dir=cache_folder,
            revision=revision,
            token=token,
            offline=local_files_only,
            **options,
        )

    def predict(
        self,
        sentences: Sequence[Sequence[str]] | Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        prompt: str | None = None,
        activation_fn: Any = None,
    ) -> Any:
        """The logit of each pair of a query and a document, float32 `[N]`, or a number for one pair.

        Args:
            sentences: Pairs, or one.
            batch_size: Passed over; pairs with one query share its computation.
            show_progress_bar: Passed over.
            prompt: What counts as relevant, as one sentence.
            activation_fn: Applied to a float32 tensor of the logits, if it is given.

        Raises:
            InvalidRequestError: Something is no pair.
        """
        is_one = bool(sentences) and isinstance(sentences[0], str)
        pairs: list[Any] = [sentences] if is_one else list(sentences)
        by_query: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise InvalidRequestError(f"sentences[{index}] is not a pair of texts.", param=f"sentences[{index}]")
            by_query.setdefault(pair[0], []).append(index)
        scores = np.zeros(len(pairs), dtype=np.float32)
        for query, indexes in by_query.items():
            request = RerankRequest(
                query=query,
                documents=[pairs[index][1] for index in indexes],
                instruction=prompt,
                truncate=Truncate.END,
            )
            for row in self._reranker.rerank_sync(request).results:
                scores[indexes[row.index]] = row.logit
        if activation_fn is not None:
            import torch

            scores = activation_fn(torch.from_numpy(scores)).numpy()
        return float(scores[0]) if is_one else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        prompt: str | None = None,
    ) -> list[dict[str, Any]]:
        """Documents by their relevance, best first: `corpus_id`, `score` (the logit) and perhaps `text`.

        Args:
            query: What is asked.
            documents: The texts to order.
            top_k: Only the best so many.
            return_documents: Whether the texts are repeated.
            batch_size: Passed over.
            show_progress_bar: Passed over.
            prompt: What counts as relevant, as one sentence.
        """
        ranked = self._reranker.rank(query, documents, instruction=prompt, top_n=top_k, truncate=Truncate.END)
        return [
            {"corpus_id": row.index, "score": row.logit} | ({"text": documents[row.index]} if return_documents else {})
            for row in ranked
        ]

    def close(self) -> None:
        """Stop the engine. Safe to call twice."""
        self._reranker.close()


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
