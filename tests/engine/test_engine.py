import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from quernel.engine.config import EngineConfig
from quernel.engine.engine import Engine, RunnerStatistics, wait
from quernel.errors import EngineClosedError, InternalError, NonFiniteError, OverloadedError


class FakeRunner:
    """The result of a prompt is its first token and its length. Token 666 fails, token 13 is NaN.

    The first batch waits at the gate, if it is `held`, before its second step.
    """

    def __init__(self, *, held=False):
        self.batches = []
        self.gate = threading.Event()
        self.started = threading.Event()
        if not held:
            self.gate.set()

    statistics = RunnerStatistics()

    def steps(self, paths):
        is_first = not self.started.is_set()
        self.started.set()
        if is_first:
            assert self.gate.wait(10)
        yield
        yield
        tokens = [[token for run in path for token in run] for path in paths]
        self.batches.append(tokens)
        if any(666 in text for text in tokens):
            raise RuntimeError("out of memory")
        return np.array([[np.nan if 13 in t else t[0], len(t)] for t in tokens], dtype=np.float32)


def prompt(*tokens):
    return (tokens,)


def test_results_come_in_the_order_of_the_prompts():
    with Engine(FakeRunner(), EngineConfig(max_batch_tokens=2)) as engine:
        result = engine.submit([prompt(5, 5, 5), prompt(1), prompt(2, 2)]).result(10)
    assert result.tolist() == [[5, 3], [1, 1], [2, 2]]
    assert result.dtype == np.float32


def test_many_callers_at_once_each_get_their_own():
    with Engine(FakeRunner(), EngineConfig(max_batch_tokens=64)) as engine, ThreadPoolExecutor(16) as callers:
        results = callers.map(lambda n: engine.submit([prompt(n), prompt(n, n)]).result(10), range(1000, 1200))
        for number, result in zip(range(1000, 1200), results, strict=True):
            assert result.tolist() == [[number, 1], [number, 2]]
        assert engine.statistics.num_prompts == 400


def test_what_waits_while_the_engine_is_busy_runs_as_one_batch():
    runner = FakeRunner(held=True)
    with Engine(runner) as engine:
        first = engine.submit([prompt(1)])
        assert runner.started.wait(10)
        others = [engine.submit([prompt(n)]) for n in (2, 3, 4)]
        runner.gate.set()
        assert [future.result(10)[0, 0] for future in (first, *others)] == [1, 2, 3, 4]
    assert runner.batches == [[[1]], [[2], [3], [4]]]


def test_a_cancelled_request_is_not_computed():
    runner = FakeRunner(held=True)
    with Engine(runner) as engine:
        first = engine.submit([prompt(1)])
        assert runner.started.wait(10)
        abandoned, kept = engine.submit([prompt(2)]), engine.submit([prompt(3)])
        assert abandoned.cancel()
        runner.gate.set()
        assert kept.result(10)[0, 0] == 3
        assert first.result(10)[0, 0] == 1
    assert [2] not in [text for batch in runner.batches for text in batch]


def test_cancelling_a_task_cancels_its_request():
    runner = FakeRunner(held=True)

    async def abandon(engine):
        task = asyncio.create_task(waiting(engine))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def waiting(engine):
        await asyncio.wrap_future(engine.submit([prompt(2)]))

    with Engine(runner) as engine:
        engine.submit([prompt(1)])
        assert runner.started.wait(10)
        asyncio.run(abandon(engine))
        runner.gate.set()
        engine.submit([prompt(3)]).result(10)
    assert [2] not in [text for batch in runner.batches for text in batch]


def test_a_failing_prompt_fails_only_its_own_request():
    runner = FakeRunner(held=True)
    with Engine(runner) as engine:
        engine.submit([prompt(1)])
        assert runner.started.wait(10)
        good, bad, also_good = (engine.submit([prompt(n), prompt(n, n)]) for n in (2, 666, 3))
        runner.gate.set()
        assert good.result(10).tolist() == [[2, 1], [2, 2]]
        assert also_good.result(10).tolist() == [[3, 1], [3, 2]]
        with pytest.raises(InternalError, match="RuntimeError"):
            bad.result(10)


def test_a_result_that_is_not_finite_is_an_error_for_its_request_alone():
    with Engine(FakeRunner()) as engine:
        bad, good = engine.submit([prompt(1), prompt(13)]), engine.submit([prompt(4)])
        with pytest.raises(NonFiniteError, match="input 1"):
            bad.result(10)
        assert good.result(10).tolist() == [[4, 1]]


def test_closing_fails_what_waits_and_finishes_what_runs():
    runner = FakeRunner(held=True)
    engine = Engine(runner)
    running = engine.submit([prompt(1)])
    assert runner.started.wait(10)
    waiting = engine.submit([prompt(2)])
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(EngineClosedError):
        waiting.result(10)
    runner.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert running.result(10).tolist() == [[1, 1]]
    with pytest.raises(EngineClosedError):
        engine.submit([prompt(3)])
    engine.close()


def test_a_full_queue_refuses_and_the_engine_goes_on():
    runner = FakeRunner(held=True)
    with Engine(runner, EngineConfig(max_queue_tokens=3)) as engine:
        engine.submit([prompt(1)])
        assert runner.started.wait(10)
        accepted = engine.submit([prompt(2, 2)])
        with pytest.raises(OverloadedError):
            engine.submit([prompt(3, 3)])
        runner.gate.set()
        assert accepted.result(10).tolist() == [[2, 2]]
        assert engine.submit([prompt(3, 3)]).result(10).tolist() == [[3, 2]]


def test_an_interrupted_wait_drops_the_request(monkeypatch):
    runner = FakeRunner(held=True)
    with Engine(runner) as engine:
        engine.submit([prompt(1)])
        assert runner.started.wait(10)
        future = engine.submit([prompt(2)])
        monkeypatch.setattr(future, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            wait(future)
        assert future.cancelled()
        runner.gate.set()


def test_a_cancelled_future_reports_it():
    runner = FakeRunner(held=True)
    with Engine(runner) as engine:
        engine.submit([prompt(1)])
        assert runner.started.wait(10)
        future = engine.submit([prompt(2)])
        future.cancel()
        with pytest.raises(CancelledError):
            future.result(10)
        runner.gate.set()


BULK = EngineConfig(max_interactive_tokens=4, max_batch_tokens=100)


def test_a_small_request_runs_in_the_middle_of_a_large_one():
    runner = FakeRunner(held=True)
    with Engine(runner, BULK) as engine:
        large = engine.submit([prompt(*[1] * 50)])
        assert runner.started.wait(10)
        small = [engine.submit([prompt(n)]) for n in (2, 3)]
        runner.gate.set()
        assert [future.result(10)[0, 0] for future in (large, *small)] == [1, 2, 3]
    assert runner.batches == [[[2], [3]], [[1] * 50]]


def test_small_requests_do_not_interrupt_each_other():
    runner = FakeRunner(held=True)
    with Engine(runner, BULK) as engine:
        futures = [engine.submit([prompt(1)])]
        assert runner.started.wait(10)
        futures += [engine.submit([prompt(n)]) for n in (2, 3)]
        runner.gate.set()
        assert [future.result(10)[0, 0] for future in futures] == [1, 2, 3]
    assert runner.batches == [[[1]], [[2], [3]]]


def test_a_batch_that_nobody_waits_for_is_given_up_between_two_steps():
    runner = FakeRunner(held=True)
    with Engine(runner) as engine:
        abandoned = engine.submit([prompt(1)])
        assert runner.started.wait(10)
        assert abandoned.cancel()
        runner.gate.set()
        assert engine.submit([prompt(2)]).result(10)[0, 0] == 2
    assert runner.batches == [[[2]]]


def test_a_failure_in_an_interruption_leaves_the_interrupted_batch_alone():
    runner = FakeRunner(held=True)
    with Engine(runner, BULK) as engine:
        large = engine.submit([prompt(*[1] * 50)])
        assert runner.started.wait(10)
        small = engine.submit([prompt(666)])
        runner.gate.set()
        with pytest.raises(InternalError):
            small.result(10)
        assert large.result(10)[0, 1] == 50
