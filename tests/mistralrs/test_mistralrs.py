"""The surface of mistral.rs: its document's code, with another import."""

import numpy as np
import pytest

from quernel import Embedder
from quernel.errors import InputTooLongError, InvalidRequestError, SettingsError, UnsupportedModelError
from quernel.mistralrs import (
    EmbeddingArchitecture,
    EmbeddingModelBuilder,
    EmbeddingRequest,
    ModelDType,
    Runner,
    Which,
)
from tests.support.checkpoints import make_checkpoint

TEXTS = ["Graphene conductivity", "Explain superconductors in simple terms."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_checkpoint(tmp_path_factory.mktemp("mistralrs") / "model"))


@pytest.fixture(scope="module")
def expected(folder):
    with Embedder(folder, dtype="float32") as embedder:
        return embedder.embed_documents(TEXTS)


@pytest.fixture(scope="module")
def runner(folder):
    runner = Runner(
        which=Which.Embedding(model_id=folder, arch=EmbeddingArchitecture.Qwen3Embedding, dtype=ModelDType.F32),
        max_seqs=4,
        paged_attn=False,
    )
    yield runner
    runner.close()


def test_the_code_of_the_document_runs(runner, expected):
    request = EmbeddingRequest(input=TEXTS, truncate_sequence=True)
    embeddings = runner.send_embedding_request(request)
    assert (len(embeddings), len(embeddings[0])) == expected.shape
    assert isinstance(embeddings[0][0], float)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_every_form_of_input(runner):
    (one,) = runner.send_embedding_request(EmbeddingRequest(TEXTS[0]))
    (ids,) = runner.send_embedding_request(EmbeddingRequest([1, 2, 3]))
    (nested,) = runner.send_embedding_request(EmbeddingRequest([[1, 2, 3]]))
    assert one != ids == nested


def test_truncation_is_asked_for(runner):
    with pytest.raises(InputTooLongError):
        runner.send_embedding_request(EmbeddingRequest("word " * 600))
    assert len(runner.send_embedding_request(EmbeddingRequest("word " * 600, truncate_sequence=True))) == 1


def test_a_runner_knows_its_own_model_only(runner, folder):
    assert runner.send_embedding_request(EmbeddingRequest("a"), model_id=folder)
    with pytest.raises(InvalidRequestError, match="another"):
        runner.send_embedding_request(EmbeddingRequest("a"), model_id="another")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], ValueError),
        ([[]], ValueError),
        ([-1], ValueError),
        ([[2**32]], ValueError),
        (7, TypeError),
        ([1.5], TypeError),
    ],
)
def test_wrong_inputs_raise_what_they_raise_there(given, error):
    with pytest.raises(error):
        EmbeddingRequest(given)


def test_the_builder(folder, expected):
    model = (
        EmbeddingModelBuilder(folder)
        .with_dtype(ModelDType.F32)
        .with_force_cpu()
        .with_max_num_seqs(8)
        .with_token_source("none")
        .build()
    )
    request = EmbeddingRequest.builder().add_prompt(TEXTS[0]).add_prompts(TEXTS[1:])
    np.testing.assert_allclose(model.generate_embeddings(request), expected, atol=1e-6)
    np.testing.assert_allclose(model.generate_embedding(TEXTS[0]), expected[0], atol=1e-6)
    tokens = EmbeddingRequest.builder().add_tokens([1, 2]).add_tokens_batch([[3], [4]]).with_truncate_sequence(True)
    assert len(model.generate_embeddings(tokens.build())) == 3
    with pytest.raises(ValueError, match="empty"):
        EmbeddingRequest.builder().build()
    model.close()


def test_what_would_change_a_result_and_is_not_offered_is_refused(folder, monkeypatch):
    with pytest.raises(UnsupportedModelError, match="Gemma"):
        Which.Embedding(folder, arch=EmbeddingArchitecture.EmbeddingGemma)
    with pytest.raises(SettingsError, match="from_uqff"):
        Which.Embedding(folder, from_uqff="model.uqff")
    with pytest.raises(SettingsError, match="Q4K"):
        Runner(Which.Embedding(folder), in_situ_quant="Q4K")
    with pytest.raises(SettingsError, match="MISSING_TOKEN"):
        Runner(Which.Embedding(folder), token_source="env:MISSING_TOKEN")
    with pytest.raises(SettingsError, match="somewhere"):
        Runner(Which.Embedding(folder), token_source="somewhere")
    with pytest.raises(TypeError, match="colour"):
        Runner(Which.Embedding(folder), colour="red")
