"""The parts of a Qwen3 decoder layer, over packed rows. Parameter names are those of the official files.

Shapes:
    Q   rows that are computed                C   hidden size
    S   rows that may be seen                 H   query heads
    G   key/value heads                       D   width of a head
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from quernel.model.config import Qwen3Config
from quernel.model.cuda_attention import Plan, attend_planned
from quernel.model.linear import Linear, Rows

KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""Keys (normalised and rotated) and values of some rows in one layer, each `[rows, G, D]`."""

Angles: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary angles of some rows, each float32 `[rows, 1, D/2]`."""


class RMSNorm(nn.Module):
    """Root-mean-square norm: computed in float32, cast back, then scaled in the working type, as the reference does.

    Source: arXiv 1910.07467; `Qwen3RMSNorm` in transformers.
    """

    fused: Callable[[Tensor, Tensor, float], Tensor] | None = None
    """The same as one kernel over rows, where the device has one: `quernel.model.cuda`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`x` scaled to mean square 1 over its last dimension, times the weight. Same shape and type."""
        if self.fused is not None:
            return self.fused(x, self.weight, self.eps)
        scaled: Tensor = self.weight * self._unscaled(x.float()).to(x.dtype)
        return scaled

    def wide(self, x: Tensor) -> Tensor:
        """The same in float32 to the end."""
        scaled: Tensor = self.weight.float() * self._unscaled(x.float())
        return scaled

    def _unscaled(self, x: Tensor) -> Tensor:
        # The norm reads its input once; squaring it first would write it too.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scaled: Tensor = x * (norm * norm).div_(x.shape[-1]).add_(self.eps).rsqrt_()
        return scaled


class Rotary(nn.Module):
    """Rotary position embedding: the angles of each row, for halves (i with i + D/2).

    Angles, cosines and sines are float32 whatever the model's type. Source: arXiv 2104.09864; `Qwen3RotaryEmbedding` in
    transformers.
    """

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta
        self._frequencies: dict[torch.device, Tensor] = {}

    def forward(self, positions: Tensor) -> Angles:
        """Cosines and sines of the rows, each float32 `[Q, 1, D/2]`, for integer `positions` `[Q]`."""
        angles = (positions.float().unsqueeze(-1) * self._on(positions.device)).unsqueeze(1)
        return angles.cos(), angles.sin()

    def _on(self, device: torch.device) -> Tensor:
        """Radians a position of each pair, float32 `[D/2]`; copied to a device once."""
        if device not in self._frequencies:
            # Computed on the CPU always, so that the angles are the same bits on every device.
            exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64, device="cpu").float() / self.head_dim
            with torch.inference_mode(False):
                self._frequencies[device] = (1.0 / (self.theta**exponents)).to(device)
        return self._frequencies[device]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` `[Q, heads, D]` turned by the angles of its rows."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with q and k normalised per head before the rotation, in float32 between the two.

    Source: arXiv 2505.09388 (Qwen3), section 2; `Qwen3Attention` in transformers.
    """

    fused_turn: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor] | None = None
    """A head's norm and rotation as one kernel, where the device has one."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, queries)
        self.k_proj = Linear(config.hidden_size, keys)
        self.v_proj = Linear(config.hidden_size, keys)
        self.o_proj = Linear(queries, config.hidden_size)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def key_value(self, x: Rows, angles: Angles) -> KeyValue:
        """Keys and values of normalised rows `[Q, C]`, each `[Q, G, D]`."""
        value: Tensor = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        return self._turned(self.k_norm, self.k_proj(x), angles), value

    def forward(self, h: Tensor, x: Rows, angles: Angles, seen: KeyValue, plan: Plan) -> Tensor:
        """Rows and what they gather from those that they see.

        Args:
            h: Rows `[Q, C]`, to which it is added.
            x: The same, normalised.
            angles: Their angles.
            seen: Keys and values that the plan speaks of, each `[S, G, D]`.
            plan: Which of them each row sees.

        Returns:
            `[Q, C]`.
        """
        query = self._turned(self.q_norm, self.q_proj(x), angles)
        gathered = self.o_proj.prepare(attend_planned(query, *seen, plan).flatten(-2))
        return self.o_proj.plus(gathered, h)

    def _turned(self, norm: RMSNorm, rows: Tensor, angles: Angles) -> Tensor:
        heads: Tensor = rows.unflatten(-1, (-1, self.head_dim))  # type: ignore[no-untyped-call]
        if self.fused_turn is not None:
            return self.fused_turn(heads, norm.weight, *angles, norm.eps)
        return rotate(norm.wide(heads), *angles).to(rows.dtype)


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`. Source: arXiv 2002.05202; `Qwen3MLP` in transformers."""

    fused_gate: Callable[[Tensor, Tensor], Tensor] | None = None
    """`silu(gate) * up` as one kernel, where the device has one."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Rows `h` `[Q, C]` and what comes of the same rows normalised, `x`; each row for itself. `[Q, C]`."""
        rows = self.gate_proj.prepare(x)
        if self.fused_gate is not None:
            wide = self.fused_gate(self.gate_proj(rows), self.up_proj(rows))
        else:
            wide = self.up_proj.times(rows, self.gate_proj.silu(rows))
        return self.down_proj.plus(self.down_proj.prepare(wide), h)


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: `h += attention(norm(h)); h += mlp(norm(h))`."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def normalise(self, h: Tensor) -> Rows:
        """Rows `[Q, C]` as attention takes them."""
        return self.self_attn.q_proj.prepare(self.input_layernorm(h))

    def forward(self, h: Tensor, x: Rows, angles: Angles, seen: KeyValue, plan: Plan) -> Tensor:
        """Rows after this layer.

        Args:
            h: Rows before it `[Q, C]`.
            x: The same after `normalise`, which the keys and values needed already.
            angles: Their angles.
            seen: Keys and values that the plan speaks of, each `[S, G, D]`.
            plan: Which of them each row sees.

        Returns:
            `[Q, C]`.
        """
        h = self.self_attn(h, x, angles, seen, plan)
        out: Tensor = self.mlp(h, self.post_attention_layernorm(h))
        return out
