"""Linear maps in every form: each against the plain product, with what the decoder does right after it."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from quernel.model.linear import (
    Int8Linear,
    PackedLinear,
    choose_linear,
    int8_linear,
    int8_works,
    packing_works,
    plain_linear,
    quantise,
)

CPU = torch.device("cpu")
ROWS = [1, 2, 31, 512, 700]

needs_packing = pytest.mark.skipif(not packing_works(torch.float32), reason="oneDNN does not pack weights here")
needs_int8 = pytest.mark.skipif(not int8_works(), reason="this CPU does not multiply in 8 bits")


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@needs_packing
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products_are_the_plain_ones(rows, dtype):
    if not packing_works(dtype):
        pytest.skip(f"{dtype} is not packed here")
    weight, x, other = (
        draw(96, 160, dtype=dtype),
        draw(rows, 160, dtype=dtype, seed=1),
        draw(rows, 96, dtype=dtype, seed=2),
    )
    packed, plain = PackedLinear(weight), plain_linear(weight)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 0.02, "atol": 0.15}
    for ours, theirs in (
        (packed(x), plain(x)),
        (packed.silu(x), plain.silu(x)),
        (packed.times(x, other), plain.times(x, other)),
        (packed.plus(x, other), plain.plus(x, other)),
    ):
        torch.testing.assert_close(ours, theirs, **tolerance)


@needs_packing
def test_packed_products_repeat_bit_for_bit():
    weight, x = draw(1024, 1024), draw(512, 1024, seed=1)
    first = PackedLinear(weight)(x)
    assert all(torch.equal(PackedLinear(weight)(x), first) for _ in range(4))


@needs_packing
def test_a_packed_weight_does_not_hold_the_plain_one():
    weight = draw(64, 64)
    before = PackedLinear(weight)(torch.eye(64)).clone()
    packed = PackedLinear(weight)
    weight.zero_()
    assert torch.equal(packed(torch.eye(64)), before)


@needs_int8
@pytest.mark.parametrize("rows", ROWS)
def test_products_in_8_bits_are_those_of_the_rounded_numbers(rows):
    weight, x, other = draw(96, 160), draw(rows, 160, seed=1), draw(rows, 96, seed=2)
    quantised = quantise(weight)
    linear = Int8Linear(quantised)
    prepared = linear.prepare(x)
    rounded = (prepared.values.float() - linear.limit - 1) * prepared.scales
    exact = F.linear(rounded.double(), quantised.dequantise(torch.float64)).float()
    torch.testing.assert_close(linear(prepared), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(linear(x), linear(prepared))
    torch.testing.assert_close(linear.silu(prepared), F.silu(exact), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(linear.times(prepared, other), exact * other, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(linear.plus(prepared, other), exact + other, rtol=1e-5, atol=1e-4)


@needs_int8
def test_a_row_in_8_bits_does_not_depend_on_the_others():
    """One scale for all rows would be set by the largest: a row beside one a thousand times its size kept no digit."""
    linear = Int8Linear(quantise(draw(96, 160)))
    x = draw(40, 160, seed=1)
    alone = torch.cat([linear(row[None]) for row in x])
    assert torch.equal(linear(x), alone)
    x[1:] *= 1000
    assert torch.equal(linear(x)[0], alone[0])


@needs_int8
@pytest.mark.parametrize("spread", [0.02, 1.0])
def test_twice_8_bits_are_nearly_16(spread):
    """The weight's rounding is gone; what is left is that of the rows, 0.7 % spread over 512 products."""
    weight = torch.eye(512) + spread * draw(512, 512)
    x = draw(64, 512, seed=1)
    exact = F.linear(x, weight)
    once, twice = Int8Linear(quantise(weight))(x), int8_linear(weight)(x)
    assert int8_linear(weight).rest is not None

    def error(product):
        return ((product - exact).square().mean() / exact.square().mean()).sqrt()

    assert error(twice) < 0.0085
    assert error(once) > 1.3 * error(twice)
    assert int8_linear(torch.ones(64, 64)).rest is None


@needs_int8
def test_rows_of_zeros_give_zeros():
    assert torch.equal(Int8Linear(quantise(draw(32, 64)))(torch.zeros(3, 64)), torch.zeros(3, 32))
    assert torch.equal(Int8Linear(quantise(torch.zeros(32, 64)))(draw(3, 64)), torch.zeros(3, 32))


def test_a_quantised_weight_is_within_half_a_step():
    weight = draw(50, 70) * torch.logspace(-6, 3, 50).unsqueeze(1)
    quantised = quantise(weight)
    assert quantised.values.dtype is torch.int8
    assert quantised.values.abs().amax(dim=1).eq(127).all()
    off = (quantised.dequantise(torch.float32) - weight).abs().amax(dim=1)
    assert (off <= 0.5001 * quantised.scales).all()


def test_weights_in_8_bits_become_any_map():
    weight = draw(64, 64)
    quantised = quantise(weight)
    x = draw(3, 64, seed=1)
    for dtype, tolerance in ((torch.float32, 0.3), (torch.bfloat16, 0.5)):
        linear = choose_linear(dtype, CPU)(quantised)
        torch.testing.assert_close(linear(x.to(dtype)).float(), F.linear(x, weight), rtol=0, atol=tolerance)


@needs_int8
@pytest.mark.parametrize("isa", ["AVX512_CORE", "AVX2"])
def test_a_cpu_that_would_saturate_gets_rows_of_seven_bits(isa):
    """oneDNN is told to do without VNNI: then 255 * 127 + 255 * 127 does not fit the 16 bits that it adds in."""
    code = (
        "import torch; from quernel.model.linear import *\n"
        "linear = Int8Linear(quantise(torch.full((32, 64), 0.5)))\n"
        "print(linear.limit, linear(torch.full((2, 64), 3.0)).unique().tolist())"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    limit, product = done.stdout.split(maxsplit=1)
    assert done.returncode == 0, done.stderr
    assert int(limit) in (63, 127)  # 127 where the CPU lacks AVX-512, and oneDNN does not follow
    assert product.strip() == "[96.0]" or abs(float(product.strip("[]\n")) - 96) < 1e-3
