"""How results are compared with a reference: by direction and by largest difference, both printed."""

import numpy as np

MAX_DIFFERENCE = 4e-6
MIN_COSINE = 0.999999
MIN_COSINE_BFLOAT16 = 0.9995
MAX_EXCESS_BFLOAT16 = 1.5
MAX_LOGIT_DIFFERENCE = 1e-4


def compare(ours, reference):
    """Largest difference of unit vectors, and smallest cosine, between rows of two `[N, D]` arrays."""
    ours, reference = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (np.float64(ours), np.float64(reference))
    )
    return float(np.abs(ours - reference).max()), float((ours * reference).sum(axis=1).min())


def assert_same_vectors(ours, reference):
    """The promise for float32."""
    assert np.shape(ours) == np.shape(reference)
    difference, cosine = compare(ours, reference)
    print(f"largest difference {difference:.2e}, smallest cosine {cosine:.9f}")
    assert difference <= MAX_DIFFERENCE
    assert cosine >= MIN_COSINE


def assert_same_direction(ours, reference):
    """The promise for bfloat16."""
    assert np.shape(ours) == np.shape(reference)
    difference, cosine = compare(ours, reference)
    print(f"largest difference {difference:.2e}, smallest cosine {cosine:.9f}")
    assert cosine >= MIN_COSINE_BFLOAT16


def assert_as_near(ours, theirs, exact):
    """Rounding to bfloat16 takes our vectors no farther from the exact ones than the reference's (up to chance)."""
    (_, our_cosine), (_, their_cosine) = compare(ours, exact), compare(theirs, exact)
    print(f"smallest cosine to float32: ours {our_cosine:.9f}, theirs {their_cosine:.9f}")
    assert 1 - our_cosine <= MAX_EXCESS_BFLOAT16 * (1 - their_cosine)


def assert_same_logits(ours, reference):
    """The promise for a reranker's logits in float32."""
    assert np.shape(ours) == np.shape(reference)
    difference = float(np.abs(np.float64(ours) - np.float64(reference)).max())
    print(f"largest difference {difference:.2e}, logits up to {np.abs(reference).max():.2f}")
    assert difference <= MAX_LOGIT_DIFFERENCE
