"""The model as training sees it: prompts to hidden states, packed, with gradients.

Equal prompts are computed once, but prefixes are not shared: where rows see several segments their parts are joined by
sums that torch's kernels give without gradients.

Shapes:
    N   prompts                               C   hidden size
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from quernel.engine.segments import build_forest
from quernel.model.attention import plan_rows
from quernel.model.cuda_attention import Plan
from quernel.model.layers import DecoderLayer
from quernel.model.layout import Layout
from quernel.model.qwen3 import Qwen3
from quernel.types import TokenPath


class Encoder:
    """A model that is trained, as a function.

    Args:
        model: The model, its weights in float32.
        dtype: What products are computed in; the rest, and what is trained, is in float32.
        checkpointing: Whether layers are computed again on the way back instead of being kept: half the speed of that
            way, and memory of one layer instead of all.
    """

    def __init__(self, model: Qwen3, *, dtype: torch.dtype = torch.float32, checkpointing: bool = False) -> None:
        self.model = model
        self._dtype = dtype
        self._checkpointing = checkpointing

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.norm.weight.device

    def __call__(self, paths: Sequence[TokenPath]) -> Tensor:
        """Final hidden states at each prompt's last token, float32 `[N, C]`."""
        forest = build_forest([(tuple(chain.from_iterable(path)),) for path in paths])
        token_ids = torch.tensor(forest.token_ids, dtype=torch.int64, device=self.device)
        forward = self._forward_again if self._checkpointing else self.model
        with self._precision():
            read: Tensor = forward(token_ids, forest.layout)
        return read.float()[torch.tensor(forest.rows, device=self.device)]

    def _precision(self) -> AbstractContextManager[object]:
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def _forward_again(self, token_ids: Tensor, layout: Layout) -> Tensor:
        """`Qwen3.forward`, each layer computed twice."""
        model = self.model
        stream = [layout.segments[index] for index in layout.stream]
        positions = torch.cat([torch.arange(part.position, part.position + part.length) for part in stream])
        cos, sin = model.rotary(positions.to(self.device))
        plan = plan_rows(layout, 0, layout.num_tokens, self.device)
        h: Tensor = model.embed_tokens(token_ids).to(model.norm.weight.dtype)
        for layer in cast("Sequence[DecoderLayer]", model.layers):
            h = checkpoint(_layer, layer, h, cos, sin, plan, use_reentrant=False)
        reads = torch.tensor([layout.rows(index).stop - 1 for index in layout.reads], device=self.device)
        out: Tensor = model.norm(h[reads])
        return out


def _layer(layer: DecoderLayer, h: Tensor, cos: Tensor, sin: Tensor, plan: Plan) -> Tensor:
    x = layer.normalise(h)
    out: Tensor = layer(h, x, (cos, sin), layer.self_attn.key_value(x, (cos, sin)), plan)
    return out


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
