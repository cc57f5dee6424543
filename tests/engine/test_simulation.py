"""The simulator in `benchmarks/` keeps working, and what it shows of the scheduler keeps being true."""

import runpy
from pathlib import Path

import pytest

from quernel.engine.config import EngineConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scheduler_simulation.py"


@pytest.fixture(scope="module")
def simulator():
    return runpy.run_path(str(SCRIPT))


def latencies(simulator, config):
    trace = simulator["make_trace"](seconds=120, rate=2_000, load=0.8, seed=1)
    simulation = simulator["Simulation"](trace, config, 2_000)
    simulation.run()
    assert sum(map(len, simulation.latencies.values())) == len(trace)
    return simulation.latencies


def test_queries_beside_bulk_wait_for_a_step_and_not_for_a_batch(simulator):
    in_turn = latencies(simulator, EngineConfig(max_interactive_tokens=0))
    small_first = latencies(simulator, EngineConfig())
    assert max(small_first["query"]) < 0.5 < max(in_turn["query"])


def test_bulk_ends_even_under_a_flood_of_queries(simulator):
    arrival = simulator["Arrival"]
    flood = [arrival(n / 1_000, "query", (1_000,)) for n in range(2_000)]
    trace = sorted([*flood, arrival(0.1, "bulk", (2_000, 2_000))], key=lambda one: one.seconds)
    simulation = simulator["Simulation"](trace, EngineConfig(max_wait_seconds=1.0), 100_000)
    simulation.run()
    (bulk,) = simulation.latencies["bulk"]
    assert bulk < max(simulation.latencies["query"])
