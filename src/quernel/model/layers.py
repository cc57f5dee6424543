"""The parts of a Qwen3 decoder layer, over packed rows. Parameter names are those of the official files.

Shapes:
    Q   rows that are computed                C   hidden size
    S   rows that may be seen                 H   query heads
    G   key/value heads                       D   width of a head
"""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quernel.model.attention import AttentionPlan, attend
from quernel.model.config import Qwen3Config

KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""Keys (normalised and rotated) and values of some rows in one layer, each `[rows, G, D]`."""

Angles: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary angles of some rows, each `[rows, 1, D]`."""


class RMSNorm(nn.Module):
    """Root-mean-square norm: computed in float32, cast back, then scaled in the working type, as the reference does.

    Source: arXiv 1910.07467; `Qwen3RMSNorm` in transformers.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`x` scaled to mean square 1 over its last dimension, times the weight. Same shape and type."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        scaled: Tensor = self.weight * wide.to(x.dtype)
        return scaled


class Rotary(nn.Module):
    """Rotary position embedding: the angles of each row, and their application to halves (i with i + D/2).

    Angles, cosines and sines are float32 whatever the model's type, then cast. Source: arXiv 2104.09864;
    `Qwen3RotaryEmbedding` in transformers.
    """

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Angles:
        """Cosines and sines of the rows, each `[Q, 1, D]` in `dtype`, for integer `positions` `[Q]`."""
        # On the CPU always, so that the angles are the same bits on every device.
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        inverse_frequencies = (1.0 / (self.theta**exponents)).to(positions.device)
        angles = positions.float().unsqueeze(-1) * inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` `[Q, heads, D]` turned by the angles of its rows."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention with q and k normalised per head before the rotation.

    Source: arXiv 2505.09388 (Qwen3), section 2; `Qwen3Attention` in transformers.
    """

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def key_value(self, x: Tensor, angles: Angles) -> KeyValue:
        """Keys and values of normalised rows `[Q, C]`, each `[Q, G, D]`."""
        key = rotate(self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim))), *angles)
        return key, self.v_proj(x).unflatten(-1, (-1, self.head_dim))

    def forward(self, x: Tensor, angles: Angles, seen: KeyValue, plan: AttentionPlan) -> Tensor:
        """What rows gather from those that they see.

        Args:
            x: Normalised rows `[Q, C]`.
            angles: Their angles.
            seen: Keys and values that the plan speaks of, each `[S, G, D]`.
            plan: Which of them each row sees.

        Returns:
            `[Q, C]`.
        """
        query = rotate(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim))), *angles)
        gathered: Tensor = self.o_proj(attend(query, *seen, plan).flatten(-2))
        return gathered


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`. Source: arXiv 2002.05202; `Qwen3MLP` in transformers."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[Q, C]` to `[Q, C]`, each row for itself."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: `h += attention(norm(h)); h += mlp(norm(h))`."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, h: Tensor, x: Tensor, angles: Angles, seen: KeyValue, plan: AttentionPlan) -> Tensor:
        """Rows after this layer.

        Args:
            h: Rows before it `[Q, C]`.
            x: The same after `input_layernorm`, which the keys and values needed already.
            angles: Their angles.
            seen: Keys and values that the plan speaks of, each `[S, G, D]`.
            plan: Which of them each row sees.

        Returns:
            `[Q, C]`.
        """
        h = h + self.self_attn(x, angles, seen, plan)
        out: Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return out
