"""Causal attention of texts of one length on this CPU: torch's kernel, and products of blocks of rows.

    python benchmarks/cpu_attention.py [--lengths 26,64,100,128,180,256,360,512,1024] [--repetitions 9]

About 512 rows in texts of each length, with the heads of Qwen3-Embedding-0.6B (16, of which two share a key/value head
of 128). Milliseconds, medians; the candidates alternate. It is what `BLOCK_ROWS` and `BLOCKS_FROM` in
`quernel.model.attention` were chosen by. Run it on a machine that does nothing else.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

from quernel.model import attention

HEADS, GROUPS, HEAD_DIM, ROWS = 16, 8, 128, 512
BLOCKS = (32, 64, 128, 256)


def candidates(dtype: torch.dtype, length: int) -> dict[str, Callable[[], None]]:
    """What attends, by name."""
    count = max(1, ROWS // length)
    query = torch.randn(count * length, HEADS, HEAD_DIM).to(dtype)
    key, value = (torch.randn(count * length, GROUPS, HEAD_DIM).to(dtype) for _ in range(2))
    texts = [slice(number * length, (number + 1) * length) for number in range(count)]

    def kernel() -> None:
        for text in texts:
            attention._attend(query[text], key[text], value[text], causal=True)

    def blocks(size: int) -> Callable[[], None]:
        def work() -> None:
            with patch.dict(attention.BLOCK_ROWS, {dtype: size}):
                for text in texts:
                    attention._attend_in_blocks(query[text], key[text], value[text])

        return work

    return {"kernel": kernel} | {f"blocks of {size}": blocks(size) for size in BLOCKS}


def measure(works: dict[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repetitions + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) * 1000 for name, values in seconds.items()}


def main() -> None:
    """A table for each type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="26,64,100,128,180,256,360,512,1024")
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    names = ["kernel", *(f"blocks of {size}" for size in BLOCKS)]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        print(f"\n| {str(dtype).removeprefix('torch.')}, tokens | {' | '.join(names)} |\n|---:|{'---:|' * len(names)}")
        for length in map(int, arguments.lengths.split(",")):
            found = measure(candidates(dtype, length), arguments.repetitions)
            print(f"| {length} | {' | '.join(f'{found[name]:.2f}' for name in names)} |", flush=True)


if __name__ == "__main__":
    main()
