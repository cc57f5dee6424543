"""From text to vector and score, against sentence-transformers on the same random checkpoints."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers.utils import logging

from quernel import Embedder, Reranker, RerankRequest
from tests.parity.comparison import assert_same_direction, assert_same_logits, assert_same_vectors
from tests.support.checkpoints import make_checkpoint, write_json

logging.disable_progress_bar()

TEXTS = [
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "",
    "yes",
    "Erklärung: naïve Größen, 中文句子。 и немного кириллицы",
    "a\n\n  b\t c: d? e\n",
    "no " * 120,
]
QUERY = "what: is it?"
INSTRUCTION = "Find the sentence that answers"


def sentence_transformer(folder, dtype=torch.float32):
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})


def cross_encoder(folder):
    return CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def our_logits(reranker, query, documents, instruction=None):
    result = reranker.rerank_sync(RerankRequest(query=query, documents=documents, instruction=instruction))
    logits = np.empty(len(documents))
    for hit in result.results:
        logits[hit.index] = hit.logit
    return logits


@pytest.mark.parametrize(
    "shape",
    [{}, {"tied": False, "shards": 3, "config_form": 5}, {"heads": 7, "kv_heads": 1, "layers": 4, "prefix": "model."}],
    ids=["official form", "untied, sharded, new form", "with prefix"],
)
def test_embeddings_of_texts_are_those_of_sentence_transformers(tmp_path, shape):
    folder = make_checkpoint(tmp_path / "model", **shape)
    reference = sentence_transformer(folder)
    with Embedder(folder, device="cpu", dtype="float32") as embedder:
        assert_same_vectors(embedder.embed_documents(TEXTS), reference.encode(TEXTS, prompt_name="document"))
        assert_same_vectors(embedder.embed_queries(TEXTS), reference.encode(TEXTS, prompt_name="query"))
        assert_same_vectors(
            embedder.embed_queries(TEXTS, instruction=INSTRUCTION),
            reference.encode(TEXTS, prompt=f"Instruct: {INSTRUCTION}\nQuery:"),
        )


@pytest.mark.parametrize("dimensions", [32, 33, 64])
def test_shortened_embeddings_are_those_of_sentence_transformers(tmp_path, dimensions):
    folder = make_checkpoint(tmp_path / "model")
    reference = sentence_transformer(folder).encode(TEXTS, truncate_dim=dimensions, normalize_embeddings=True)
    with Embedder(folder, device="cpu", dtype="float32") as embedder:
        assert_same_vectors(embedder.embed_documents(TEXTS, dimensions=dimensions), reference)


def test_embeddings_without_a_normalize_module_have_the_lengths_of_sentence_transformers(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    write_json(folder / "modules.json", modules)
    reference = sentence_transformer(folder).encode(TEXTS)
    with Embedder(folder, device="cpu", dtype="float32") as embedder:
        ours = embedder.embed_documents(TEXTS)
    assert_same_vectors(ours, reference)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(reference, axis=1), rtol=1e-5)


def test_bfloat16_embeddings_point_where_those_of_sentence_transformers_point(tmp_path):
    folder = make_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    reference = sentence_transformer(folder, torch.bfloat16).encode(TEXTS, convert_to_tensor=True).float().numpy()
    with Embedder(folder, device="cpu", dtype="bfloat16") as embedder:
        assert_same_direction(embedder.embed_documents(TEXTS), reference)


def test_what_sentence_transformers_saves_again_gives_the_same_embeddings(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    sentence_transformer(folder).save_pretrained(str(tmp_path / "again"))
    with Embedder(folder, dtype="float32") as before, Embedder(tmp_path / "again", dtype="float32") as after:
        assert_same_vectors(after.embed_queries(TEXTS), before.embed_queries(TEXTS))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shards", [1, 3])
def test_rerank_logits_are_those_of_a_cross_encoder(tmp_path, tied, shards):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", tied=tied, shards=shards, max_positions=1024)
    documents = [text for text in TEXTS if "<" not in text]
    reference = cross_encoder(folder)
    with Reranker(folder, device="cpu", dtype="float32") as reranker:
        theirs = reference.predict([(QUERY, document) for document in documents])
        assert_same_logits(our_logits(reranker, QUERY, documents), theirs)
        theirs = reference.predict([(QUERY, document) for document in documents], prompt=INSTRUCTION)
        assert_same_logits(our_logits(reranker, QUERY, documents, INSTRUCTION), theirs)


def test_documents_are_ordered_as_a_cross_encoder_orders_them(tmp_path):
    folder = make_checkpoint(tmp_path / "model", kind="reranker", max_positions=1024)
    theirs = [hit["corpus_id"] for hit in cross_encoder(folder).rank(QUERY, TEXTS)]
    with Reranker(folder, device="cpu", dtype="float32") as reranker:
        assert [hit.index for hit in reranker.rank(QUERY, TEXTS)] == theirs
