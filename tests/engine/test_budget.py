"""How batches are sized: by speed, within memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.checkpoints import make_checkpoint

from quernel import Embedder
from quernel.engine.budget import (
    LEAST_TOKENS,
    MEMORY_SHARE,
    MOST_TOKENS,
    TARGET_SECONDS,
    Workspace,
    choose_batch_tokens,
    free_memory,
)
from quernel.engine.config import EngineConfig
from quernel.types import EmbeddingRequest

GIB = 1 << 30
SMALL = Workspace(bytes_per_token=20_000, bytes_per_row=100_000)


@given(st.floats(0.1, 1e7), st.integers(0, 1 << 40), st.sampled_from([None, 512]))
def test_a_batch_takes_a_moment_and_fits_into_memory(speed, free, chunk_rows):
    tokens = choose_batch_tokens(SMALL, chunk_rows, speed, free)
    assert tokens % LEAST_TOKENS == 0
    assert LEAST_TOKENS <= tokens <= MOST_TOKENS
    if tokens > LEAST_TOKENS:
        assert tokens <= speed * TARGET_SECONDS
        assert SMALL.bytes(tokens, chunk_rows) <= free / MEMORY_SHARE


def test_a_faster_machine_gets_larger_batches_and_a_smaller_one_smaller():
    assert choose_batch_tokens(SMALL, 512, 240, 16 * GIB) == 512
    assert choose_batch_tokens(SMALL, 512, 2_400, 16 * GIB) == 4_608
    assert choose_batch_tokens(SMALL, 512, 1e6, 16 * GIB) == MOST_TOKENS
    assert choose_batch_tokens(SMALL, 512, 1e6, GIB) < MOST_TOKENS


def test_chunks_bound_what_rows_take():
    assert SMALL.bytes(8_192, 512) - SMALL.bytes(4_096, 512) == 4_096 * SMALL.bytes_per_token
    assert SMALL.bytes(8_192, None) - SMALL.bytes(8_192, 512) == (8_192 - 512) * SMALL.bytes_per_row


def test_there_is_memory():
    assert 1 << 24 < free_memory() < 1 << 50


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_says_what_it_takes(tmp_path, dtype):
    folder = make_checkpoint(tmp_path / "model")
    with Embedder(folder, dtype=dtype) as model:
        assert model.budget.max_batch_tokens >= LEAST_TOKENS
        assert model.budget.tokens_per_second > 0
        assert "tokens/s" in str(model.budget)
        itemsize = 4 if dtype == "float32" else 2
        matrices = model.config.num_layer_parameters + model.config.vocab_size * model.config.hidden_size
        assert model.budget.weights_bytes == matrices * itemsize
    with Embedder(folder, engine=EngineConfig(max_batch_tokens=77, prefix_cache_mib=3)) as model:
        assert model.budget.max_batch_tokens == 77
        assert model.budget.prefix_cache_bytes == 3 << 20
        assert "tokens/s" not in str(model.budget)
        model.embed_sync(EmbeddingRequest(inputs=["a " * 100, "b", "a " * 100]))
        assert model.statistics.num_batches == 3
        assert model.statistics.num_prompts == 3
