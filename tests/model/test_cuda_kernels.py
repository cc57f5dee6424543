"""The Triton kernels against the layers, interpreted on the CPU, or compiled where there is a CUDA device."""

import os

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
pytest.importorskip("triton", reason="Triton is not installed; torch's CPU builds come without it")

from quernel.model import cuda_kernels
from quernel.model.cuda_check import verify_fast_path
from quernel.model.cuda_kernels import norm_and_rotate, rms_norm, silu_and_multiply
from quernel.model.layers import RMSNorm, rotate
from tests.model.test_cuda_check import CONFIG

# Triton 3.9 announces a default of 3.10 when it first compiles; our tolerances hold with either.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest difference over the largest value: a few roundings of the type."""

dtypes = pytest.mark.parametrize("dtype", LIMITS, ids=str)
rows_and_widths = pytest.mark.parametrize(
    ("rows", "width"), [(1, 128), (1, 2560), (7, 1024), (7, 2560), (7, 4096), (513, 128), (33, 4096)]
)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def norm(width, dtype):
    module = RMSNorm(width, 1e-6).to(DEVICE, dtype).requires_grad_(False)
    module.weight.copy_(random(width, dtype=dtype, seed=9) * 0.2 + 1)
    return module


def angles(rows, head_dim):
    turns = random(rows, 1, head_dim // 2, seed=8) * 3
    return turns.cos(), turns.sin()


def assert_same(ours, reference):
    assert ours.shape == reference.shape
    assert ours.dtype is reference.dtype
    difference = ((ours.float() - reference.float()).abs().max() / reference.float().abs().max()).item()
    assert difference <= LIMITS[ours.dtype], f"largest difference {difference:.2e}"


@dtypes
@rows_and_widths
def test_rms_norm_is_the_layer(rows, width, dtype):
    module, x = norm(width, dtype), random(rows, width, dtype=dtype)
    assert_same(rms_norm(x, module.weight, module.eps), module(x))


@dtypes
@pytest.mark.parametrize(("rows", "heads"), [(1, 8), (1, 32), (7, 16), (7, 7), (513, 16), (33, 32)])
def test_norm_and_rotate_is_the_norm_and_the_rotation(rows, heads, dtype):
    module, x = norm(128, dtype), random(rows, heads, 128, dtype=dtype)
    cos, sin = angles(rows, 128)
    assert_same(norm_and_rotate(x, module.weight, cos, sin, module.eps), rotate(module.wide(x), cos, sin).to(dtype))


def test_norm_and_rotate_reads_a_part_of_a_wider_projection():
    module, wide = norm(16, torch.float32), random(5, 12, 16)
    cos, sin = angles(5, 16)
    keys = wide[:, 8:]
    assert_same(norm_and_rotate(keys, module.weight, cos, sin, module.eps), rotate(module(keys), cos, sin))


@dtypes
@pytest.mark.parametrize(("rows", "width"), [(1, 128), (7, 2560), (513, 96)])
def test_silu_and_multiply_is_the_layer(rows, width, dtype):
    gate, up = random(rows, width, dtype=dtype), random(rows, width, dtype=dtype, seed=1)
    assert_same(silu_and_multiply(gate, up), F.silu(gate) * up)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # exp(1e4) in the interpreter
def test_large_values_stay_finite():
    gate = torch.tensor([-1e4, -100.0, 100.0, 1e4], device=DEVICE)
    assert_same(silu_and_multiply(gate, torch.ones_like(gate)), F.silu(gate))


@dtypes
def test_the_check_at_start_lets_every_kernel_through(dtype):
    names = ("rms_norm", "norm_and_rotate", "silu_and_multiply")
    parts = {name: getattr(cuda_kernels, name) for name in names}
    assert verify_fast_path(CONFIG, torch.device(DEVICE), dtype, parts) == [*names]
