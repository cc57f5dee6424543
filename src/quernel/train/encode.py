"""The model as training sees it: prompts to hidden states, packed, with gradients.

Prefixes are not shared: where rows see several segments their parts are joined by sums that torch's kernels give
without gradients.

Shapes:
    N   prompts                               C   hidden size
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from quernel.model.cuda import use_parts
from quernel.model.layers import DecoderLayer, rotate
from quernel.model.qwen3 import Qwen3
from quernel.model.text_attention import TextPlan, plan_texts
from quernel.types import TokenPath


class Encoder:
    """A model that is trained, as a function.

    Args:
        model: The model, its weights in float32.
        dtype: What products are computed in; the rest, and what is trained, is in float32.
        checkpointing: Whether layers are computed again on the way back instead of being kept: half the speed of that
            way, and memory of one layer instead of all.
        compiled: Whether what stands between the products is compiled, which takes a minute and a C++ compiler.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self._dtype = dtype
        self._checkpointing = checkpointing
        use_parts(model, compiled_parts() if compiled else {})

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.norm.weight.device

    def __call__(self, paths: Sequence[TokenPath]) -> Tensor:
        """Final hidden states at each prompt's last token, float32 `[N, C]`."""
        model, device = self.model, self.device
        lengths = [sum(map(len, path)) for path in paths]
        token_ids = torch.tensor([*chain.from_iterable(chain.from_iterable(paths))], device=device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        rows, last_rows = plan_texts(lengths, device)
        with self._precision():
            cos, sin = model.rotary(positions)
            h: Tensor = model.embed_tokens(token_ids).to(model.norm.weight.dtype)
            *layers, last = cast("Sequence[DecoderLayer]", model.layers)
            for layer in layers:
                if self._checkpointing:
                    h = checkpoint(_layer, layer, h, cos, sin, rows, use_reentrant=False)
                else:
                    h = _layer(layer, h, cos, sin, rows)
            seen = last.self_attn.key_value(last.normalise(h), (cos, sin))
            ends = torch.tensor(lengths, device=device).cumsum(0) - 1
            h, angles = h[ends], (cos[ends], sin[ends])
            read: Tensor = model.norm(last(h, last.normalise(h), angles, seen, last_rows))
        return read.float()

    def _precision(self) -> AbstractContextManager[object]:
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)


def _layer(layer: DecoderLayer, h: Tensor, cos: Tensor, sin: Tensor, plan: TextPlan) -> Tensor:
    x = layer.normalise(h)
    out: Tensor = layer(h, x, (cos, sin), layer.self_attn.key_value(x, (cos, sin)), plan)
    return out


@cache
def compiled_parts() -> Mapping[str, Any]:
    """What stands between the products of a layer, each in one pass over its rows; names as `use_parts` has them."""

    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype)

    def norm_and_rotate(heads: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        wide = heads.float()
        return rotate(weight * (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)), cos, sin).to(
            heads.dtype
        )

    def gate(first: Tensor, second: Tensor) -> Tensor:
        return F.silu(first) * second

    return {
        "rms_norm": torch.compile(norm, dynamic=True),
        "norm_and_rotate": torch.compile(norm_and_rotate, dynamic=True),
        "silu_and_multiply": torch.compile(gate, dynamic=True),
    }


def divide(paths: Sequence[TokenPath], max_tokens: int) -> list[list[int]]:
    """Numbers of prompts in parts of at most so many tokens; a longer prompt is alone."""
    parts: list[list[int]] = []
    held = 0
    for number, path in enumerate(paths):
        num_tokens = sum(map(len, path))
        if not parts or held + num_tokens > max_tokens:
            parts.append([])
            held = 0
        parts[-1].append(number)
        held += num_tokens
    return parts
