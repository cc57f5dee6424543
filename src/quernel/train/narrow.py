"""The embedding model's bag of tokens in fewer dimensions, for the reranker's table.

The reranker keeps part of its table's coordinates for what a token means; the rest hold codes and flags. Cutting the
embedding model's vectors to their principal directions loses a fifth of its retrieval quality, so a bag of that width
is trained to rank the documents of a batch as the embedding model does.

Shapes:
    V   vocabulary                            N   texts
    C   width of the embedding model          W   width of the narrow bag
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quernel.model.qwen3 import Qwen3
from quernel.train.bag import bag_hidden, pooling_layer, token_logits
from quernel.train.batches import Sampler, Texts
from quernel.train.corpus import Corpus
from quernel.train.losses import info_nce

_TEACHER_TEMPERATURE = 0.05
_TEMPERATURE = 0.04


class NarrowBag(nn.Module):
    """One vector and one logit a token; a text is the softmax-weighted mean of its tokens.

    Args:
        vectors: `[V, W]`.
        logits: `[V]`.
    """

    def __init__(self, vectors: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone())
        self.logits = nn.Parameter(logits.clone())

    def forward(self, texts: Texts) -> Tensor:
        """Unit vectors `[N, W]`."""
        tokens, inverse = torch.unique(texts.token_ids, return_inverse=True)
        weights = (self.logits[tokens] - self.logits.max().detach()).exp().unsqueeze(1)
        sums = F.embedding_bag(inverse, self.vectors[tokens] * weights, texts.bounds[:-1], mode="sum")
        return F.normalize(sums, dim=-1)

    @torch.no_grad()
    def parts(self) -> tuple[Tensor, Tensor]:
        """Unit vectors `[V, W]` and the logits `[V]` that give the same mean up to its length."""
        lengths = self.vectors.norm(dim=1).clamp(min=1e-6)
        return self.vectors / lengths.unsqueeze(1), self.logits + lengths.log()


@torch.no_grad()
def start_narrow(model: Qwen3, corpus: Corpus, width: int, *, end_token: int) -> NarrowBag:
    """The bag of a one-layer embedding model in the principal directions of the corpus' texts.

    The end token's own vector is part of every text, so it is added to every token; the heads' weights are averaged.
    """
    layer = pooling_layer(model)
    values = layer.self_attn.v_proj(layer.input_layernorm(model.embed_tokens.weight)) @ layer.self_attn.o_proj.weight.T
    vectors = (values + model.embed_tokens.weight[end_token]) * model.norm.weight
    logits = token_logits(model, end_token=end_token).mean(dim=1)
    wide = NarrowBag(vectors, logits)
    texts = torch.arange(0, corpus.num_texts, max(corpus.num_texts // 8000, 1)).int().numpy()
    token_ids, bounds = corpus.gather(texts[corpus.lengths[texts] > 0], max_tokens=64)
    pooled = wide(Texts(torch.from_numpy(token_ids), torch.from_numpy(bounds)))
    directions = torch.linalg.eigh(pooled.T @ pooled).eigenvectors.flip(1)[:, :width]
    return NarrowBag(vectors @ directions, logits - logits.mean())


class NarrowObjective:
    """Rank the documents of a block as the embedding model ranks them, and find the right one.

    Args:
        narrow: What is trained.
        model: The embedding model, one layer.
        sampler: Draws the blocks; without instructions, since the reranker's bag of a query holds none.
        end_token: The embedding model's.
        blocks: Blocks in a step.
        pairs: Pairs in a block.
    """

    def __init__(
        self, narrow: NarrowBag, model: Qwen3, sampler: Sampler, *, end_token: int, blocks: int, pairs: int
    ) -> None:
        self._narrow, self._model, self._sampler = narrow, model, sampler
        self._end_token, self._blocks, self._pairs = end_token, blocks, pairs

    def __call__(self, progress: float) -> Tensor:
        """The loss of fresh blocks."""
        del progress
        losses = []
        for _ in range(self._blocks):
            block = self._sampler.draw(self._pairs)
            queries, documents = self._narrow(block.queries), self._narrow(block.documents)
            wanted = (self._teach(block.queries) @ self._teach(block.documents).T / _TEACHER_TEMPERATURE).softmax(dim=1)
            ranked = (queries @ documents.T / _TEACHER_TEMPERATURE).log_softmax(dim=1)
            contrast = info_nce(queries, documents, block.groups, temperature=_TEMPERATURE, margin=0.1)
            losses.append(F.kl_div(ranked, wanted, reduction="batchmean") + contrast / 2)
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _teach(self, texts: Texts) -> Tensor:
        return F.normalize(bag_hidden(self._model, texts.token_ids, texts.bounds, end_token=self._end_token), dim=-1)
