import numpy as np
import torch

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
    assert runner.num_recomputed == broken.sum()
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
