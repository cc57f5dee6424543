"""What the gateway adds to a call: times at a fixed rate, and the most requests a second, next to LiteLLM's proxy.

    python benchmarks/gateway.py [--litellm PATH/TO/bin/litellm] [--rate 200] [--seconds 20] [--rounds 5]

All ask the same provider (`gateway_upstream.py`, which answers in about 0.1 ms) for one short text's vector of 1024
numbers as base64, with a client in a process of its own (`gateway_load.py`). The gateway runs in one process on one
core, with a key, metering by the model's own tokenizer, a hold and a charge for each request, and a row of usage, all
written to SQLite before the answer is given out. LiteLLM (`pip install 'litellm[proxy]'` in an environment of its own)
runs with a master key and without a database, since its own takes a download: it meters nothing. Client and provider
have the other core. Directly, through the gateway and through LiteLLM take turns; medians of the rounds.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL, KEY = "bench/embedding", "sk-benchmark"
TEXT = "what is the capital of france and how many people live there"

SETTINGS = """
[gateway]
database = "sqlite:///{folder}/gateway.db"
[server]
access_log = false
[[catalogue]]
name = "{model}"
kind = "embedding"
dimensions = 1024
max_tokens = 8192
tokenizer = "{tokenizer}"
[[providers]]
slug = "bench"
format = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[[providers.models]]
model = "{model}"
prices = [{{ usd_per_million_tokens = "0.01" }}]
"""

LITELLM_SETTINGS = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{port}/v1
      api_key: none
general_settings:
  master_key: {key}
litellm_settings:
  drop_params: true
  telemetry: false
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(
    stack: ExitStack, core: int, *command: str, environment: Mapping[str, str] | None = None, speaks: bool = False
) -> subprocess.Popen[str]:
    """A process on one core, for as long as the stack lasts. What it says is dropped unless somebody listens."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.PIPE if speaks else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def wait_for(url: str, headers: Mapping[str, str], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    """Until an embedding is answered there by a process that was started."""
    body = json.dumps({"model": MODEL, "input": [TEXT], "encoding_format": "base64"}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).read()
            return
        except OSError:
            if process.poll() is not None:
                sys.exit(f"What was to answer at {url} ended with {process.returncode}.")
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def measure(url: str, headers: Mapping[str, str], seconds: float, *how: str) -> dict[str, Any]:
    """What the client tells."""
    asked = {"headers": dict(headers), "body": {"model": MODEL, "input": [TEXT], "encoding_format": "base64"}}
    command = ["taskset", "-c", "1", sys.executable, str(HERE / "gateway_load.py"), url, str(seconds), *how]
    done = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def resident_mib(process: subprocess.Popen[str]) -> float:
    """Memory of a process and its children."""
    pids = [process.pid]
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        pids += map(int, children.read_text().split()) if children.exists() else []
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


def start_systems(stack: ExitStack, folder: Path, litellm: str | None) -> dict[str, tuple[str, dict[str, str], Any]]:
    """The provider, and what stands before it: name to address, headers and process."""
    import quernel

    port = free_port()
    provider = start(stack, 1, sys.executable, str(HERE / "gateway_upstream.py"), str(port))
    directly = f"http://127.0.0.1:{port}/v1/embeddings"
    wait_for(directly, {}, provider)
    tokenizer = Path(quernel.__file__).parent / "builtin" / "tiny-embedding"
    config = folder / "gateway.toml"
    config.write_text(SETTINGS.format(folder=folder, model=MODEL, tokenizer=tokenizer, port=port))
    cli = [sys.executable, "-c", "from quernel.cli.main import main; main()", "gateway", "--no-local", "--json", "-q"]
    gateway = start(stack, 0, *cli, "--config", str(config), "-p", "0", speaks=True)
    assert gateway.stdout is not None
    ready = json.loads(gateway.stdout.readline())
    ours = f"{ready['url']}/v1/embeddings", {"authorization": f"Bearer {ready['key']}"}, gateway
    systems: dict[str, tuple[str, dict[str, str], Any]] = {"directly": (directly, {}, None), "Quernel": ours}
    if litellm:
        theirs = free_port()
        yaml = folder / "litellm.yaml"
        yaml.write_text(LITELLM_SETTINGS.format(model=MODEL, port=port, key=KEY))
        command = [litellm, "--config", str(yaml), "--port", str(theirs), "--num_workers", "1"]
        process = start(stack, 0, *command, environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
        url, headers = f"http://127.0.0.1:{theirs}/v1/embeddings", {"authorization": f"Bearer {KEY}"}
        wait_for(url, headers, process)
        systems["LiteLLM"] = (url, headers, process)
    return systems


def main() -> None:
    """Start all, measure in turns, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", help="its program, with the proxy; left out where not given")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 16, 64])
    arguments = parser.parse_args()
    told: defaultdict[str, defaultdict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    loads = {"rate": ["--rate", str(arguments.rate)]}
    loads |= {f"{count}": ["--connections", str(count)] for count in arguments.connections}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        systems = start_systems(stack, Path(folder), arguments.litellm)
        for turn in range(arguments.rounds + 1):
            for name, (url, headers, _) in systems.items():
                for load, how in loads.items():
                    seconds = arguments.seconds if load == "rate" else arguments.seconds / 3
                    result = measure(url, headers, seconds if turn else 3.0, *how)
                    if turn:  # the first round warms up
                        told[name][load].append(result)
                        print(turn, name, load, result, file=sys.stderr, flush=True)
        memory = {name: resident_mib(process) for name, (_, _, process) in systems.items() if process is not None}

    def median(name: str, load: str, what: str) -> float:
        return float(statistics.median(result[what] for result in told[name][load]))

    print(f"At {arguments.rate:g} requests a second, in ms; added is the difference to asking directly:\n")
    print("| | p50 | p99 | added p50 | added p99 | failed |\n|---|---:|---:|---:|---:|---:|")
    for name in systems:
        p50, p99 = median(name, "rate", "p50_ms"), median(name, "rate", "p99_ms")
        added = (p50 - median("directly", "rate", "p50_ms"), p99 - median("directly", "rate", "p99_ms"))
        failed = sum(result["failed"] for result in told[name]["rate"])
        shown = ("", "") if name == "directly" else (f"{added[0]:.2f}", f"{added[1]:.2f}")
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {shown[0]} | {shown[1]} | {failed} |")
    print("\nRequests a second, as many as there can be:\n")
    heads = " | ".join(f"{count} connections" for count in arguments.connections)
    print(f"| | {heads} | memory |\n|---|{'---:|' * len(arguments.connections)}---:|")
    for name in systems:
        rates = " | ".join(f"{median(name, str(count), 'per_second'):,.0f}" for count in arguments.connections)
        print(f"| {name} | {rates} | {f'{memory[name]:,.0f} MiB' if name in memory else ''} |")


if __name__ == "__main__":
    main()
