"""Whether a server's memory stays flat: many small requests of all kinds, and its resident memory along the way.

    python benchmarks/soak.py [--requests 200000] [--connections 16] [--json soak.json] [--plot soak.svg]

The built-in pair is served. Embedding requests of one or eight texts in both encodings and several dimensions take
turns with rerank requests, all with texts that never come again. After a warm-up of a tenth, memory should no longer
grow: the table tells its slope over the rest.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SENDER = Path(__file__).with_name("http_sender.py")
PART = 2_000
WORDS = "river bank wing lift stone data model query paris france music code tree light water engine".split()  # noqa: SIM905


def make_part(number: int, count: int) -> list[dict[str, Any]]:
    """Requests that were not sent before."""
    draw = random.Random(number)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 24))) + f" {draw.getrandbits(40):x}"

    requests = []
    for index in range(count):
        if index % 10 == 9:
            body: dict[str, Any] = {"query": text(), "documents": [text() for _ in range(draw.randint(1, 4))]}
            requests.append({"path": "/v1/rerank", "body": body})
            continue
        body = {
            "input": [text() for _ in range(draw.choice((1, 1, 1, 8)))],
            "encoding_format": draw.choice(("float", "base64")),
            "dimensions": draw.choice((None, 32, 64)),
            "input_type": draw.choice((None, "query", "document")),
        }
        requests.append({"path": draw.choice(("/v1/embeddings", "/embeddings")), "body": body})
    return requests


def resident_mib(pid: int) -> float:
    """Memory that a process and those that it has started hold."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    own = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return own + sum(resident_mib(int(child)) for child in children)


def soak(num_requests: int, connections: int) -> Iterator[tuple[int, float, float]]:
    """Requests so far, memory in MiB, and requests a second, after each part."""
    command = [sys.executable, "-c", "from quernel.cli.main import main; main()", "serve", "-p", "0", "--json", "-q"]
    with subprocess.Popen([*command, "--no-access-log"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["url"].rpartition(":")[2]
            yield 0, resident_mib(server.pid), 0.0
            for number in range(num_requests // PART):
                done = subprocess.run(
                    [sys.executable, str(SENDER), port, str(connections)],
                    input=json.dumps(make_part(number, PART)),
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                yield (number + 1) * PART, resident_mib(server.pid), PART / json.loads(done.stdout)["seconds"]
        finally:
            server.terminate()


def slope(points: list[tuple[int, float, float]]) -> float:
    """Least-squares growth of memory, in MiB for 100,000 requests."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return 100_000 * rise / sum((x - mean_x) ** 2 for x in xs)


def main() -> None:
    """The table, and perhaps the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    points = []
    for point in soak(arguments.requests, arguments.connections):
        points.append(point)
        print(f"{point[0]:>9,} requests  {point[1]:7.1f} MiB  {point[2]:7,.0f} a second", file=sys.stderr, flush=True)
    settled = points[max(len(points) // 10, 1) :]
    print("| requests | at the start | after a tenth | at the end | slope for 100,000 |\n|---:|---:|---:|---:|---:|")
    memory = " | ".join(f"{point[1]:.1f} MiB" for point in (points[0], settled[0], points[-1]))
    print(f"| {points[-1][0]:,} | {memory} | {slope(settled):+.2f} MiB |")
    if arguments.json:
        arguments.json.write_text(json.dumps(points))
    if arguments.plot:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
        axes.plot([point[0] / 1000 for point in points], [point[1] for point in points])
        axes.set(xlabel="thousand requests", ylabel="resident memory, MiB", ylim=(0, None))
        axes.grid(alpha=0.3)
        figure.savefig(arguments.plot, metadata={"Date": None} if arguments.plot.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
