"""The components with the real `haystack`."""

import numpy as np
import pytest

pytest.importorskip("haystack", reason="haystack-ai is not installed (dependency group `clients`)")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from quernel.integrations.haystack import (
    QuernelDocumentEmbedder,
    QuernelRanker,
    QuernelTextEmbedder,
)

TEXTS = ["Bananas are yellow.", "Paris is the capital of France.", "Water boils."]


def test_a_pipeline_embeds_retrieves_and_ranks(embedding_arguments, rerank_arguments, embedder, reranker):
    documents = QuernelDocumentEmbedder(**embedding_arguments).run([Document(content=text) for text in TEXTS])
    vectors = [document.embedding for document in documents["documents"]]
    np.testing.assert_allclose(vectors, embedder.embed_documents(TEXTS), atol=1e-4)
    store = InMemoryDocumentStore()
    store.write_documents(documents["documents"])

    pipeline = Pipeline()
    pipeline.add_component("embed", QuernelTextEmbedder(**embedding_arguments))
    pipeline.add_component("retrieve", InMemoryEmbeddingRetriever(store))
    pipeline.add_component("rank", QuernelRanker(**rerank_arguments, top_k=2))
    pipeline.connect("embed.embedding", "retrieve.query_embedding")
    pipeline.connect("retrieve.documents", "rank.documents")
    query = "capital of France"
    found = pipeline.run({"embed": {"text": query}, "rank": {"query": query}})["rank"]["documents"]
    expected = reranker.rank(query, TEXTS, top_n=2)
    assert [document.content for document in found] == [TEXTS[row.index] for row in expected]
    assert found[0].score == pytest.approx(expected[0].relevance_score, abs=1e-4)


def test_a_pipeline_can_be_stored(embedding_arguments):
    pipeline = Pipeline()
    pipeline.add_component("embed", QuernelDocumentEmbedder(**embedding_arguments, meta_fields_to_embed=["title"]))
    pipeline.add_component("rank", QuernelRanker(top_k=3))
    pipeline.add_component("query", QuernelTextEmbedder(instruction="Find fruit"))
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["quernel.integrations.haystack"])
    assert loaded.to_dict() == pipeline.to_dict()


def test_fields_go_before_the_text(embedding_arguments, embedder):
    component = QuernelDocumentEmbedder(**embedding_arguments, meta_fields_to_embed=["title", "year"])
    (document,) = component.run([Document(content="text", meta={"title": "Title"})])["documents"]
    np.testing.assert_allclose(document.embedding, embedder.embed_documents(["Title\ntext"])[0], atol=1e-4)
    assert component.run([]) == {"documents": []}
