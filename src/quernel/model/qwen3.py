"""The Qwen3 decoder over packed batches: token ids and a layout in, the final hidden state of each read token out.

Shapes:
    T   rows of the packed stream             R   tokens that are read
    C   hidden size                           G   key/value heads
    D   width of a head                       K   rows to keep
"""

import torch
from torch import Tensor, nn

from quernel.model.config import Qwen3Config
from quernel.model.layers import Batch, DecoderLayer, RMSNorm, Rotary
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
        return self._run(token_ids, self._batch(token_ids, layout))

    def forward_with_cache(
        self, token_ids: Tensor, layout: Layout, *, cached: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """`forward`, with keys and values of some rows known before, and of others handed out.

        Args:
            token_ids: int64 `[T]`, the packed stream.
            layout: The forest; its first `num_cached` rows are those of `cached`.
            cached: Keys and values `[2, layers, num_cached, G, D]`, as this method hands them out.
            keep: Stream rows whose keys and values are wanted, int64 `[K]`.

        Returns:
            Hidden states `[R, C]`, and keys and values `[2, layers, K, G, D]` where `keep` is given.
        """
        batch = self._batch(token_ids, layout)
        batch.keep = keep
        if cached is not None:
            batch.cached = list(zip(cached[0], cached[1], strict=True))
        read = self._run(token_ids, batch)
        kept = None if keep is None else torch.stack([torch.stack(part) for part in zip(*batch.kept, strict=True)])
        return read, kept

    def _batch(self, token_ids: Tensor, layout: Layout) -> Batch:
        device, stream = token_ids.device, [layout.segments[index] for index in layout.stream]
        positions = torch.cat([torch.arange(part.position, part.position + part.length) for part in stream])
        reads = torch.tensor([layout.rows(index).stop - 1 for index in layout.reads])
        cos, sin = self.rotary(positions.to(device), self.norm.weight.dtype)
        return Batch(layout=layout, reads=reads.to(device), cos=cos, sin=sin)

    def _run(self, token_ids: Tensor, batch: Batch) -> Tensor:
        h = self.embed_tokens(token_ids)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            h = layer(h, batch, layer=index, only_reads=index == last)
        read: Tensor = self.norm(h)
        return read
