import dataclasses

import pytest
from tests.support.checkpoints import make_checkpoint

from quernel import Embedder, Reranker
from quernel.benchmarking import WORKLOADS, Benchmark, Measurement, make_texts, measure_ceiling
from quernel.errors import InvalidRequestError
from quernel.types import ModelKind


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    with Embedder(make_checkpoint(tmp_path_factory.mktemp("embedder")), dtype="float32") as model:
        yield model


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("reranker"), kind="reranker")
    with Reranker(folder, dtype="float32") as model:
        yield model


def test_own_texts_are_measured(embedder):
    benchmark = Benchmark(embedder, embedder.config, repetitions=3, num_singles=4)
    measured = benchmark.run("mine", ["one text", "another"])
    assert (measured.workload, measured.num_texts) == ("mine", 2)
    assert measured.num_tokens == sum(embedder.embed_sync(request()).num_tokens)
    assert (len(measured.seconds), len(measured.single_seconds), len(measured.ceiling_flops)) == (3, 4, 3)


def test_single_requests_end_with_their_time(embedder):
    measured = Benchmark(embedder, embedder.config, repetitions=1, singles_seconds=0.0).run("mine", ["one", "another"])
    assert len(measured.single_seconds) == 5


def request():
    from quernel import EmbeddingRequest

    return EmbeddingRequest(inputs=["one text", "another"])


def test_a_reranker_takes_the_first_text_as_the_query(reranker):
    measured = Benchmark(reranker, reranker.config, repetitions=1, num_singles=3).run("mine", ["q", "a", "b", "c"])
    assert measured.num_texts == 3


def test_a_reranker_needs_a_document(reranker):
    with pytest.raises(InvalidRequestError, match="a query and a document"):
        Benchmark(reranker, reranker.config).run("mine", ["q"])


def test_a_workload_of_the_other_kind_is_refused_and_names_those_that_fit(embedder):
    with pytest.raises(InvalidRequestError, match="queries or passages or mix or long"):
        Benchmark(embedder, embedder.config).run("rerank")


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_the_same_every_time(name):
    texts = make_texts(WORKLOADS[name])
    assert texts == make_texts(WORKLOADS[name])
    assert len(texts) == WORKLOADS[name].count + (WORKLOADS[name].kind is ModelKind.RERANKER)


def test_the_rates_are_those_of_the_median_repetition():
    measured = Measurement(
        workload="w",
        num_texts=10,
        num_tokens=100,
        seconds=(1.0, 2.0, 9.0),
        single_seconds=tuple(n / 100 for n in range(1, 101)),
        ceiling_flops=(50.0, 100.0, 900.0),
        flops_per_token=1,
        peak_bytes=0,
    )
    assert measured.texts_per_second == 5
    assert measured.tokens_per_second == 50
    assert measured.share_of_ceiling == 0.5
    assert (measured.wait(0.5), measured.wait(0.99)) == (0.51, 1.0)
    assert dataclasses.replace(measured, single_seconds=(3.0,)).wait(0.99) == 3.0


def test_the_ceiling_is_that_of_the_model_s_type(embedder):
    for dtype in ("float32", "bfloat16"):
        assert measure_ceiling(embedder.config, dtype, "cpu") > 0
