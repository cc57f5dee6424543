"""What training minimises. Every loss is a number from vectors; none knows a model.

Shapes:
    N   pairs of a block                      M   candidates of a query
    C   width of a vector                     S   judged pairs
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(queries: Tensor, documents: Tensor, groups: Tensor, *, temperature: float, margin: float | None) -> Tensor:
    """Each query must find its document among all documents of the block, and each document its query.

    A pair (i, j) outside the diagonal is left out of the sums where it may be no negative: rows of one group, and,
    with a `margin`, pairs that already score above the positive by more than it.

    Args:
        queries: Unit vectors `[N, C]`.
        documents: Unit vectors `[N, C]`; row i answers query i.
        groups: `[N]`; rows of one group (one answer text, one label) are never negatives of each other.
        temperature: t below.
        margin: 0.1 in the paper; `None` to mask by group alone.

    Returns:
        Mean over both directions.

    Source: arXiv 2506.05176, equation 1 (the query-document terms and the mask m_ij), applied both ways.
    """
    scores = queries @ documents.T
    positive = scores.diagonal()
    excluded = groups.unsqueeze(0) == groups.unsqueeze(1)
    excluded.fill_diagonal_(False)

    def one_way(table: Tensor) -> Tensor:
        masked = excluded
        if margin is not None:
            masked = excluded | (table.detach() > positive.detach().unsqueeze(1) + margin)
        logits = (table / temperature).masked_fill(masked, -torch.inf)
        return (logits.logsumexp(dim=1) - positive / temperature).mean()

    return (one_way(scores) + one_way(scores.T)) / 2


def matryoshka(loss: Callable[..., Tensor], *vectors: Tensor, dimensions: Sequence[int]) -> Tensor:
    """Mean of `loss` over prefixes of the vectors, each cut to so many dimensions and then scaled to length 1.

    Source: arXiv 2205.13147, equation 1, with equal weights.
    """
    losses = [loss(*(F.normalize(part[:, :size], dim=-1) for part in vectors)) for size in dimensions]
    return torch.stack(losses).mean()


def distillation(vectors: Tensor, targets: Tensor) -> Tensor:
    """Distance from the teacher: of each vector, and of the similarities between the vectors.

    Args:
        vectors: Unit vectors `[N, C]`.
        targets: The teacher's unit vectors `[N, C]`.

    Source: the second term is the relational loss of arXiv 1904.05068, on cosines.
    """
    direct = 1 - (vectors * targets).sum(dim=-1).mean()
    relational = (vectors @ vectors.T - targets @ targets.T).square().mean()
    return direct + 10 * relational


def cosent(first: Tensor, second: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    """Pairs that people judged more similar must have the larger cosine.

    Args:
        first: Unit vectors `[S, C]`.
        second: Unit vectors `[S, C]`.
        scores: Judged similarities `[S]`.
        temperature: Scale of the cosines.

    Returns:
        log(1 + sum of exp((cos_j - cos_i) / t) over all i, j where i was judged more similar than j).

    Source: CoSENT (Su, 2022), https://kexue.fm/archives/8847; `CoSENTLoss` in sentence-transformers.
    """
    cosines = (first * second).sum(dim=-1) / temperature
    differences = cosines.unsqueeze(0) - cosines.unsqueeze(1)
    differences = differences[scores.unsqueeze(1) > scores.unsqueeze(0)]
    return torch.cat((differences.new_zeros(1), differences)).logsumexp(dim=0)
