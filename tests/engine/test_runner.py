import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quernel.engine.runner import ModelRunner
from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
)


def model(seed=0):
    torch.manual_seed(seed)
    return Qwen3(CONFIG).eval()


def overflowing():
    """A model whose MLP leaves the range of float16 (65,504) at token 7, and is finite in float32."""
    wide = model()
    with torch.no_grad():
        wide.embed_tokens.weight[7] *= 30.0
        wide.layers[0].mlp.down_proj.weight *= 1e4
        wide.layers[0].mlp.up_proj.weight *= 1e2
    return wide


def test_an_overflow_in_half_precision_is_computed_again_in_float32():
    wide = overflowing()
    narrow = Qwen3(CONFIG)
    narrow.load_state_dict(wide.state_dict())
    prompts = [((1, 2, 7),), ((3,),), ((7, 7),)]
    alone = ModelRunner(narrow.half()).run(prompts)
    assert not np.isfinite(alone).all(), "the test needs a model that overflows"

    loads = []
    runner = ModelRunner(narrow, load_wide=lambda: loads.append(1) or wide)
    guarded = runner.run(prompts)
    broken = ~np.isfinite(alone).all(axis=1)
    assert np.isfinite(guarded).all()
    assert runner.statistics.num_recomputed == broken.sum()
    np.testing.assert_allclose(guarded[broken], ModelRunner(wide).run(prompts)[broken], rtol=1e-5, atol=1e-5)
    runner.run(prompts)
    assert len(loads) == 1


def test_what_is_not_finite_in_float32_either_is_left_for_the_engine_to_refuse():
    broken = model()
    with torch.no_grad():
        broken.embed_tokens.weight[5] = float("nan")
    hidden = ModelRunner(broken, load_wide=lambda: broken).run([((5,),), ((6,),)])
    assert np.isnan(hidden[0]).all()
    assert np.isfinite(hidden[1]).all()


def test_shared_runs_and_duplicates_give_the_vectors_of_single_texts():
    runner = ModelRunner(model())
    prompts = [((1, 2, 3), (4, 5), (6,)), ((1, 2, 3), (4, 5), (7, 8, 9)), ((1, 2, 3), (9,)), ((1, 2, 3), (9,)), ((4,),)]
    together = runner.run(prompts)
    alone = np.concatenate([runner.run([(tuple(t for run in path for t in run),)]) for path in prompts])
    np.testing.assert_allclose(together, alone, atol=2e-6)


run = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)
batch = st.lists(st.lists(run, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(batch, min_size=2, max_size=4), st.sampled_from([2_000, 1 << 20]), st.integers(1, 12) | st.none())
def test_neither_the_prefix_cache_nor_the_size_of_chunks_changes_a_result(batches, cache_bytes, chunk_rows):
    cached = ModelRunner(model(), prefix_cache_bytes=cache_bytes, chunk_rows=chunk_rows)
    plain = ModelRunner(model())
    for prompts in batches:
        np.testing.assert_allclose(cached.run(prompts), plain.run(prompts), atol=2e-6)
    assert cached.prefix_cache.num_bytes <= cache_bytes
    assert len(plain.prefix_cache) == 0


def test_a_prefix_that_comes_again_is_not_computed_again(monkeypatch):
    runner = ModelRunner(model(), prefix_cache_bytes=1 << 20)
    computed = []
    steps = runner._model.steps
    monkeypatch.setattr(
        runner._model,
        "steps",
        lambda token_ids, *rest, **named: computed.append(token_ids.tolist()) or steps(token_ids, *rest, **named),
    )
    instruction, query = (1, 2, 3), (4, 5)
    runner.run([(instruction, query, (6,)), (instruction, query, (7,))])
    runner.run([(instruction, query, (8,))])
    runner.run([(instruction, (9,)), (instruction, query)])
    assert computed == [[1, 2, 3, 4, 5, 6, 7], [8], [9, 4, 5]]


def test_prefixes_of_a_batch_that_overflowed_are_not_kept():
    wide = overflowing()
    narrow = Qwen3(CONFIG)
    narrow.load_state_dict(wide.state_dict())
    runner = ModelRunner(narrow.half(), load_wide=lambda: wide, prefix_cache_bytes=1 << 20)
    first = runner.run([((1, 7), (2,)), ((1, 7), (3,))])
    assert runner.statistics.num_recomputed == 2
    assert len(runner.prefix_cache) == 0
    np.testing.assert_array_equal(first, runner.run([((1, 7), (2,)), ((1, 7), (3,))]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cached_keys_have_the_type_of_the_model(dtype):
    runner = ModelRunner(model().to(dtype), prefix_cache_bytes=1 << 20)
    runner.run([((1, 2), (3,))])
    entry = runner.prefix_cache.get(((1, 2),))
    assert entry.dtype == dtype
    assert entry.shape == (2, CONFIG.num_hidden_layers, 2, CONFIG.num_key_value_heads, CONFIG.head_dim)
