"""Code written for sentence-transformers, with another import, next to the real one."""

import numpy as np
import pytest
import sentence_transformers as theirs

from quernel.errors import InvalidRequestError
from quernel.integrations.sentence_transformers import CrossEncoder, SentenceTransformer

TEXTS = ["Bananas are yellow.", "Paris is the capital of France."]


@pytest.fixture(scope="module")
def ours(folders):
    model = SentenceTransformer(folders[0], device="cpu", dtype="float32")
    yield model
    model.close()


@pytest.fixture(scope="module")
def reference(folders):
    return theirs.SentenceTransformer(folders[0], device="cpu")


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_vectors_are_those_of_the_reference(ours, reference, method):
    expected = getattr(reference, method)(TEXTS, batch_size=1)
    np.testing.assert_allclose(getattr(ours, method)(TEXTS, batch_size=7), expected, atol=1e-5)
    np.testing.assert_allclose(getattr(ours, method)(TEXTS[0]), expected[0], atol=1e-5)
    np.testing.assert_allclose(getattr(ours, method)(TEXTS, convert_to_tensor=True).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(getattr(ours, method)(TEXTS, convert_to_numpy=False)[1], expected[1], atol=1e-5)


def test_prompts_and_dimensions(ours, reference):
    for arguments in ({"prompt_name": "query"}, {"prompt": "Find: "}):
        expected = reference.encode(TEXTS, batch_size=1, **arguments)
        np.testing.assert_allclose(ours.encode(TEXTS, **arguments), expected, atol=1e-5)
    short = ours.encode(TEXTS, truncate_dim=32, normalize_embeddings=True)
    assert short.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    assert ours.get_sentence_embedding_dimension() == 64


def test_similarity(ours, reference):
    vectors = ours.encode(TEXTS)
    np.testing.assert_allclose(
        ours.similarity(vectors[0], vectors), reference.similarity(vectors[0], vectors), atol=1e-6
    )


def test_the_cross_encoder_scores_pairs_and_ranks(folders, reranker):
    encoder = CrossEncoder(folders[1], device="cpu", dtype="float32")
    pairs = [("fruit", TEXTS[0]), ("France", TEXTS[1]), ("fruit", TEXTS[1])]
    scores = encoder.predict(pairs)
    expected = [next(row.logit for row in reranker.rank(query, [text])) for query, text in pairs]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert encoder.predict(pairs[0]) == pytest.approx(expected[0], abs=1e-4)
    import torch

    assert encoder.predict(pairs, activation_fn=torch.sigmoid).max() < 1
    ranked = encoder.rank("fruit", TEXTS, top_k=1, return_documents=True)
    best = reranker.rank("fruit", TEXTS)[0]
    assert ranked == [
        {"corpus_id": best.index, "score": pytest.approx(best.logit, abs=1e-4), "text": TEXTS[best.index]}
    ]
    with pytest.raises(InvalidRequestError, match="pair"):
        encoder.predict([("a", "b", "c")])
    encoder.close()
