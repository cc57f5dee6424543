"""Quernel next to other ways to run the model: the same random weights, the same token ids, in turns, on this machine.

    python benchmarks/peers.py [--workloads W1,W2] [--systems ...] [--layers 28] [--repetitions 5] [--json FILE]

Each system runs in a process of its own (`peer_systems.py`) that loads once and waits for commands. A repetition runs
every system once, beginning with another one each time, after the machine's matrix products were timed; one run before
them is not counted. As many systems as fit in memory take turns (`--together`); where that needs several groups, the
first system is in each, and ratios across groups go through it. Prints Markdown tables; `peers_plot.py` draws the JSON.

Peak memory is a process's since the workload began, with what its library kept of the workloads before.
Checkpoint and exported files stay in `--folder` (about 9 GB at 28 layers for all systems) and are used again.
Exported graphs (OpenVINO, ONNX Runtime) get smaller batches where 32 long texts would not fit in memory.
A system that is not installed or fails has a row that says so. All vectors are compared with those of the first of
sentence-transformers, transformers and Quernel in float32 that ran.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_gemm import FUSED, mkl, plain, prepacked
from peer_systems import SYSTEMS, TokenPath, Vectors

from quernel.model.config import Qwen3Config

VOCABULARY = 151_643
BASELINE = "sentence-transformers"
REFERENCES = (BASELINE, "transformers", "quernel-float32")
DEFAULT_SYSTEMS = (BASELINE, "transformers", "openvino", "onnxruntime", "llama.cpp-q8_0")
CEILING_ROWS = 512
RESERVE_GIB = 6.0
"""Memory kept for what the running system needs beyond its weights."""
LEAST_GIB = 1.5
"""A system that leaves less is stopped before the machine is."""


@dataclass(frozen=True)
class Workload:
    """Texts as paths of token runs; those that begin with the same run share it."""

    name: str
    about: str
    paths: tuple[TokenPath, ...]

    @property
    def num_tokens(self) -> int:
        """Of all texts, shared ones counted in each."""
        return sum(len(run) for path in self.paths for run in path)

    def count_distinct(self) -> tuple[int, int]:
        """Tokens, and pairs of a token with one that it attends to, when what is shared is computed once."""
        seen: set[TokenPath] = set()
        tokens = pairs = 0
        for path in self.paths:
            position = 0
            for depth, run in enumerate(path, 1):
                length = len(run)
                if path[:depth] not in seen:
                    seen.add(path[:depth])
                    tokens += length
                    pairs += length * position + length * (length + 1) // 2
                position += length
        return tokens, pairs


def make_workload(name: str, scale: float) -> Workload:
    """A workload by name, the same every time; `scale` is the share of its texts."""
    draw = np.random.default_rng(sum(name.removesuffix("i").encode()))

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.integers(0, VOCABULARY, length).tolist())

    def count(full: int) -> int:
        return max(1, round(full * scale))

    if name in ("W1", "W1i"):
        queries = [ids(length) for length in draw.integers(12, 41, count(256))]
        if name == "W1":
            return Workload(name, "queries of 12-40 tokens", tuple((query,) for query in queries))
        instruction = ids(24)
        return Workload(
            name,
            "queries of 12-40 tokens, each after the same instruction of 24",
            tuple((instruction, query) for query in queries),
        )
    if name == "W2":
        lengths = np.clip(draw.gamma(2.2, 90, count(128)), 30, 512).astype(int)
        return Workload(name, "passages of 30-512 tokens", tuple((ids(length),) for length in lengths))
    if name == "W3":
        # Quantiles of a Pareto distribution, in random order: a heavy tail that `scale` does not cut off.
        lengths = np.clip(10 * (1 - (np.arange(count(96)) + 0.5) / count(96)) ** (-1 / 0.7), 10, 2048).astype(int)
        paths = tuple((ids(length),) for length in draw.permutation(lengths))
        return Workload(name, "texts of 10-2,048 tokens, mostly short", paths)
    if name == "W5":
        head, tail = ids(85 + 20), ids(9)
        documents = [ids(length) for length in draw.integers(80, 161, count(50))]
        return Workload(
            name,
            "documents of 80-160 tokens reranked for one query",
            tuple((head, document + tail) for document in documents),
        )
    length = {"W4": 4_096, "W4-8k": 8_192, "W4-32k": 32_768}[name]
    return Workload(name, f"one text of {length:,} tokens", ((ids(length),),))


WORKLOADS = ("W1", "W1i", "W2", "W3", "W4", "W5", "W4-8k", "W4-32k")


def minimal_flops(workload: Workload, config: Qwen3Config) -> int:
    """Operations of all layers' products and of causal attention, without padding and with shared tokens once."""
    tokens, pairs = workload.count_distinct()
    attention = 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return 2 * config.num_layer_parameters * tokens + attention * pairs


class Ceiling:
    """The best float32 rate of this machine at the products of a layer, by any way that torch has."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        inputs = {width: torch.randn(CEILING_ROWS, width) for width, _ in FUSED}
        weights = [(torch.randn(out, width) * 0.02, width) for width, out in FUSED]
        self._ways: dict[str, list[tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]]] = {}
        for name, make in (("plain", plain), ("oneDNN prepacked", prepacked), ("MKL prepacked", mkl)):
            with contextlib.suppress(RuntimeError, AttributeError):  # not on every machine
                self._ways[name] = [(make(weight, CEILING_ROWS), inputs[width]) for weight, width in weights]
        self._flops = sum(2 * CEILING_ROWS * width * out for width, out in FUSED)
        self.measure()

    def measure(self) -> dict[str, float]:
        """Operations a second of each way, the best of five."""
        rates = {}
        with torch.inference_mode():
            for name, products in self._ways.items():
                best = float("inf")
                for _ in range(5):
                    start = time.perf_counter()
                    for product, rows in products:
                        product(rows)
                    best = min(best, time.perf_counter() - start)
                rates[name] = self._flops / best
        return rates


class SystemFailedError(Exception):
    """What a system says, or how it ended."""


class Worker:
    """A system in a process of its own."""

    def __init__(self, name: str, folder: Path, timeout_seconds: float) -> None:
        self.name = name
        self._timeout_seconds = timeout_seconds
        self._connection, theirs = Pipe()
        script = Path(__file__).with_name("peer_systems.py")
        command = [sys.executable, str(script), "serve", name, str(folder), str(theirs.fileno())]
        # stdout is the tables'; libraries talk there too.
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdout=sys.stderr, env=os.environ | {"TQDM_DISABLE": "1"}
        )
        theirs.close()
        try:
            self._answer()
        except SystemFailedError:
            self.close()
            raise

    def prepare(self, paths: Sequence[TokenPath]) -> None:
        self._connection.send(paths)
        self._answer()

    def run(self) -> tuple[float, int, Vectors]:
        """Seconds, peak bytes, vectors."""
        self._connection.send(True)
        result: tuple[float, int, Vectors] = self._answer()
        return result

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()

    def _answer(self) -> Any:
        deadline = time.monotonic() + self._timeout_seconds
        while not self._connection.poll(0.2):
            if time.monotonic() > deadline:
                self._kill(f"no answer in {self._timeout_seconds:.0f} s")
            if available_gib() < LEAST_GIB:
                self._kill("needs more memory than there is")
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise SystemFailedError(f"the process ended with {self._process.wait()}") from None
        if isinstance(answer, str):
            raise SystemFailedError(answer)
        return answer

    def _kill(self, reason: str) -> None:
        self._process.kill()
        self._process.wait()
        raise SystemFailedError(reason)


@dataclass
class Record:
    """What a system did in a workload."""

    seconds: list[float] = field(default_factory=list)
    ceilings: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0
    vectors: Vectors | None = None
    failure: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ceiling(self) -> float:
        return statistics.median(max(rates.values()) for rates in self.ceilings)


class Comparison:
    """All measurements: by workload, group of systems that took turns, and system."""

    def __init__(self, arguments: argparse.Namespace, groups: Sequence[Sequence[str]], absent: dict[str, str]) -> None:
        self.arguments = arguments
        self.groups = groups
        self.absent = absent
        self.workloads = [make_workload(name, arguments.scale) for name in arguments.workloads]
        self.config = Qwen3Config.load(arguments.folder)
        self.ceiling = Ceiling()
        self.records: dict[str, list[dict[str, Record]]] = {
            workload.name: [{name: Record() for name in group} for group in groups] for workload in self.workloads
        }

    def run(self) -> None:
        for index, group in enumerate(self.groups):
            workers: dict[str, Worker] = {}
            try:
                for workload in self.workloads:
                    say(f"{workload.name}: {', '.join(group)}")
                    self._measure(workload, self.records[workload.name][index], workers)
                    self.save()
            finally:
                for worker in workers.values():
                    worker.close()

    def _measure(self, workload: Workload, records: dict[str, Record], workers: dict[str, Worker]) -> None:
        for name, record in records.items():
            try:
                if name not in workers or not workers[name].alive:
                    workers[name] = Worker(name, self.arguments.folder, self.arguments.timeout)
                workers[name].prepare(workload.paths)
            except SystemFailedError as error:
                record.failure = str(error)
        for repetition in range(-self.arguments.warm_ups, self.arguments.repetitions):
            names = [name for name, record in records.items() if record.failure is None]
            if len(names) < min(2, len(records)):
                break  # nothing to compare with
            first = repetition % len(names)
            rates = self.ceiling.measure()
            for name in names[first:] + names[:first]:
                record = records[name]
                try:
                    seconds, record.peak_bytes, record.vectors = workers[name].run()
                except SystemFailedError as error:
                    record.failure = str(error)
                    say(f"  {name}: {error}")
                    continue
                say(f"  {'warm-up' if repetition < 0 else repetition + 1} {name}: {seconds:.3f} s")
                if repetition >= 0:
                    record.seconds.append(seconds)
                    record.ceilings.append(rates)

    def results(self, workload: Workload) -> dict[str, dict[str, Any]]:
        """A row for each system."""
        groups = self.records[workload.name]
        anchor = self.groups[0][0]
        done = {
            name: (record, group)
            for group in reversed(groups)
            for name, record in group.items()
            if record.failure is None and record.seconds
        }

        def speed(name: str) -> float | None:
            """Relative to the system that is in every group."""
            record, group = done[name]
            return group[anchor].median / record.median if group[anchor].seconds else None

        reference = next((name for name in REFERENCES if name in done), None)
        tokens, _ = workload.count_distinct()
        flops = minimal_flops(workload, self.config)
        rows: dict[str, dict[str, Any]] = {}
        for name in chain(*self.groups, self.absent):
            if name in rows:
                continue
            if name not in done:
                failure = self.absent.get(name) or next(
                    (record.failure for group in groups if (record := group.get(name)) and record.failure), "not run"
                )
                rows[name] = {"failure": failure}
                continue
            record, group = done[name]
            ratio, same = None, False
            if BASELINE in done:
                same = BASELINE in group and group[BASELINE].seconds != []
                ours, theirs = speed(name), speed(BASELINE)
                if same:
                    ratio = group[BASELINE].median / record.median
                elif ours and theirs:
                    ratio = ours / theirs
            rows[name] = {
                "seconds": record.seconds,
                "median_seconds": record.median,
                "tokens_per_second": workload.num_tokens / record.median,
                "ratio": ratio,
                "ratio_through": None if same or ratio is None else anchor,
                "share_of_ceiling": flops / record.median / record.ceiling,
                "ceilings": record.ceilings,
                "peak_bytes": record.peak_bytes,
                "min_cosine": compare(record.vectors, done[reference][0].vectors) if reference else None,
                "reference": reference,
                "distinct_tokens_per_second": tokens / record.median,
            }
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(sys.argv),
            "machine": describe_machine(),
            "layers": self.config.num_hidden_layers,
            "repetitions": self.arguments.repetitions,
            "scale": self.arguments.scale,
            "groups": self.groups,
            "titles": {name: entry.title for name, entry in SYSTEMS.items()},
            "versions": versions(),
            "workloads": [
                {
                    "name": workload.name,
                    "about": workload.about,
                    "num_texts": len(workload.paths),
                    "num_tokens": workload.num_tokens,
                    "num_distinct_tokens": workload.count_distinct()[0],
                    "minimal_flops": minimal_flops(workload, self.config),
                    "systems": self.results(workload),
                }
                for workload in self.workloads
            ],
        }

    def save(self) -> None:
        """So that a run that is stopped leaves what it has."""
        if self.arguments.json:
            partial = self.arguments.json.with_suffix(".partial")
            partial.write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
            partial.replace(self.arguments.json)


def compare(vectors: Vectors | None, reference: Vectors | None) -> float:
    """The smallest cosine of two sets of unit vectors."""
    assert vectors is not None
    assert reference is not None
    return float((vectors.astype(np.float64) * reference).sum(axis=1).min())


def render(result: dict[str, Any]) -> str:
    """The Markdown of a comparison."""
    machine = result["machine"]
    ceilings = [
        rates
        for workload in result["workloads"]
        for row in workload["systems"].values()
        for rates in row.get("ceilings", ())
    ]
    best = {way: statistics.median(rates[way] for rates in ceilings) / 1e9 for way in (ceilings[0] if ceilings else ())}
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, {machine['capability']}; "
        f"{result['layers']} layers, scale {result['scale']:g}, medians of {result['repetitions']}.",
        "Best float32 products in GFLOP/s, by way: "
        + ", ".join(f"{way} {rate:.0f}" for way, rate in best.items())
        + f" ({CEILING_ROWS} rows, {machine['threads']} threads).",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
    ]
    marked = False
    for workload in result["workloads"]:
        shared = workload["num_tokens"] - workload["num_distinct_tokens"]
        lines += [
            "",
            f"### {workload['name']}: {workload['num_texts']} {workload['about']}"
            if workload["num_texts"] > 1
            else f"### {workload['name']}: {workload['about']}",
            "",
            f"{workload['num_tokens']:,} tokens" + (f", {shared:,} of them shared" if shared else "") + ".",
            "",
            "| system | seconds (least-most) | tokens/s | speed | share of ceiling | peak GiB | smallest cosine |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, row in workload["systems"].items():
            title = result["titles"][name]
            if "failure" in row:
                lines.append(f"| {title} | {row['failure'].replace('|', '/')[:90]} | | | | | |")
                continue
            ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}x" + ("\\*" if row["ratio_through"] else "")
            marked |= "*" in ratio
            cosine = "-" if row["min_cosine"] is None else f"{row['min_cosine']:.6f}"
            cells = (
                title,
                f"{row['median_seconds']:.3g} ({min(row['seconds']):.3g}-{max(row['seconds']):.3g})",
                f"{row['tokens_per_second']:,.0f}",
                ratio,
                f"{row['share_of_ceiling']:.0%}",
                f"{row['peak_bytes'] / 2**30:.2f}",
                "reference" if name == row["reference"] else cosine,
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Speed is relative to sentence-transformers. The share is that of the best float32 rate, and counts the "
        "operations that cannot be avoided (no padding, shared tokens once, every layer in full); it can pass 100 % "
        "where the last layer is computed for the read tokens alone, and with types that are faster than float32.",
    ]
    if marked:
        anchor = result["titles"][result["groups"][0][0]]
        lines += ["", f"\\* Not in turns with sentence-transformers: through {anchor}, which took turns with both."]
    return "\n".join(lines)


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = text.partition("model name")[2].splitlines()[0].lstrip("\t: ")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def versions() -> dict[str, str]:
    found = {}
    for distribution in ("torch", *dict.fromkeys(entry.distribution for entry in SYSTEMS.values())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[distribution] = importlib.metadata.version(distribution)
    return found


def available_gib() -> float:
    """Memory that can be had without swapping; without end where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(text.partition("MemAvailable:")[2].split()[0]) / 2**20
    except (OSError, IndexError):
        return float("inf")


def form_groups(names: Sequence[str], config: Qwen3Config, together: int | None) -> list[list[str]]:
    """Systems that take turns: the first in each group, and as many others as fit beside it."""

    def gib(name: str) -> float:
        return config.num_parameters * SYSTEMS[name].weight_bytes * 1.25 / 2**30 + 0.5

    anchor, *others = names
    room = available_gib() - RESERVE_GIB - gib(anchor)
    groups: list[list[str]] = []
    left = 0.0
    for name in others:
        full = len(groups[-1]) >= together if groups and together else left < gib(name)
        if not groups or full:
            groups.append([anchor])
            left = room
        groups[-1].append(name)
        left -= gib(name)
    return groups or [[anchor]]


def make_file(command: str, what: str, folder: Path) -> str | None:
    """Have `peer_systems.py` write something, in a process of its own; why it could not."""
    say(f"writing {what} to {folder}")
    script = Path(__file__).with_name("peer_systems.py")
    process = subprocess.run(
        [sys.executable, script, command, what, folder], capture_output=True, text=True, check=False
    )
    if process.returncode == 0:
        return None
    print(process.stderr, file=sys.stderr)
    return f"export failed: {(process.stderr.strip().splitlines() or ['no message'])[-1]}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="W1,W1i,W2,W3,W4,W5", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--systems", default=",".join(DEFAULT_SYSTEMS), help=f"beside Quernel: of {', '.join(SYSTEMS)}")
    parser.add_argument("--dtype", "--quernel-dtypes", dest="dtypes", default="float32", help="of Quernel, one or more")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, default=1, help="runs that are not counted")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each workload's texts")
    parser.add_argument("--together", type=int, help="systems in memory at once; by default as many as fit")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that one answer may take")
    parser.add_argument("--folder", type=Path, help="where models are kept; by default in the temporary folder")
    parser.add_argument("--json", type=Path, help="where the numbers go; written after every workload")
    arguments = parser.parse_args()
    arguments.workloads = arguments.workloads.split(",")
    ours = [f"quernel-{dtype}" for dtype in arguments.dtypes.split(",") if dtype]
    arguments.systems = list(dict.fromkeys([*ours, *filter(None, arguments.systems.split(","))]))
    for chosen, known in ((arguments.workloads, WORKLOADS), (arguments.systems, SYSTEMS)):
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if arguments.folder is None:
        arguments.folder = Path(tempfile.gettempdir()) / "quernel-peers" / f"{arguments.layers}-layers"
    return arguments


def main() -> None:
    """Make the models, take turns, print."""
    arguments = parse()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer_config.json").exists():  # written last
        failure = make_file("checkpoint", str(arguments.layers), folder)
        if failure is not None:
            sys.exit(failure)
    config = Qwen3Config.load(folder)
    if config.num_hidden_layers != arguments.layers:
        sys.exit(f"{folder} holds {config.num_hidden_layers} layers, not {arguments.layers}; choose another --folder.")
    absent: dict[str, str] = {}
    for name in arguments.systems:
        entry = SYSTEMS[name]
        if not entry.installed:
            absent[name] = "not installed"
        elif entry.file and not (folder / entry.file).exists():
            failure = make_file("export", entry.file, folder)
            if failure is not None:
                absent[name] = failure
    present = [name for name in arguments.systems if name not in absent]
    comparison = Comparison(arguments, form_groups(present, config, arguments.together), absent)
    try:
        comparison.run()
    except KeyboardInterrupt:
        say("stopped; what was measured follows")
    print(render(comparison.to_dict()))


if __name__ == "__main__":
    main()
