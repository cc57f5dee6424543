import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quernel.protocols.vectors import NUMPY_TYPES, OutputDtype, dequantise, quantise

DTYPES = [dtype for dtype in OutputDtype if dtype is not OutputDtype.FLOAT]
numbers = st.floats(-1, 1, width=32)


def drawn(count=4, dimensions=1024, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosines(left, right):
    products = (left * right).sum(axis=1)
    return products / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def test_codes_of_a_vector_checked_by_hand():
    vector = np.array([[0.5, -0.5, 0.5, -0.5]], dtype=np.float32)  # c = min(1, 8 / 2) = 1, so a step is 1/127
    assert quantise(vector, OutputDtype.INT8).tolist() == [[64, -64, 64, -64]]
    assert quantise(vector, OutputDtype.UINT8).tolist() == [[192, 64, 192, 64]]
    bits = np.array([[0.3, -0.1, 0.0, 0.1, 0.2, -0.2, -0.3, 0.4]], dtype=np.float32)
    assert quantise(bits, OutputDtype.UBINARY).tolist() == [[0b10011001]]
    assert quantise(bits, OutputDtype.BINARY).tolist() == [[0b10011001 - 128]]


@pytest.mark.parametrize("dtype", OutputDtype)
def test_codes_are_of_the_type_that_their_bytes_are_read_as(dtype):
    codes = quantise(drawn(), dtype)
    assert codes.dtype == NUMPY_TYPES[dtype]
    assert codes.shape == (4, 128 if "binary" in dtype else 1024)


@pytest.mark.parametrize("dtype", [OutputDtype.INT8, OutputDtype.UINT8])
@pytest.mark.parametrize("dimensions", [32, 1000, 1024, 4096])
def test_int8_keeps_the_direction(dtype, dimensions):
    vectors = drawn(dimensions=dimensions)
    found = cosines(vectors, dequantise(quantise(vectors, dtype), dtype))
    assert found.min() > 0.9995, found


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_code_depends_on_nothing_but_its_vector(dtype):
    vectors = drawn(count=8)
    together = quantise(vectors, dtype)
    alone = np.concatenate([quantise(vectors[index : index + 1], dtype) for index in range(8)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_code_does_not_depend_on_the_length_of_its_vector(dtype):
    np.testing.assert_array_equal(quantise(drawn(), dtype), quantise(drawn() * np.float32(64), dtype))


@given(arrays(np.float32, (2, 48), elements=numbers))
def test_bits_are_the_signs(vectors):
    for dtype in (OutputDtype.BINARY, OutputDtype.UBINARY):
        np.testing.assert_array_equal(dequantise(quantise(vectors, dtype), dtype) > 0, vectors > 0)


@given(arrays(np.float32, (2, 48), elements=numbers))
def test_every_vector_has_codes_and_codes_keep_signs(vectors):
    codes = quantise(vectors, OutputDtype.INT8)
    assert np.abs(codes.astype(int)).max() <= 127
    assert (codes.astype(np.float32) * vectors >= 0).all()


def test_a_vector_of_zeros_stays_one():
    assert not quantise(np.zeros((1, 32), dtype=np.float32), OutputDtype.INT8).any()
