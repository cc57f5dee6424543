"""Nothing in the model's path may be [length, length]: checked by the sizes that torch allocates, not by a clock."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quernel.engine.runner import ModelRunner
from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3

CONFIG = Qwen3Config(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=4096,
)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation returned."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, torch.Tensor):
                self.num_elements = max(self.num_elements, part.numel())
        return out


def largest(paths):
    runner = ModelRunner(Qwen3(CONFIG).eval())
    with LargestTensor() as mode:
        runner.run(paths)
    return mode.num_elements


def test_the_largest_tensor_grows_linearly_with_the_length_of_a_text():
    short, long = (largest([((1,) * n,)]) for n in (512, 2048))
    assert long <= 4 * short


def test_the_largest_tensor_grows_linearly_with_a_shared_prefix():
    short, long = (largest([((1,) * n, (2,) * n), ((1,) * n, (3,) * n)]) for n in (512, 2048))
    assert long <= 4 * short
