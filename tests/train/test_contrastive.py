"""The paper's loss against its equation, written out term by term in float64; gradients too."""

import math

import pytest
import torch

from quernel.train.contrastive import Terms, cached_gradients, qwen3_contrastive


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def literal(queries, positives, same, negatives, counted, *, temperature, margin, query_query, document_document):
    """Equation 1 of arXiv 2506.05176, one exponential at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(queries)):
        positive = queries[i] @ positives[i]

        def counts(score, limit=positive):
            return margin is None or score.item() <= limit.item() + margin

        z = torch.exp(positive / temperature)
        for k in range(negatives.shape[1]):
            score = queries[i] @ negatives[i, k]
            if counted[i, k] and counts(score):
                z = z + torch.exp(score / temperature)
        for j in range(len(queries)):
            if same[i, j]:
                continue
            query_document = queries[i] @ positives[j]
            if counts(query_document):
                z = z + torch.exp(query_document / temperature)
                if document_document:
                    z = z + torch.exp(positives[i] @ positives[j] / temperature)
            query_other = queries[i] @ queries[j]
            if query_query and counts(query_other):
                z = z + torch.exp(query_other / temperature)
        total = total - torch.log(torch.exp(positive / temperature) / z)
    return total / len(queries)


@pytest.mark.parametrize("margin", [0.1, None, -0.5])
@pytest.mark.parametrize(("query_query", "document_document"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_those_of_the_equation(seed, margin, query_query, document_document):
    n, k, width = 7, 3, 8
    parts = [unit(n, width, seed=seed), unit(n, width, seed=seed + 50), unit(n, k, width, seed=seed + 100)]
    same = torch.eye(n, dtype=torch.bool)
    same[2, 5] = same[5, 2] = True
    counted = torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) < 0.7
    results = []
    for function in (literal, None):
        leaves = [part.clone().requires_grad_() for part in parts]
        if function is literal:
            value = literal(
                leaves[0], leaves[1], same, leaves[2], counted, temperature=0.1, margin=margin,
                query_query=query_query, document_document=document_document,
            )  # fmt: skip
        else:
            terms = Terms(query_query=query_query, document_document=document_document)
            value = qwen3_contrastive(
                leaves[0], leaves[1], same, leaves[2], counted, temperature=0.1, margin=margin, terms=terms
            )
        value.backward()
        results.append((value.item(), [leaf.grad for leaf in leaves]))
    (expected, gradients), (found, own) = results
    assert found == pytest.approx(expected, abs=1e-12)
    for one, other in zip(gradients, own, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


def test_masks_by_hand():
    east, north = [1.0, 0.0], [0.0, 1.0]
    queries, positives = torch.tensor([east, north]), torch.tensor([north, east])
    diagonal = torch.eye(2, dtype=torch.bool)
    # The other document scores 1, the positive 0: beyond the margin, so likely an answer. The other query scores 0.
    loss = qwen3_contrastive(queries, positives, diagonal, temperature=1.0, margin=0.1)
    assert loss.item() == pytest.approx(math.log(1 + 1))
    # Without a margin all count: the positive 0, the other query 0, the two documents 0, the other document 1.
    loss = qwen3_contrastive(queries, positives, diagonal, temperature=1.0, margin=None)
    assert loss.item() == pytest.approx(math.log(3 + math.e))
    # Rows of one document are never negatives of each other.
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert qwen3_contrastive(queries, positives, everything, temperature=1.0, margin=None).item() == 0


def test_gradients_of_parts_are_those_of_the_whole():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 4)).double()
    inputs = torch.randn(10, 6, dtype=torch.float64)
    same = torch.eye(5, dtype=torch.bool)

    def loss(vectors):
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        return qwen3_contrastive(unit[0::2], unit[1::2], same, temperature=0.05)

    whole = loss(model(inputs))
    whole.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    for parts in ([inputs], [inputs[:3], inputs[3:4], inputs[4:]]):
        model.zero_grad()
        assert cached_gradients(parts, model, loss) == pytest.approx(whole.item())
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-12, rtol=1e-9)
