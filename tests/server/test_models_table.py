import pytest

from quernel.errors import ModelNotFoundError, SettingsError
from quernel.server.models import ModelTable
from quernel.testing import FakeEmbeddingModel, FakeRerankModel

FIRST, SECOND = FakeEmbeddingModel("Qwen/Qwen3-Embedding-0.6B"), FakeEmbeddingModel("Qwen/Qwen3-Embedding-4B")
RERANKER = FakeRerankModel("Qwen/Qwen3-Reranker-0.6B")


def test_default_is_the_first_of_the_kind():
    table = ModelTable([RERANKER, FIRST, SECOND])
    for name in ("default", "Default", None):
        assert table.embedding_model(name).model is FIRST
        assert table.rerank_model(name).model is RERANKER


@pytest.mark.parametrize("name", ["Qwen/Qwen3-Embedding-4B", "qwen/qwen3-embedding-4b", "Qwen3-Embedding-4B"])
def test_a_name_is_found_in_any_case_and_by_its_last_part(name):
    assert ModelTable([FIRST, SECOND]).embedding_model(name).model is SECOND


def test_a_last_part_of_two_models_means_neither():
    ours, theirs = FakeEmbeddingModel("ours/model"), FakeEmbeddingModel("theirs/model")
    table = ModelTable([ours, theirs])
    assert table.embedding_model("theirs/model").model is theirs
    with pytest.raises(ModelNotFoundError, match="ours/model, theirs/model"):
        table.embedding_model("model")


def test_a_full_name_wins_over_a_last_part():
    short, long = FakeEmbeddingModel("model"), FakeEmbeddingModel("theirs/model")
    assert ModelTable([long, short]).embedding_model("model").model is short


def test_a_model_of_the_other_kind_names_its_route_and_those_that_fit():
    with pytest.raises(ModelNotFoundError) as caught:
        ModelTable([FIRST, RERANKER]).embedding_model("Qwen3-Reranker-0.6B")
    assert "Send it to /v1/rerank." in str(caught.value)
    assert "Qwen/Qwen3-Embedding-0.6B" in str(caught.value)


@pytest.mark.parametrize("names", [("a/b", "A/B"), ("default",)])
def test_names_that_could_mean_two_things_are_refused_at_the_start(names):
    with pytest.raises(SettingsError):
        ModelTable([FakeEmbeddingModel(name) for name in names])
