import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.engine.config import EngineConfig
from quernel.engine.scheduler import Job, Running, Scheduler
from quernel.engine.segments import build_forest
from quernel.errors import OverloadedError, SettingsError

run = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
jobs = st.lists(st.lists(st.lists(run, min_size=1, max_size=3).map(tuple), min_size=1, max_size=8), max_size=6)


def drain(scheduler, now=0.0):
    batches = []
    while scheduler:
        batches.append(scheduler.next_batch(now))
    return batches


def prompts_of(*lengths):
    """A job with one prompt of each length, no two alike."""
    return Job([((index,) * length,) for index, length in enumerate(lengths)])


@given(jobs, st.integers(1, 20), st.integers(0, 12), st.booleans())
def test_every_prompt_runs_once_and_those_of_a_job_in_order(prompts, budget, interactive, overdue):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=budget, max_interactive_tokens=interactive))
    queued = [Job(paths) for paths in prompts]
    for job in queued:
        scheduler.add(job, 0.0)
    ran = [item for batch in drain(scheduler, now=1e9 if overdue else 0.0) for item in batch]
    for job in queued:
        assert [item.index for item in ran if item.job is job] == list(range(len(job.paths)))
    assert scheduler.num_waiting_tokens == 0


@given(jobs, st.integers(1, 20), st.integers(0, 12))
def test_no_batch_of_several_prompts_exceeds_the_budget(prompts, budget, interactive):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=budget, max_interactive_tokens=interactive))
    for paths in prompts:
        scheduler.add(Job(paths), 0.0)
    for batch in drain(scheduler):
        tokens = len(build_forest([item.path for item in batch]).token_ids)
        assert tokens <= budget or len({item.path for item in batch}) == 1


@given(jobs, st.integers(0, 12), st.data())
def test_cancelled_jobs_never_run_and_leave_nothing_behind(prompts, interactive, data):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=7, max_interactive_tokens=interactive))
    queued = [Job(paths) for paths in prompts]
    for job in queued:
        scheduler.add(job, 0.0)
    started = {id(item.job) for item in scheduler.next_batch(0.0)}
    cancelled = {id(job) for job in queued if data.draw(st.booleans())}
    for job in queued:
        if id(job) in cancelled:
            assert job.future.cancel()
    ran = {id(item.job) for batch in drain(scheduler) for item in batch}
    assert not ran & cancelled
    assert ran | started | cancelled == {id(job) for job in queued}
    assert scheduler.num_waiting_tokens == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=10))
def test_small_jobs_run_in_the_order_of_arrival(lengths):
    scheduler = Scheduler(EngineConfig(max_batch_tokens=10, max_interactive_tokens=9))
    queued = [prompts_of(length) for length in lengths]
    for job in queued:
        scheduler.add(job, 0.0)
    assert [item.job for batch in drain(scheduler) for item in batch] == queued


def test_small_jobs_go_before_large_ones_that_came_earlier():
    scheduler = Scheduler(EngineConfig(max_batch_tokens=20, max_interactive_tokens=5))
    large, small = prompts_of(20, 20), prompts_of(5)
    scheduler.add(large, 0.0)
    scheduler.add(small, 0.1)
    assert [[item.job for item in batch] for batch in drain(scheduler, now=0.2)] == [[small], [large], [large]]


def test_large_jobs_take_turns():
    scheduler = Scheduler(EngineConfig(max_batch_tokens=20, max_interactive_tokens=0))
    first, second = prompts_of(20, 20, 20), prompts_of(20)
    for job in (first, second):
        scheduler.add(job, 0.0)
    assert [batch[0].job for batch in drain(scheduler)] == [first, second, first, first]


def test_a_large_job_that_has_waited_long_goes_first():
    scheduler = Scheduler(EngineConfig(max_batch_tokens=20, max_interactive_tokens=5, max_wait_seconds=2.0))
    large = prompts_of(20, 20)
    scheduler.add(large, 0.0)
    for now in (0.5, 1.0, 1.9):
        small = prompts_of(5)
        scheduler.add(small, now)
        assert scheduler.next_batch(now)[0].job is small
    for now in (2.0, 4.1):
        small = prompts_of(5)
        scheduler.add(small, now)
        assert scheduler.next_batch(now)[0].job is large
        assert scheduler.next_batch(now)[0].job is small
    assert not scheduler


def test_only_small_jobs_interrupt_and_only_large_ones_are_interrupted():
    scheduler = Scheduler(EngineConfig(max_batch_tokens=20, max_interactive_tokens=5))
    large, other, small = prompts_of(20), prompts_of(20), prompts_of(5)
    scheduler.add(large, 0.0)
    running = Running(scheduler.next_batch(0.0), started=0.0)
    scheduler.add(other, 0.1)
    assert scheduler.next_interruption(running, 0.1) == []
    scheduler.add(small, 0.2)
    interruption = scheduler.next_interruption(running, 0.2)
    assert [item.job for item in interruption] == [small]
    scheduler.add(prompts_of(5), 0.3)
    assert scheduler.next_interruption(Running(interruption, started=0.2), 0.3) == []


def test_a_batch_that_is_overdue_gets_half_of_the_time():
    scheduler = Scheduler(EngineConfig(max_batch_tokens=20, max_interactive_tokens=5, max_wait_seconds=2.0))
    scheduler.add(prompts_of(20), 0.0)
    running = Running(scheduler.next_batch(0.0), started=0.0, interrupted_seconds=0.9)
    scheduler.add(prompts_of(5), 1.0)
    assert scheduler.next_interruption(running, 1.5), "it has not waited long yet"
    scheduler.add(prompts_of(5), 1.5)
    running.interrupted_seconds = 1.2
    assert scheduler.next_interruption(running, 2.1) == []
    assert scheduler.next_interruption(running, 2.5)


def test_a_full_queue_refuses_and_keeps_what_it_has():
    scheduler = Scheduler(EngineConfig(max_queue_tokens=10))
    scheduler.add(prompts_of(8), 0.0)
    with pytest.raises(OverloadedError, match="8 tokens wait already"):
        scheduler.add(prompts_of(3), 0.0)
    assert scheduler.num_waiting_tokens == 8
    scheduler.add(prompts_of(2), 0.0)


def test_a_job_larger_than_the_queue_runs_when_nothing_waits():
    scheduler = Scheduler(EngineConfig(max_queue_tokens=10))
    scheduler.add(prompts_of(100), 0.0)
    assert len(scheduler.next_batch(0.0)) == 1


@pytest.mark.parametrize("field", ["max_interactive_tokens", "max_wait_seconds", "prefix_cache_mib"])
def test_a_negative_setting_is_refused(field):
    with pytest.raises(SettingsError, match=f"{field} is -1"):
        EngineConfig(**{field: -1})


@pytest.mark.parametrize("field", ["max_batch_tokens", "max_queue_tokens"])
def test_a_size_below_one_is_refused(field):
    with pytest.raises(SettingsError, match=f"{field} is 0"):
        EngineConfig(**{field: 0})
