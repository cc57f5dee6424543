"""The result of a text does not depend on its company: the law that most servers break somewhere."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.checkpoints import make_checkpoint

from quernel import Embedder, Reranker
from quernel.engine.config import EngineConfig

LARGEST_DIFFERENCE = 2e-6
SHARED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

word = st.sampled_from(["sea", "Salz", "水", "yes", "<|im_end|>", "<think>", "\n", "  ", "é", "e\u0301", "0", "?", ":"])
text = st.lists(word, max_size=12).map(" ".join)
instruction = st.sampled_from([None, "Find the sea", "Find:", "<|endoftext|>"])


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("embedder"), heads=6, kv_heads=2, layers=3)
    # A budget this small makes batches of a few texts, so that order decides who shares a batch with whom.
    with Embedder(folder, device="cpu", dtype="float32", engine=EngineConfig(max_batch_tokens=96)) as model:
        yield model


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("reranker"), kind="reranker", heads=4, kv_heads=4, layers=3)
    with Reranker(folder, device="cpu", dtype="float32", engine=EngineConfig(max_batch_tokens=512)) as model:
        yield model


def assert_same(batch, singles):
    difference = np.abs(batch - singles).max()
    cosine = (batch * singles).sum(axis=1).min()
    assert difference <= LARGEST_DIFFERENCE, f"largest difference {difference:.2e}, cosine {cosine:.8f}"


@SHARED
@given(st.lists(text, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_documents_in_any_batch_in_any_order_with_duplicates(embedder, texts, shuffler: random.Random):
    texts = texts + shuffler.sample(texts, k=min(2, len(texts)))
    order = shuffler.sample(range(len(texts)), k=len(texts))
    batch = embedder.embed_documents([texts[i] for i in order])
    assert_same(batch, np.concatenate([embedder.embed_documents([texts[i]]) for i in order]))


@SHARED
@given(st.lists(text, min_size=1, max_size=12), instruction)
def test_queries_that_share_an_instruction(embedder, texts, instruction):
    batch = embedder.embed_queries(texts, instruction=instruction)
    assert_same(batch, np.stack([embedder.embed_query(one, instruction=instruction) for one in texts]))


@pytest.mark.parametrize("length", [1, 2, 7, 64, 300])
def test_texts_of_equal_length(embedder, length):
    """Where text-embeddings-inference drops the causal mask (its pull request 883)."""
    ids = np.random.default_rng(length).integers(0, 250, size=(5, length)).tolist()
    assert_same(embedder.embed_documents(ids), np.concatenate([embedder.embed_documents([one]) for one in ids]))


def test_one_long_text_among_short_ones(embedder):
    ids = np.random.default_rng(0).integers(0, 250, size=480).tolist()
    texts = ["a", ids, "", ids[:1], "b c"]
    assert_same(embedder.embed_documents(texts), np.concatenate([embedder.embed_documents([one]) for one in texts]))


def test_the_order_of_tokens_matters(embedder):
    """Guards the law itself: a model that ignored its input would obey it."""
    forward, backward = embedder.embed_documents(["sea salt water", "water salt sea"])
    assert np.abs(forward - backward).max() > 1e-3


@SHARED
@given(text.filter(bool), st.lists(text, min_size=1, max_size=8), instruction)
def test_reranking_many_documents_is_reranking_each(reranker, query, documents, instruction):
    together = reranker.rank(query, documents, instruction=instruction)
    assert sorted(hit.index for hit in together) == list(range(len(documents)))
    for hit in together:
        (alone,) = reranker.rank(query, [documents[hit.index]], instruction=instruction)
        assert hit.logit == pytest.approx(alone.logit, abs=1e-4)
        assert hit.relevance_score == pytest.approx(alone.relevance_score, abs=2e-5)


def test_equal_documents_keep_the_order_of_the_request(reranker):
    hits = reranker.rank("sea", ["salt"] * 5)
    assert [hit.index for hit in hits] == [0, 1, 2, 3, 4]
    assert len({hit.logit for hit in hits}) == 1
