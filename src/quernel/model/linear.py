"""Linear maps without bias, in the forms that machines multiply fastest: plain, packed for oneDNN, and in 8 bits.

All have the same face. What a decoder does right after a product (SiLU, a gate, the residual) is part of it, since a
packed product does that while its output is still in the cache.

Shapes:
    Q   rows                                  I   features in
    O   features out
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKING_ROWS = 512
"""The number of rows that packed weights are laid out for. Any number can be multiplied, at the same speed."""


MAX_ROUNDING = 0.005
"""The share of a weight that 8 bits may lose before another 8 are spent on it. Normally distributed weights lose 0.7 %,
those with a few large values in each row several times that, since the largest sets the scale."""


@dataclass(frozen=True, slots=True)
class QuantisedRows:
    """Rows in 8 bits, each with a scale of its own.

    Attributes:
        values: uint8 `[Q, I]`; the middle of the range is zero.
        scales: float32 `[Q, 1]`.
    """

    values: Tensor
    scales: Tensor


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """A weight in 8 bits, each output channel with a scale of its own.

    Attributes:
        values: int8 `[O, I]`, from -127 to 127.
        scales: float32 `[O]`.
    """

    values: Tensor
    scales: Tensor

    def to(self, device: torch.device) -> "QuantisedWeight":
        """The same on a device."""
        return QuantisedWeight(self.values.to(device), self.scales.to(device))

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The weight that it stands for, `[O, I]`."""
        return (self.values.float() * self.scales.unsqueeze(-1)).to(dtype)


Rows: TypeAlias = Any
"""Rows as a map takes them, which its `prepare` gives: a tensor or `QuantisedRows`. Nobody else looks inside."""

Weight: TypeAlias = Tensor | QuantisedWeight
"""A weight as a checkpoint holds it."""


class Linear(nn.Linear):
    """A weight in its plain form, which can be trained.

    Args:
        num_in: Features in.
        num_out: Features out.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out, bias=False)

    @property
    def num_bytes(self) -> int:
        """Memory of the weight."""
        return self.weight.nbytes

    def prepare(self, x: Tensor) -> Rows:
        """Rows as the other methods take them. Once for several maps of the same kind."""
        return x

    def silu(self, x: Tensor) -> Tensor:
        """`silu(self(x))`, `[Q, O]`."""
        return F.silu(self(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`self(x) * other`, `[Q, O]`."""
        out: Tensor = self(x) * other
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`self(x) + other`, `[Q, O]`."""
        if self.weight.is_cuda:
            return torch.addmm(other, x, self.weight.t())  # added before the product is rounded and written
        out: Tensor = self(x) + other
        return out


class PackedLinear(nn.Module):
    """A weight in the order that oneDNN multiplies in. Not differentiable.

    Source: `torch.ops.mkldnn._linear_pointwise`, which torch's own compiler uses; `benchmarks/cpu_gemm.py`.

    Args:
        weight: `[O, I]`, float32 or bfloat16; not held.

    Attributes:
        num_bytes: Memory of the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.num_bytes = weight.nbytes
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKING_ROWS)

    def prepare(self, x: Tensor) -> Rows:
        """The rows themselves."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """`[Q, I]` to `[Q, O]`."""
        return self._product(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        """`silu(self(x))`, `[Q, O]`."""
        return self._product(x, "swish")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`self(x) * other`, `[Q, O]`."""
        return self._product_with(x, other, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`self(x) + other`, `[Q, O]`."""
        return self._product_with(x, other, "add")

    def _product(self, x: Tensor, then: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, then, [], "")
        return out

    def _product_with(self, x: Tensor, other: Tensor, then: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, None, then)
        return out


class Int8Linear(nn.Module):
    """Weight and rows in 8 bits, products summed exactly in 32, scaled in float32. Not differentiable.

    Each row has its own scale, so what a text was batched with cannot change its result.

    Source: oneDNN, by `torch.ops.onednn.qlinear_pointwise`; scales per channel and per token as in LLM.int8(), arXiv
    2208.07339.

    Args:
        weight: `[O, I]`; not held.
        rest: What the weight leaves over, in 8 bits too, where it is multiplied as well: 16 bits in two products.

    Attributes:
        num_bytes: Memory of the weight, without the rest.
    """

    def __init__(self, weight: QuantisedWeight, rest: QuantisedWeight | None = None) -> None:
        super().__init__()
        self.num_bytes = weight.values.nbytes
        self.rest = None if rest is None else Int8Linear(rest)
        self.packed = torch.ops.onednn.qlinear_prepack(
            weight.values.contiguous(), [PACKING_ROWS, weight.values.shape[1]]
        )
        self.scales = nn.Buffer(weight.scales.contiguous())
        self.zeros = nn.Buffer(torch.zeros(len(weight.scales), dtype=torch.int32))
        self.limit = 127 if _multiplies_int8_exactly(127) else 63

    def prepare(self, x: Tensor) -> QuantisedRows:
        """The rows in 8 bits (7 where the CPU would saturate), rounded to nearest."""
        scales = x.abs().amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny).div_(self.limit)
        return QuantisedRows((x / scales).round_().add_(self.limit + 1).to(torch.uint8), scales)

    def forward(self, x: Rows) -> Tensor:
        """`[Q, I]` to float32 `[Q, O]`."""
        rows = x if isinstance(x, QuantisedRows) else self.prepare(x)
        return self._unscaled(rows.values).mul_(rows.scales)

    def _unscaled(self, rows: Tensor) -> Tensor:
        product = _int8_product(rows, self.limit + 1, self.packed, self.scales, self.zeros)
        return product if self.rest is None else product.add_(self.rest._unscaled(rows))

    def silu(self, x: Rows) -> Tensor:
        """`silu(self(x))`, `[Q, O]`."""
        return F.silu(self(x), inplace=True)

    def times(self, x: Rows, other: Tensor) -> Tensor:
        """`self(x) * other`, `[Q, O]`."""
        out: Tensor = self(x).mul_(other)
        return out

    def plus(self, x: Rows, other: Tensor) -> Tensor:
        """`self(x) + other`, `[Q, O]`."""
        out: Tensor = self(x).add_(other)
        return out


def quantise(weight: Tensor) -> QuantisedWeight:
    """A weight `[O, I]` in 8 bits, rounded to nearest, its largest value of each channel at 127."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny) / 127
    return QuantisedWeight((wide / scales.unsqueeze(-1)).round_().to(torch.int8), scales)


def int8_linear(weight: Weight) -> Int8Linear:
    """The map of a weight in 8 bits; in twice 8 where once would lose more than `MAX_ROUNDING` of it."""
    if isinstance(weight, QuantisedWeight):
        return Int8Linear(weight)
    quantised = quantise(weight)
    if rounding(weight, quantised) <= MAX_ROUNDING:
        return Int8Linear(quantised)
    return Int8Linear(quantised, quantise(weight.float() - quantised.dequantise(torch.float32)))


def rounding(weight: Tensor, quantised: QuantisedWeight) -> float:
    """How much of a weight `[O, I]` is lost, as a share of its root mean square."""
    lost = (weight.float() - quantised.dequantise(torch.float32)).square().mean()
    return float((lost / weight.float().square().mean().clamp(min=torch.finfo(torch.float32).tiny)).sqrt())


def choose_linear(dtype: torch.dtype, device: torch.device) -> Callable[[Weight], nn.Module]:
    """How weights become maps: packed or in 8 bits where this machine can, else plain.

    Args:
        dtype: The type to compute in; int8 for products in 8 bits.
        device: Where.
    """
    if dtype is torch.int8:
        return int8_linear
    if device.type == "cpu" and packing_works(dtype):
        return lambda weight: PackedLinear(_dense(weight, dtype))
    return lambda weight: plain_linear(_dense(weight, dtype))


def plain_linear(weight: Tensor) -> Linear:
    """The map of a weight `[O, I]`, which it shares."""
    with torch.device("meta"):
        linear = Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether products of packed weights agree with plain ones on this machine."""
    try:
        with torch.inference_mode():
            x, weight = torch.ones(3, 32, dtype=dtype), torch.arange(64 * 32, dtype=dtype).view(64, 32).sin()
            packed = PackedLinear(weight)
            agrees = torch.allclose(packed.silu(x), F.silu(F.linear(x, weight)), rtol=0.02, atol=0.02)
            return agrees and torch.allclose(packed.plus(x, packed(x)), 2 * F.linear(x, weight), rtol=0.02, atol=0.02)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


@cache
def int8_works() -> bool:
    """Whether this CPU multiplies in 8 bits, with 8 bits or at least 7 for the rows."""
    return _multiplies_int8_exactly(127) or _multiplies_int8_exactly(63)


@cache
def _multiplies_int8_exactly(limit: int) -> bool:
    """Whether rows of that largest value give exact sums. CPUs without VNNI add pairs in 16 bits, which saturate."""
    width = 64
    weight = torch.full((32, width), 127, dtype=torch.int8)
    rows = torch.full((2, width), 2 * limit + 1, dtype=torch.uint8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weight, [PACKING_ROWS, width])
        product = _int8_product(rows, limit + 1, packed, torch.ones(32), torch.zeros(32, dtype=torch.int32))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((product == 127 * limit * width).all())


def _int8_product(rows: Tensor, zero: int, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """float32 `[Q, O]`. oneDNN multiplies unsigned rows, of which `zero` is zero, with signed weights."""
    out: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return out


def _dense(weight: Weight, dtype: torch.dtype) -> Tensor:
    return weight.dequantise(dtype) if isinstance(weight, QuantisedWeight) else weight.to(dtype)
