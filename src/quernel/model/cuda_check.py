"""Which parts of the CUDA fast path give the right numbers on this device: asked once, at start.

Kernels are compiled for the device that is found, by the driver and the compiler that are found, so no test of ours has
seen this combination. Each part runs on small inputs in the model's type, and is compared with its definition in
float32, on the same device. A part that differs, or fails, is not used, and the log says so with the numbers.

Shapes:
    Q   rows                                  H   query heads
    D   width of a head                       G   key/value heads
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from quernel.model.attention import reference_attention
from quernel.model.config import Qwen3Config
from quernel.model.cuda_attention import (
    VarlenKernel,
    attend_varlen,
    flash_kernel,
    has_flash_kernel,
    plan_varlen_reads,
    plan_varlen_rows,
)
from quernel.model.cuda_graphs import GraphedForward
from quernel.model.layout import Layout, Segment
from quernel.model.qwen3 import Qwen3

logger = logging.getLogger(__name__)

TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest difference from the definition in float32, as a share of its largest value: a few roundings of the type."""

GRAPH_TOLERANCE = 0.1
"""The same for a whole model run twice in half precision, in batches of different sizes."""

Part: TypeAlias = Callable[..., Any]
"""A component under test, with the signature that its name says."""

Outputs: TypeAlias = list[tuple[Tensor, Tensor]]
"""What a part gave, and what it should have given, in float32."""


@dataclass(frozen=True, slots=True)
class _Case:
    """Random inputs for a model on a device, the same each time."""

    config: Qwen3Config
    device: torch.device
    dtype: torch.dtype

    def random(self, seed: int, *shape: int) -> Tensor:
        """Normal values in the type. Made on the CPU: the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype)


def fast_parts(config: Qwen3Config, device: torch.device, dtype: torch.dtype) -> dict[str, Part]:
    """The parts that this machine may have, by name; none of them is tried yet.

    Args:
        config: The model's shape.
        device: Where it runs.
        dtype: The type it computes in.
    """
    if device.type != "cuda":
        return {}
    parts: dict[str, Part] = {}
    if has_flash_kernel(device, dtype, config.head_dim):
        parts["varlen_attention"] = flash_kernel
    try:
        from quernel.model import cuda_kernels
    except ImportError as error:
        logger.warning("No fused kernels on %s: %s. Plain ones run instead, which is slower.", device, error)
    else:
        parts |= {
            "rms_norm": cuda_kernels.rms_norm,
            "silu_and_multiply": cuda_kernels.silu_and_multiply,
        }
        if config.head_dim.bit_count() == 1:
            parts["norm_and_rotate"] = cuda_kernels.norm_and_rotate
    return parts


def verify_fast_path(
    config: Qwen3Config, device: torch.device, dtype: torch.dtype, parts: Mapping[str, Part]
) -> list[str]:
    """The names of the parts that may be used, in the order given. Says in the log what may not, and why.

    Args:
        config: The model's shape.
        device: Where it runs.
        dtype: The type it computes in.
        parts: Those of `fast_parts`, or others of the same signatures.
    """
    case = _Case(config, device, dtype)
    return [name for name, part in parts.items() if _agrees(name, part, case)]


def graphs_agree(graphs: GraphedForward, model: Qwen3) -> bool:
    """Whether recorded forwards of a few texts give what the model gives; says in the log if they do not.

    Args:
        graphs: Of the model.
        model: On its device.
    """
    texts = [[*range(1, length + 1)] for length in (5, 1, 20, 9)]
    try:
        with torch.inference_mode():
            token_ids = torch.tensor([token for text in texts for token in text], device=model.norm.weight.device)
            expected = model(token_ids, Layout.from_lengths([len(text) for text in texts])).float().cpu()
            graphs(texts[::-1])  # so that the second time is a replay with other texts than were recorded
            difference = _difference(graphs(texts), expected)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, the plain path still runs
        logger.warning("CUDA graphs fail and are not used: %s: %s", type(error).__name__, error)
        return False
    if difference > GRAPH_TOLERANCE:
        logger.warning("CUDA graphs are wrong and are not used: off by %.1e.", difference)
    return difference <= GRAPH_TOLERANCE


def _agrees(name: str, part: Part, case: _Case) -> bool:
    limit = TOLERANCES[case.dtype]
    where = f"{case.device} in {str(case.dtype).removeprefix('torch.')}"
    try:
        with torch.inference_mode():
            differences = [_difference(ours, reference) for ours, reference in _CHECKS[name](part, case)]
    except Exception as error:  # noqa: BLE001 - whatever a compiler or driver raises, the plain path still runs
        logger.warning("%s fails on %s and is not used: %s: %s", name, where, type(error).__name__, error)
        return False
    worst = max(differences)
    if worst <= limit:
        return True
    logger.warning("%s is wrong on %s and is not used: off by %.1e, allowed %.1e.", name, where, worst, limit)
    return False


def _difference(ours: Tensor, reference: Tensor) -> float:
    """The largest, as a share of the largest value; infinite where any is not a number."""
    if ours.shape != reference.shape:
        raise ValueError(f"the result is {list(ours.shape)}, not {list(reference.shape)}")
    worst = (ours.float() - reference).abs().max() / reference.abs().max()
    return worst.nan_to_num(nan=math.inf).item()


def _check_attention(kernel: VarlenKernel, case: _Case) -> Outputs:
    """A forest with cached rows, three depths, and more than a tile of rows in a segment, all rows and reads alone."""
    lengths, parents = [40, 200, 1, 33, 130, 64], [None, 0, 0, 1, 1, None]
    starts = [*accumulate(lengths, initial=0)]
    segments: list[Segment] = []
    for start, length, parent in zip(starts, lengths, parents, strict=False):
        above = None if parent is None else segments[parent]
        segments.append(Segment(start, length, parent, above.position + above.length if above else 0))
    layout = Layout(tuple(segments), reads=(4, 2, 5, 3), num_cached=lengths[0])
    heads, groups, width = case.config.num_attention_heads, case.config.num_key_value_heads, case.config.head_dim
    query = case.random(0, layout.num_tokens, heads, width)
    key, value = (case.random(seed, starts[-1], groups, width) for seed in (1, 2))
    reference = reference_attention(query.float(), key.float(), value.float(), layout)
    reads = [layout.rows(index).stop - 1 for index in layout.reads]
    return [
        (attend_varlen(query, key, value, plan_varlen_rows(layout, case.device), kernel), reference),
        (attend_varlen(query[reads], key, value, plan_varlen_reads(layout, case.device), kernel), reference[reads]),
    ]


def _check_rms_norm(rms_norm: Part, case: _Case) -> Outputs:
    x, weight, eps = case.random(0, 37, case.config.hidden_size), _scales(case), case.config.rms_norm_eps
    return [(rms_norm(x, weight, eps), _norm(x, weight, eps))]


def _check_norm_and_rotate(norm_and_rotate: Part, case: _Case) -> Outputs:
    outputs = []
    width, eps = case.config.head_dim, case.config.rms_norm_eps
    turns = case.random(3, 37, 1, width // 2).float() * 3
    weight = _scales(case, width)
    for heads in (case.config.num_attention_heads, case.config.num_key_value_heads):
        x = case.random(heads, 37, heads, width)
        first, second = _norm(x, weight, eps).chunk(2, dim=-1)
        cos, sin = turns.cos(), turns.sin()
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        outputs.append((norm_and_rotate(x, weight, cos, sin, eps), turned))
    return outputs


def _check_silu_and_multiply(silu_and_multiply: Part, case: _Case) -> Outputs:
    gate, up = (case.random(seed, 37, case.config.intermediate_size) for seed in (0, 1))
    return [(silu_and_multiply(gate, up), F.silu(gate.float()) * up.float())]


def _scales(case: _Case, width: int | None = None) -> Tensor:
    """Norm weights that differ from 1, so that one left out shows."""
    return case.random(9, width or case.config.hidden_size) * 0.2 + 1


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps)


_CHECKS: dict[str, Callable[[Any, _Case], Outputs]] = {
    "varlen_attention": _check_attention,
    "rms_norm": _check_rms_norm,
    "norm_and_rotate": _check_norm_and_rotate,
    "silu_and_multiply": _check_silu_and_multiply,
}
