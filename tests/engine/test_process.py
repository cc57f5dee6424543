"""An engine in a process of its own: the same results and errors, and what happens when the process dies."""

import asyncio
import io
import logging
import os
import pickle
import signal
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from tests.support.checkpoints import make_checkpoint

from quernel import Embedder, EmbeddingRequest, Reranker
from quernel.engine.config import EngineConfig
from quernel.engine.host import Host, LogSender
from quernel.engine.process import EngineProcess
from quernel.errors import (
    CheckpointError,
    EngineClosedError,
    InputTooLongError,
    ModelLoadError,
    OverloadedError,
    SettingsError,
)

TEXTS = ["a", "two words", "", "x " * 300]


@pytest.fixture(scope="module")
def process():
    with EngineProcess() as process:
        yield process


@pytest.fixture(scope="module")
def model(process):
    with Embedder(process=process, dtype="float32") as model:
        yield model


def pid_of(process):
    return process._child._process.pid


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_results_and_facts_are_those_of_an_engine_in_this_process(process, model):
    request = EmbeddingRequest(inputs=TEXTS, instruction="find")
    with Embedder(dtype="float32") as here:
        expected = here.embed_sync(request)
        assert model.info == here.info
        assert model.budget.weights_bytes == here.budget.weights_bytes  # the workspace follows the measured speed
    found = model.embed_sync(request)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    assert found.timing.inference > 0
    with Reranker(process=process, dtype="float32") as there, Reranker(dtype="float32") as here:
        scores, others = (one.rank("hello", ["good day", "a stone"]) for one in (there, here))
    assert [hit.index for hit in scores] == [hit.index for hit in others]
    assert scores[0].relevance_score == pytest.approx(others[0].relevance_score, abs=1e-6)


def test_counts_come_from_there(model):
    before = model.statistics
    model.embed_documents(["a few words"])
    after = model.statistics
    assert after.num_prompts == before.num_prompts + 1
    assert after.runner.num_tokens > before.runner.num_tokens
    assert after.resident_bytes > 1 << 20
    assert after.num_waiting_tokens == 0


def test_an_event_loop_may_ask_for_counts_while_it_has_requests(model):
    async def ask():
        asked = [asyncio.create_task(model.embed(EmbeddingRequest(inputs=[f"number {n}"]))) for n in range(10)]
        await asyncio.sleep(0)
        assert model.statistics.num_batches > 0
        return await asyncio.gather(*asked)

    assert len(asyncio.run(ask())) == 10


def test_many_threads_get_their_own_results(model):
    texts = [f"text number {number}" for number in range(200)]
    expected = model.embed_sync(EmbeddingRequest(inputs=texts)).vectors
    found = {}

    def ask(number):
        found[number] = model.embed_sync(EmbeddingRequest(inputs=[texts[number]])).vectors[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, vector in found.items():
        np.testing.assert_allclose(vector, expected[number], atol=1e-6)


def test_errors_are_the_same(process, tmp_path):
    with Embedder(process=process, engine=EngineConfig(max_queue_tokens=50), max_tokens=100) as model:
        first = model._engine.submit([(tuple(range(start, start + 90)),) for start in range(1_000, 1_200)])
        second = model._engine.submit([(tuple(range(2_000, 2_090)),)])
        with pytest.raises(OverloadedError):
            second.result(timeout=60)
        first.result(timeout=60)
        with pytest.raises(InputTooLongError):
            model.embed_sync(EmbeddingRequest(inputs=["a " * 200]))
        assert model.embed_documents(["short"]).shape[0] == 1
    with pytest.raises(SettingsError, match="cuda:77"):
        Embedder(process=process, device="cuda:77")
    folder = make_checkpoint(tmp_path / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        Embedder(folder, process=process)


def test_a_cancelled_request_is_dropped_there(model):
    texts = [f"{number} " + "word " * 2_000 for number in range(64)]
    paths = [((*model._tokenizer.encode(text),),) for text in texts]
    promise = model._engine.submit(paths)
    wait_until(lambda: model.statistics.num_waiting_tokens > 0)
    assert promise.cancel()
    wait_until(lambda: model.statistics.num_waiting_tokens == 0)
    with pytest.raises(CancelledError):
        promise.result()
    assert model.embed_documents(["and now this"]).shape[0] == 1


def test_what_is_logged_there_is_in_the_log_here(caplog):
    answers = io.BytesIO()
    host = Host(io.BytesIO(), answers)
    record = logging.LogRecord("quernel.engine.engine", logging.WARNING, __file__, 1, "%d prompts", (3,), None)
    LogSender(host).handle(record)
    [[sent]] = [pickle.loads(answers.getvalue())]
    assert sent.getMessage() == "3 prompts"


def test_a_process_that_dies_fails_what_it_had_and_comes_back(caplog):
    with EngineProcess() as process, Embedder(process=process) as model, Reranker(process=process) as reranker:
        expected = model.embed_documents(["hello"])
        promise = model._engine.submit([(tuple(range(1_000, 9_000)),)] * 50)
        os.kill(pid_of(process), signal.SIGKILL)
        with pytest.raises(EngineClosedError, match=r"SIGKILL.*Try again") as failure:
            promise.result(timeout=10)
        assert failure.value.retry_after == 1.0
        wait_until(lambda: model.is_running and reranker.is_running)
        np.testing.assert_allclose(model.embed_documents(["hello"]), expected, atol=1e-3)
        assert reranker.rank("hello", ["good day"])[0].index == 0
        assert any("SIGKILL" in record.message for record in caplog.records)


def test_while_it_starts_again_callers_are_told_to_come_back():
    with EngineProcess() as process, Embedder(process=process) as model:
        for _ in range(2):  # The second time there is a pause before it.
            wait_until(lambda: model.is_running)
            os.kill(pid_of(process), signal.SIGKILL)
            wait_until(lambda: not model.is_running)
        with pytest.raises(EngineClosedError) as refusal:
            model.embed_documents(["hello"])
        assert refusal.value.retry_after is not None
        assert refusal.value.status == 503
        wait_until(lambda: model.is_running)
        assert model.embed_documents(["hello"]).shape[0] == 1


def test_a_model_that_kills_the_process_is_a_model_that_cannot_be_loaded(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    with EngineProcess() as process:
        os.kill(pid_of(process), signal.SIGSTOP)  # so that it is still at it when it is killed
        killer = threading.Timer(0.3, os.kill, (pid_of(process), signal.SIGKILL))
        killer.start()
        with pytest.raises(ModelLoadError, match="memory"):
            Embedder(folder, process=process)
        killer.join()
        with Embedder(folder, process=process) as model:
            assert model.embed_documents(["a"]).shape[0] == 1


def test_a_closed_process_takes_nothing_more(tmp_path):
    process = EngineProcess()
    model = Embedder(process=process)
    child = process._child._process
    process.close()
    process.close()
    assert child.returncode == 0
    with pytest.raises(EngineClosedError):
        model.embed_documents(["a"])
    model.close()
    with pytest.raises(EngineClosedError):
        Embedder(process=process)


def test_signals_to_the_group_leave_it_to_the_parent(process, model):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(process), number)
    assert model.embed_documents(["still here"]).shape[0] == 1
