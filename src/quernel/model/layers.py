"""The parts of a Qwen3 decoder layer, over packed rows. Parameter names are those of the official files.

Shapes:
    T   rows of the packed stream             C   hidden size
    H   query heads                           G   key/value heads
    D   width of a head                       P   cached rows
    K   rows to keep                          R   rows that are read
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quernel.model.attention import forest_attention, last_token_attention
from quernel.model.config import Qwen3Config
from quernel.model.layout import Layout

KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""Keys (normalised and rotated) and values of some rows in one layer, each `[rows, G, D]`."""


@dataclass(slots=True)
class Batch:
    """What every layer needs to know of a batch, and where it leaves what is to be kept.

    Attributes:
        layout: The forest.
        reads: Stream rows that are read `[R]`.
        cos: Cosines of the rotary angles `[T, 1, D]`.
        sin: Sines of the rotary angles `[T, 1, D]`.
        cached: For each layer, keys and values of the cached rows `[P, G, D]`; empty where there are none.
        keep: Stream rows whose keys and values are wanted `[K]`.
        kept: For each layer so far, those keys and values `[K, G, D]`.
    """

    layout: Layout
    reads: Tensor
    cos: Tensor
    sin: Tensor
    cached: list[KeyValue] = field(default_factory=list)
    keep: Tensor | None = None
    kept: list[KeyValue] = field(default_factory=list)


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

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rows, each `[T, 1, D]` in `dtype`, for integer `positions` `[T]`."""
        # On the CPU always, so that the angles are the same bits on every device.
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        inverse_frequencies = (1.0 / (self.theta**exponents)).to(positions.device)
        angles = positions.float().unsqueeze(-1) * inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` `[T, heads, D]` turned by the angles of its rows."""
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

    def forward(self, x: Tensor, batch: Batch, *, layer: int, only_reads: bool) -> Tensor:
        """What each row, or each read row, gathers from the rows that it sees.

        Args:
            x: Normalised rows `[T, C]`.
            batch: The batch.
            layer: Which layer this is, to find its cached keys and values.
            only_reads: Whether to compute the read rows alone.

        Returns:
            `[T, C]`, or `[R, C]`.
        """
        cos, sin = batch.cos, batch.sin
        key = rotate(self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim))), cos, sin)
        value = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        if batch.keep is not None:
            batch.kept.append((key[batch.keep], value[batch.keep]))
        if batch.cached:
            key, value = (torch.cat(parts) for parts in zip(batch.cached[layer], (key, value), strict=True))
        if only_reads:
            x, cos, sin = x[batch.reads], cos[batch.reads], sin[batch.reads]
        query = rotate(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim))), cos, sin)
        attend = last_token_attention if only_reads else forest_attention
        gathered: Tensor = self.o_proj(attend(query, key, value, batch.layout).flatten(-2))
        return gathered


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`. Source: arXiv 2002.05202; `Qwen3MLP` in transformers."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, C]` to `[T, C]`, each row for itself."""
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

    def forward(self, h: Tensor, batch: Batch, *, layer: int, only_reads: bool = False) -> Tensor:
        """The rows after this layer.

        Args:
            h: `[T, C]`.
            batch: The batch.
            layer: Which layer this is.
            only_reads: Whether only the read rows' results are wanted. Queries, attention output and MLP are then
                computed for these alone; their keys and values still come from every row.

        Returns:
            `[T, C]`, or `[R, C]`.
        """
        gathered = self.self_attn(self.input_layernorm(h), batch, layer=layer, only_reads=only_reads)
        h = (h[batch.reads] if only_reads else h) + gathered
        out: Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return out
