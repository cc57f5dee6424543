"""The adapters with the real `langchain_core`."""

import asyncio

import numpy as np
import pytest

core = pytest.importorskip("langchain_core", reason="langchain-core is not installed (dependency group `clients`)")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.vectorstores import InMemoryVectorStore  # noqa: E402

from quernel.integrations.langchain import QuernelEmbeddings, QuernelReranker  # noqa: E402

TEXTS = ["Bananas are yellow.", "Paris is the capital of France.", "Water boils."]


def test_embeddings_are_those_of_the_model(embedding_arguments, embedder):
    embeddings = QuernelEmbeddings(**embedding_arguments, dimensions=32)
    np.testing.assert_allclose(
        embeddings.embed_documents(TEXTS), embedder.embed_documents(TEXTS, dimensions=32), atol=1e-4
    )
    np.testing.assert_allclose(embeddings.embed_query("fruit"), embedder.embed_query("fruit", dimensions=32), atol=1e-4)
    assert embeddings.embed_documents([]) == []
    assert asyncio.run(embeddings.aembed_query("fruit")) == embeddings.embed_query("fruit")


def test_a_vector_store_finds_the_nearest(embedding_arguments, embedder):
    store = InMemoryVectorStore.from_texts(TEXTS, QuernelEmbeddings(**embedding_arguments))
    expected = TEXTS[int((embedder.embed_documents(TEXTS) @ embedder.embed_query("fruit")).argmax())]
    assert store.similarity_search("fruit", k=1)[0].page_content == expected


def test_the_reranker_keeps_the_best(rerank_arguments, reranker):
    documents = [Document(page_content=text, metadata={"number": number}) for number, text in enumerate(TEXTS)]
    compressor = QuernelReranker(**rerank_arguments, top_n=2)
    kept = compressor.compress_documents(documents, "capital of France")
    expected = reranker.rank("capital of France", TEXTS, top_n=2)
    assert [document.metadata["number"] for document in kept] == [row.index for row in expected]
    assert kept[0].metadata["relevance_score"] == pytest.approx(expected[0].relevance_score, abs=1e-4)
    assert "relevance_score" not in documents[0].metadata
    assert compressor.compress_documents([], "a") == []
    assert len(asyncio.run(compressor.acompress_documents(documents, "capital of France"))) == 2
