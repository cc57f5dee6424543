"""Results from other threads."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from quernel.engine.arrival import arrival


def test_many_results_from_several_threads_all_arrive():
    async def main():
        promises = [Future() for _ in range(2000)]
        waiting = [asyncio.ensure_future(arrival(promise)) for promise in promises]
        await asyncio.sleep(0)

        def keep(part):
            for index in part:
                promises[index].set_result(index)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(keep, [range(start, 2000, 4) for start in range(4)]))
        return await asyncio.wait_for(asyncio.gather(*waiting), 10)

    assert asyncio.run(main()) == list(range(2000))


def test_a_result_that_is_there_already_arrives_too():
    promise = Future()
    promise.set_result("x")
    assert asyncio.run(arrival(promise)) == "x"


def test_an_error_arrives_as_it_is():
    async def main():
        promise = Future()
        threading.Timer(0.01, promise.set_exception, (KeyError("k"),)).start()
        await arrival(promise)

    with pytest.raises(KeyError):
        asyncio.run(main())


def test_a_task_that_is_cancelled_cancels_the_promise():
    async def main():
        promise = Future()
        task = asyncio.ensure_future(arrival(promise))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return promise.cancelled()

    assert asyncio.run(main())


def test_a_promise_that_is_cancelled_cancels_the_wait():
    async def main():
        promise = Future()
        promise.cancel()
        await arrival(promise)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_each_loop_has_its_own_door():
    for _ in range(3):
        test_a_result_that_is_there_already_arrives_too()
