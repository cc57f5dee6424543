"""The contrastive loss of the Qwen3 Embedding paper, with all of its terms, and caching of gradients for large batches.

Shapes:
    N   pairs of a batch                      C   width of a vector
    K   hard negatives of a query
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Which of the batch's other texts are negatives, besides the other documents of the queries.

    Attributes:
        query_query: Other queries, of a query.
        document_document: Other documents, of the positive document.
    """

    query_query: bool = True
    document_document: bool = True


ALL_TERMS = Terms()


def qwen3_contrastive(
    queries: Tensor,
    positives: Tensor,
    same: Tensor,
    negatives: Tensor | None = None,
    counted: Tensor | None = None,
    *,
    temperature: float,
    margin: float | None = 0.1,
    terms: Terms = ALL_TERMS,
) -> Tensor:
    """Each query must find its document among all that the batch holds.

        L   = -(1/N) sum_i log( exp(s(q_i, d_i+)/t) / Z_i )
        Z_i = exp(s(q_i, d_i+)/t)
            + sum_k      m_ik exp(s(q_i, d_ik-)/t)
            + sum_{j!=i} m_ij exp(s(q_i, q_j)/t)
            + sum_{j!=i} m_ij exp(s(d_i+, d_j)/t)
            + sum_{j!=i} m_ij exp(s(q_i, d_j)/t)

    A term is masked (m = 0) where its score passes that of the positive by more than the margin, since it is likely an
    answer too, and always where its document is the positive itself. The paper gives no threshold for the term of two
    documents; there the mask of query and document counts.

    Args:
        queries: Unit vectors `[N, C]`.
        positives: Unit vectors `[N, C]`; row i answers query i.
        same: Pairs of rows that are never negatives of each other, bool `[N, N]`: the diagonal, equal documents.
        negatives: Unit vectors `[N, K, C]`; None for none.
        counted: Which of them there are, and are not the positive itself, bool `[N, K]`.
        temperature: t.
        margin: How far a negative may pass the positive; None to mask equal documents alone.
        terms: Which of the sums there are.

    Source: arXiv 2506.05176, equation 1.
    """
    positive = (queries * positives).sum(dim=-1)
    query_document = queries @ positives.T
    limit = None if margin is None else positive.detach().unsqueeze(1) + margin

    def masked(scores: Tensor, judged_by: Tensor, always: Tensor) -> Tensor:
        excluded = always if limit is None else always | (judged_by.detach() > limit)
        return (scores / temperature).masked_fill(excluded, -torch.inf)

    sums = [(positive / temperature).unsqueeze(1), masked(query_document, query_document, same)]
    if terms.query_query:
        query_query = queries @ queries.T
        sums.append(masked(query_query, query_query, same))
    if terms.document_document:
        sums.append(masked(positives @ positives.T, query_document, same))
    if negatives is not None:
        hard = torch.einsum("nc,nkc->nk", queries, negatives)
        sums.append(masked(hard, hard, torch.zeros_like(hard, dtype=torch.bool) if counted is None else ~counted))
    return (torch.cat(sums, dim=1).logsumexp(dim=1) - positive / temperature).mean()


def cached_gradients(parts: Sequence[Part], embed: Callable[[Part], Tensor], loss: Callable[[Tensor], Tensor]) -> float:
    """Gradients of a loss over a batch that is computed in parts, as if it had been computed whole.

    The vectors of all parts are computed without keeping anything for the way back; the loss gives each vector its
    gradient; then each part is computed again and takes its gradient back through the model. So memory is bound by a
    part, and the loss sees the whole batch. A batch of one part is computed once.

    Args:
        parts: What `embed` takes.
        embed: Gives the vectors of a part, `[n, C]`, with its graph; the same whenever it is asked.
        loss: Takes the vectors of all parts, `[N, C]`.

    Returns:
        The loss. Gradients are added to those of the parameters.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983.
    """
    if len(parts) == 1:
        value = loss(embed(parts[0]))
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())
    with torch.no_grad():
        vectors = [embed(part) for part in parts]
    whole = torch.cat(vectors).requires_grad_()
    value = loss(whole)
    (gradients,) = torch.autograd.grad(value, whole)
    start = 0
    for part, known in zip(parts, vectors, strict=True):
        embed(part).backward(gradients[start : start + len(known)])  # type: ignore[no-untyped-call]
        start += len(known)
    return float(value.detach())
