import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.engine.config import EngineConfig
from quernel.engine.scheduler import Job, Scheduler
from quernel.engine.segments import build_forest
from quernel.errors import OverloadedError, SettingsError

run = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
jobs = st.lists(st.lists(st.lists(run, min_size=1, max_size=3).map(tuple), min_size=1, max_size=8), max_size=6)


def drain(scheduler):
    batches = []
    while len(scheduler):
        batches.append(scheduler.next_batch())
    return batches


@given(jobs, st.integers(1, 20))
def test_every_prompt_runs_once_in_the_order_of_arrival(prompts, budget):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=budget))
    queued = [Job(paths) for paths in prompts]
    for job in queued:
        scheduler.add(job)
    ran = [(item.job, item.index) for batch in drain(scheduler) for item in batch]
    assert ran == [(job, index) for job in queued for index in range(len(job.paths))]
    assert scheduler.num_waiting_tokens == 0


@given(jobs, st.integers(1, 20))
def test_no_batch_of_several_prompts_exceeds_the_budget(prompts, budget):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=budget))
    for paths in prompts:
        scheduler.add(Job(paths))
    for batch in drain(scheduler):
        tokens = len(build_forest([item.path for item in batch]).token_ids)
        assert tokens <= budget or len({item.path for item in batch}) == 1


@given(jobs, st.data())
def test_cancelled_jobs_never_run_and_leave_nothing_behind(prompts, data):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=7))
    queued = [Job(paths) for paths in prompts]
    for job in queued:
        scheduler.add(job)
    cancelled = [job for job in queued if data.draw(st.booleans())]
    for job in cancelled:
        assert job.future.cancel()
    ran = {id(item.job) for batch in drain(scheduler) for item in batch}
    assert ran == {id(job) for job in queued} - {id(job) for job in cancelled}
    assert scheduler.num_waiting_tokens == 0


def test_a_full_queue_refuses_and_keeps_what_it_has():
    scheduler = Scheduler(EngineConfig(max_queue_tokens=10))
    scheduler.add(Job([((1,) * 8,)]))
    with pytest.raises(OverloadedError, match="8 tokens wait already"):
        scheduler.add(Job([((1,) * 3,)]))
    assert scheduler.num_waiting_tokens == 8
    scheduler.add(Job([((1,) * 2,)]))


def test_a_job_larger_than_the_queue_runs_when_nothing_waits():
    scheduler = Scheduler(EngineConfig(max_queue_tokens=10))
    scheduler.add(Job([((1,) * 100,)]))
    assert len(scheduler.next_batch()) == 1


@pytest.mark.parametrize("field", ["max_batch_tokens", "max_queue_tokens"])
def test_a_size_below_one_is_refused(field):
    with pytest.raises(SettingsError, match=f"{field} is 0"):
        EngineConfig(**{field: 0})
