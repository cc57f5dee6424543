"""The adapters with the real `llama_index.core`."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed (dependency group `clients`)")

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from quernel.errors import InvalidRequestError
from quernel.integrations.llama_index import QuernelEmbedding, QuernelRerank

TEXTS = ["Bananas are yellow.", "Paris is the capital of France.", "Water boils."]


def test_embeddings_are_those_of_the_model(embedding_arguments, embedder):
    model = QuernelEmbedding(**embedding_arguments, dimensions=32)
    np.testing.assert_allclose(
        model.get_text_embedding_batch(TEXTS), embedder.embed_documents(TEXTS, dimensions=32), atol=1e-4
    )
    expected = embedder.embed_query("fruit", dimensions=32)
    np.testing.assert_allclose(model.get_query_embedding("fruit"), expected, atol=1e-4)
    np.testing.assert_allclose(asyncio.run(model.aget_query_embedding("fruit")), expected, atol=1e-4)


def test_an_index_retrieves_and_the_reranker_orders(embedding_arguments, rerank_arguments, reranker):
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS], embed_model=QuernelEmbedding(**embedding_arguments)
    )
    nodes = index.as_retriever(similarity_top_k=3).retrieve("capital of France")
    assert {node.text for node in nodes} == set(TEXTS)
    kept = QuernelRerank(**rerank_arguments, top_n=2).postprocess_nodes(nodes, query_str="capital of France")
    expected = reranker.rank("capital of France", TEXTS, top_n=2)
    assert [node.text for node in kept] == [TEXTS[row.index] for row in expected]


def test_a_reranker_needs_a_query(rerank_arguments):
    rerank = QuernelRerank(**rerank_arguments)
    with pytest.raises(InvalidRequestError, match="query"):
        rerank.postprocess_nodes([NodeWithScore(node=TextNode(text="a"))])
    assert rerank.postprocess_nodes([], query_bundle=QueryBundle("a")) == []
