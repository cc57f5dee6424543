"""Which matrix product is fastest on this CPU, at the shapes of Qwen3-Embedding-0.6B.

    python benchmarks/cpu_gemm.py [--rows 1,32,128,512,1024,4096] [--repetitions 7]

GFLOP/s of the four products of a layer, back to back, with different weights each time so that nothing stays in a
cache that would not in a model. The candidates alternate within one run; medians. Prints a Markdown table. Run it on a
machine that does nothing else.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

SHAPES = ((1024, 2048), (1024, 1024), (1024, 1024), (2048, 1024), (1024, 3072), (1024, 3072), (3072, 1024))
FUSED = ((1024, 4096), (2048, 1024), (1024, 6144), (3072, 1024))
NUM_LAYERS = 3

Product = Callable[[torch.Tensor], torch.Tensor]


def plain(weight: torch.Tensor, rows: int) -> Product:
    """`F.linear`, as modules call it."""
    return lambda x: F.linear(x, weight)


def prepacked(weight: torch.Tensor, rows: int) -> Product:
    """oneDNN with the weight in its own order, prepared for this number of rows."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def mkl(weight: torch.Tensor, rows: int) -> Product:
    """MKL with the weight packed for exactly this number of rows."""
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)


def int8(weight: torch.Tensor, rows: int) -> Product:
    """torch's dynamic int8: one scale for all activations, weights per channel."""
    scales = weight.float().abs().amax(dim=1) / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    quantised = torch.quantize_per_channel(weight.float(), scales.double(), zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantised, None)
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, False)


CANDIDATES: dict[str, tuple[tuple[tuple[int, int], ...], torch.dtype, Callable[[torch.Tensor, int], Product]]] = {
    "float32": (SHAPES, torch.float32, plain),
    "float32 fused": (FUSED, torch.float32, plain),
    "float32 fused oneDNN": (FUSED, torch.float32, prepacked),
    "float32 fused MKL": (FUSED, torch.float32, mkl),
    "bfloat16": (SHAPES, torch.bfloat16, plain),
    "bfloat16 fused": (FUSED, torch.bfloat16, plain),
    "bfloat16 fused oneDNN": (FUSED, torch.bfloat16, prepacked),
    "int8 fused": (FUSED, torch.float32, int8),
}


def prepare(name: str, rows: int) -> tuple[Callable[[], None], int]:
    """What runs a candidate once, and its operations."""
    shapes, dtype, make = CANDIDATES[name]
    inputs = {width: torch.randn(rows, width).to(dtype) for width, _ in shapes}
    products = [
        (make(torch.randn(out, width).mul(0.02).to(dtype), rows), width)
        for _ in range(NUM_LAYERS)
        for width, out in shapes
    ]

    def once() -> None:
        for product, width in products:
            product(inputs[width])

    return once, NUM_LAYERS * sum(2 * rows * width * out for width, out in shapes)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,32,128,512,1024,4096")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}\n")
    print("| rows | " + " | ".join(CANDIDATES) + " |")
    print("|---:|" + "---:|" * len(CANDIDATES))
    for rows in map(int, arguments.rows.split(",")):
        ready = {}
        for name in CANDIDATES:
            try:
                once, flops = prepare(name, rows)
                once()
                ready[name] = once, flops
            except (RuntimeError, AttributeError):
                pass
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(arguments.repetitions):
            for name, (once, _) in ready.items():
                start = time.perf_counter()
                once()
                seconds[name].append(time.perf_counter() - start)
        cells = [
            f"{ready[name][1] / statistics.median(seconds[name]) / 1e9:.0f}" if name in ready else "-"
            for name in CANDIDATES
        ]
        print(f"| {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
