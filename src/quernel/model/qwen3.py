"""The Qwen3 decoder over packed batches: token ids and a layout in, the final hidden state of each read token out.

Shapes:
    T   rows of the packed stream             R   tokens that are read
    C   hidden size
"""

import torch
from torch import Tensor, nn

from quernel.model.config import Qwen3Config
from quernel.model.layers import DecoderLayer, RMSNorm, Rotary
from quernel.model.layout import Layout


class Qwen3(nn.Module):
    """Qwen3 without its language-model head, which neither an embedding model nor a reranker runs.

    Parameters have the names of the official embedding files: `embed_tokens.weight`, `layers.0.mlp.up_proj.weight`.

    Source: arXiv 2505.09388; `Qwen3Model` in transformers, with which it agrees to rounding (`tests/parity`).
    """

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config)

    def forward(self, token_ids: Tensor, layout: Layout) -> Tensor:
        """Hidden states after the final norm, at the last token of each segment in `layout.reads`.

        Args:
            token_ids: int64 `[T]`, the packed stream.
            layout: The forest that the stream holds.

        Returns:
            `[R, C]` in the model's type, in the order of `layout.reads`.
        """
        device = token_ids.device
        positions = torch.cat([torch.arange(s.position, s.position + s.length) for s in layout.segments]).to(device)
        reads = torch.tensor([layout.segments[index].stop - 1 for index in layout.reads]).to(device)
        h = self.embed_tokens(token_ids)
        cos, sin = self.rotary(positions, h.dtype)
        *earlier, last = self.layers
        for layer in earlier:
            h = layer(h, cos, sin, layout)
        read: Tensor = self.norm(last(h, cos, sin, layout, reads))
        return read
