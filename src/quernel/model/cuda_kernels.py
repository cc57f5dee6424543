"""Triton kernels for what stands between the matrix products of a layer: each reads its rows once and writes them once.

Importing this module imports Triton, which comes with torch's CUDA builds and not with its CPU builds: import it late.
Each function is arithmetic of `quernel.model.layers` on CUDA tensors, as its first line says; inside, all is float32.
Inference only: no gradients.

Under `TRITON_INTERPRET=1`, set before the import, the same code runs on the CPU.

Shapes:
    Q   rows                                  C   width of a row
    H   heads of a row                        D   width of a head
"""
# Triton's language takes no annotations but `tl.constexpr`, its decorator has no types, and a kernel takes pointers.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

ELEMENTS = 1024
"""Elements of a program where rows do not matter: enough to fill wide loads, few enough to fill the device."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`RMSNorm.forward`: each row scaled to mean square 1, times the weight. `[Q, C]`, contiguous.

    Args:
        x: `[Q, C]`; a row's elements are neighbours in memory.
        weight: `[C]`.
        eps: Added to the mean square.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    block = triton.next_power_of_2(x.shape[-1])
    _rms_norm[(x.shape[0],)](x, weight, out, x.stride(0), x.shape[-1], eps, block, num_warps=_warps(block))
    return out


def norm_and_rotate(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """`rotate(RMSNorm.wide(x), cos, sin)` for each head of each row, in the type of `x`. `[Q, H, D]`, contiguous.

    Args:
        x: `[Q, H, D]`; the elements of a row are neighbours, rows need not be (a part of a wider projection).
        weight: `[D]`, D a power of two.
        cos: `[Q, 1, D/2]`, contiguous.
        sin: `[Q, 1, D/2]`, likewise.
        eps: Added to the mean square.
    """
    num_rows, num_heads, head_dim = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    heads = triton.next_power_of_2(num_heads)
    _norm_and_rotate[(num_rows,)](
        x, weight, cos, sin, out, x.stride(0), num_heads, eps, heads, head_dim // 2, num_warps=_warps(heads * head_dim)
    )
    return out


def silu_and_multiply(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, as in `MLP.forward`. The shape of both, contiguous.

    Args:
        gate: Contiguous.
        up: The same shape, contiguous.
    """
    out = torch.empty_like(gate)
    grid = (triton.cdiv(gate.numel(), ELEMENTS),)
    _silu_and_multiply[grid](gate, up, out, gate.numel(), ELEMENTS, num_warps=4)
    return out


def _warps(elements: int) -> int:
    """Warps for a program over so many elements: 8 or more to a thread, 16 warps at most."""
    return min(max(elements // 256, 1), 16)


@triton.jit
def _scaled(x, weight, size, eps):
    """`x` over its root mean square, rounded as `RMSNorm` rounds it, times the weight; float32."""
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / size + eps)
    return normed.to(weight.dtype).to(tl.float32) * weight.to(tl.float32)


@triton.jit
def _rms_norm(x, weight, out, stride, size, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < size
    part = tl.load(x + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    scales = tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(out + row * size + columns, _scaled(part, scales, size, eps).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_and_rotate(x, weight, cos, sin, out, stride, num_heads, eps, heads: tl.constexpr, half: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, half)
    head = tl.arange(0, heads)
    inside = (head < num_heads)[:, None]
    here = head[:, None] * (2 * half) + columns[None, :]
    first = tl.load(x + row * stride + here, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + row * stride + here + half, mask=inside, other=0.0).to(tl.float32)
    square = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    scale = tl.rsqrt(square / (2 * half) + eps)[:, None]
    first = first * scale * tl.load(weight + columns).to(tl.float32)[None, :]
    second = second * scale * tl.load(weight + half + columns).to(tl.float32)[None, :]
    turn_cos = tl.load(cos + row * half + columns).to(tl.float32)[None, :]
    turn_sin = tl.load(sin + row * half + columns).to(tl.float32)[None, :]
    there = out + row * num_heads * (2 * half) + here
    dtype = out.dtype.element_ty
    tl.store(there, (first * turn_cos - second * turn_sin).to(dtype), mask=inside)
    tl.store(there + half, (second * turn_cos + first * turn_sin).to(dtype), mask=inside)


@triton.jit
def _silu_and_multiply(gate, up, out, size, block: tl.constexpr):
    here = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = here < size
    left = tl.load(gate + here, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(up + here, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + here, (left * tl.sigmoid(left) * right).to(out.dtype.element_ty), mask=inside)
