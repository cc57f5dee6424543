"""How long requests wait under a given load, by the scheduler's own code on a clock that is only counted.

    python benchmarks/scheduler_simulation.py [--rate 2000] [--seconds 300] [--seed 0]

Queries of 10 to 40 tokens arrive at random (Poisson) beside bulk requests of 32 texts of up to 2,000 tokens. The model
is a number, tokens a second; a batch runs in steps of 512 rows and one layer, as on a CPU. Compared: everything in turn
(`max_interactive_tokens=0`), and small requests first and in the middle of large ones. Prints a Markdown table.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from quernel.engine.config import EngineConfig
from quernel.engine.scheduler import Item, Job, Running, Scheduler
from quernel.engine.segments import build_forest

NUM_LAYERS = 28
CHUNK_ROWS = 512


@dataclass(frozen=True)
class Arrival:
    """A request that comes at a time."""

    seconds: float
    kind: str
    lengths: tuple[int, ...]


def make_trace(*, seconds: float, rate: float, load: float, seed: int) -> list[Arrival]:
    """Arrivals that together take `load` of what the model computes; a fifth of the tokens are queries'."""
    draw = random.Random(seed)
    kinds: dict[str, tuple[float, Callable[[], tuple[int, ...]]]] = {
        "query": (0.2, lambda: (draw.randint(10, 40),)),
        "bulk": (0.8, lambda: tuple(draw.randint(50, 2_000) for _ in range(32))),
    }
    trace = []
    for kind, (share, lengths) in kinds.items():
        mean_tokens = float(np.mean([sum(lengths()) for _ in range(1_000)]))
        now = 0.0
        while (now := now + draw.expovariate(load * share * rate / mean_tokens)) < seconds:
            trace.append(Arrival(now, kind, lengths()))
    return sorted(trace, key=lambda arrival: arrival.seconds)


class Simulation:
    """An engine without threads: the scheduler's decisions, and a clock."""

    def __init__(self, trace: Sequence[Arrival], config: EngineConfig, rate: float) -> None:
        self._scheduler = Scheduler(config)
        self._pending = list(reversed(trace))
        self._rate = rate
        self._now = 0.0
        self._open: dict[int, tuple[Arrival, int]] = {}
        self._num_texts = 0
        self.latencies: dict[str, list[float]] = {"query": [], "bulk": []}

    def run(self) -> None:
        """Serve the whole trace."""
        while self._pending or self._scheduler:
            self._admit()
            if not self._scheduler:
                self._now = self._pending[-1].seconds
                continue
            self._compute(self._scheduler.next_batch(self._now))

    def _admit(self) -> None:
        while self._pending and self._pending[-1].seconds <= self._now:
            arrival = self._pending.pop()
            paths = []
            for length in arrival.lengths:
                self._num_texts += 1
                paths.append(((self._num_texts,) * length,))
            job = Job(paths)
            self._open[id(job)] = arrival, len(paths)
            self._scheduler.add(job, arrival.seconds)

    def _compute(self, batch: Sequence[Item]) -> None:
        tokens = len(build_forest([item.path for item in batch]).token_ids)
        running = Running(batch, self._now)
        for _ in range(NUM_LAYERS):
            for start in range(0, tokens, CHUNK_ROWS):
                self._now += min(CHUNK_ROWS, tokens - start) / self._rate / NUM_LAYERS
                self._admit()
                before = self._now
                interruption = self._scheduler.next_interruption(running, before)
                if interruption:
                    self._compute(interruption)
                    running.interrupted_seconds += self._now - before
        for item in batch:
            arrival, missing = self._open[id(item.job)]
            self._open[id(item.job)] = arrival, missing - 1
            if missing == 1:
                self.latencies[arrival.kind].append(self._now - arrival.seconds)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2_000, help="tokens a second that the model computes")
    parser.add_argument("--seconds", type=float, default=1_800)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    policies = {"in turn": EngineConfig(max_interactive_tokens=0), "small first": EngineConfig()}
    print("| load | policy | query p50 | query p99 | bulk p50 | bulk p99 |")
    print("|---:|---|---:|---:|---:|---:|")
    for load in (0.3, 0.6, 0.9):
        trace = make_trace(seconds=arguments.seconds, rate=arguments.rate, load=load, seed=arguments.seed)
        for name, config in policies.items():
            simulation = Simulation(trace, config, arguments.rate)
            simulation.run()
            cells = [
                f"{np.percentile(simulation.latencies[kind], part):.2f} s" if simulation.latencies[kind] else "-"
                for kind in ("query", "bulk")
                for part in (50, 99)
            ]
            print(f"| {load:.0%} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
