"""A one-layer Qwen3 as a weighted bag of tokens, and how such a layer begins.

Read at its last token, a one-layer model attends from one constant vector (the end token's) to keys and values that
depend on a token's identity alone, as long as attention ignores positions. It does, nearly, where the q and k norms
are zero in all but the slowest rotary pairs: pair 24 of 32 turns by 3e-5 a token at theta 1e6. So the
layer's output is a weighted mean that needs each *distinct* token of a batch once: 50 to 100 times less work than a
transformer, on the very parameters of the transformer's last layer. What is trained here is kept when layers are put
below (`grow`).

Shapes:
    T   tokens of all texts                   U   distinct tokens among them
    N   texts                                 C   hidden size
    H   heads (as many key/value heads)       D   width of a head
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from quernel.model.config import Qwen3Config
from quernel.model.layers import DecoderLayer
from quernel.model.qwen3 import Qwen3

FIRST_SLOW_PAIR = 3 / 4
"""Rotary pairs from this share of the half-width on keep a nonzero q and k norm in the pooling layer."""


SCORE_SCALE = 2.0
"""Product of the q and k norm weights at the start: with 1, the best tokens would soon crowd at the largest score."""


def bag_hidden(model: Qwen3, token_ids: Tensor, bounds: Tensor, *, end_token: int, with_mlp: bool = False) -> Tensor:
    """The final hidden state of a one-layer model at the end of each text, positions ignored. `[N, C]`.

    Args:
        model: One layer, as many key/value heads as query heads.
        token_ids: `[T]`, each text ending in `end_token`.
        bounds: Where each text begins in `token_ids`, and the end: `[N + 1]`.
        end_token: The token that is read.
        with_mlp: Whether to run the MLP; without it the result is exact while `down_proj` is zero.
    """
    layer, norm = pooling_layer(model), model.norm
    attention = layer.self_attn
    tokens, inverse = torch.unique(token_ids, return_inverse=True)
    x = layer.input_layernorm(model.embed_tokens(tokens))
    value = attention.v_proj(x).unflatten(-1, (-1, attention.head_dim))
    end = model.embed_tokens.weight[end_token]
    scores = _scores(model, x, end)
    weights = (scores - scores.amax(dim=0)).exp()
    table = torch.cat(((value * weights.unsqueeze(-1)).flatten(1), weights), dim=1)  # [U, H * D + H]
    sums = F.embedding_bag(inverse, table, bounds[:-1], mode="sum")
    width = value.shape[1] * value.shape[2]
    gathered = sums[:, :width].view(len(sums), -1, attention.head_dim) / sums[:, width:].unsqueeze(-1)
    h = end + attention.o_proj(gathered.flatten(1))
    if with_mlp:
        h = layer.mlp(h, layer.post_attention_layernorm(h))
    out: Tensor = norm(h)
    return out


def pooling_layer(model: Qwen3) -> DecoderLayer:
    """The last layer."""
    layer = model.layers[-1]
    assert isinstance(layer, DecoderLayer)
    return layer


def _scores(model: Qwen3, x: Tensor, end: Tensor) -> Tensor:
    """Scores `[U, H]` of normalised rows `[U, C]` for the query of the end token's row `[C]`."""
    layer = pooling_layer(model)
    attention = layer.self_attn
    key = attention.k_norm(attention.k_proj(x).unflatten(-1, (-1, attention.head_dim)))
    query = attention.q_norm(attention.q_proj(layer.input_layernorm(end)).unflatten(-1, (-1, attention.head_dim)))
    scores: Tensor = (key * query).sum(dim=-1) / math.sqrt(attention.head_dim)
    return scores


@torch.no_grad()
def start_bag(config: Qwen3Config, vectors: Tensor, weights: Tensor, *, end_token: int) -> Qwen3:
    """A one-layer model that computes the weighted mean of given token vectors.

    The last two coordinates of the table are taken from the vectors: one is a constant, the other holds a token's
    logit, so that the angle of a token's key, which is all that the k norm leaves of it, is its weight.

    Args:
        config: One layer; `num_attention_heads` key/value heads that together are as wide as the model.
        vectors: Unit vectors of all tokens `[vocab, C]`.
        weights: Positive weights of all tokens `[vocab]`.
        end_token: The token that is read; it gets a small vector and next to no weight.
    """
    width, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_dim
    model = Qwen3(config)
    constant, logit = width - 2, width - 1
    largest = SCORE_SCALE * math.sqrt(head_dim)  # a score is this times a cosine
    sines = ((weights.log() - weights.log().max() / 2) / largest).clamp(-0.9, 0.9)
    table = model.embed_tokens.weight
    table[:] = vectors
    table[:, constant] = 0.3
    table[:, logit] = 0.3 * sines / (1 - sines.square()).sqrt()
    table[end_token] = 0
    table[end_token, constant], table[end_token, logit] = 0.01, -0.1

    layer = pooling_layer(model)
    attention = layer.self_attn
    slow = slow_dimensions(head_dim)
    for norm, scale in ((attention.q_norm, SCORE_SCALE), (attention.k_norm, 1.0)):
        norm.weight.zero_()
        norm.weight[slow] = scale
    for projection in (attention.q_proj, attention.k_proj):
        rows = projection.weight.view(heads, head_dim, width)
        rows[:] = 0
        rows[:, slow] = torch.randn(heads, len(slow), width) * 0.002
    attention.q_proj.weight.view(heads, head_dim, width)[:, slow[-1], constant] = 1
    attention.k_proj.weight.view(heads, head_dim, width)[:, slow[-1], logit] = 1
    attention.k_proj.weight.view(heads, head_dim, width)[:, slow[-2], constant] = 1
    attention.v_proj.weight.copy_(torch.eye(heads * head_dim, width))
    attention.v_proj.weight[:, [constant, logit]] = 0
    attention.o_proj.weight.copy_(torch.eye(width, heads * head_dim))
    torch.nn.init.normal_(layer.mlp.gate_proj.weight, std=width**-0.5)
    torch.nn.init.normal_(layer.mlp.up_proj.weight, std=width**-0.5)
    layer.mlp.down_proj.weight.zero_()
    return model


def slow_dimensions(head_dim: int) -> list[int]:
    """The dimensions of a head whose rotary pair (i, i + D/2) hardly turns, in ascending order."""
    half = head_dim // 2
    first = int(half * FIRST_SLOW_PAIR)
    return [*range(first, half), *range(half + first, head_dim)]
