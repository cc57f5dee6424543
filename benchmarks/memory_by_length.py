"""Peak memory of one long text, by its length: it must grow linearly, so that 32,768 tokens fit.

    python benchmarks/memory_by_length.py

Each length runs in a process of its own (peak memory is a property of a process), on a random model of a small width.
Prints a Markdown table.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch

from quernel.engine.runner import ModelRunner
from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3

CONFIG = Qwen3Config(
    vocab_size=32_000,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=32_768,
)
LENGTHS = (1_024, 4_096, 8_192, 16_384, 32_768)


def peak_mebibytes() -> float:
    """Highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(length: int) -> None:
    """Print peak MiB of the run above the loaded model, and its seconds."""
    torch.manual_seed(0)
    runner = ModelRunner(Qwen3(CONFIG).eval())
    runner.run([((1,),)])
    before = peak_mebibytes()
    start = time.perf_counter()
    runner.run([(tuple(torch.randint(0, CONFIG.vocab_size, (length,)).tolist()),)])
    print(peak_mebibytes() - before, time.perf_counter() - start)


def print_table() -> None:
    """A row for each length."""
    print("| tokens | peak MiB above the model | KiB a token | seconds |")
    print("|---:|---:|---:|---:|")
    for length in LENGTHS:
        run = subprocess.run(
            [sys.executable, __file__, "--measure", str(length)], capture_output=True, text=True, check=True
        )
        mebibytes, seconds = map(float, run.stdout.split())
        print(f"| {length:,} | {mebibytes:.0f} | {mebibytes * 1024 / length:.1f} | {seconds:.1f} |")


def main() -> None:
    """The table, or one length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    else:
        print_table()


if __name__ == "__main__":
    main()
