"""What the playground shows of vectors: shorter ones, how alike they are, which order they give, where they lie.

`static/vectors.js` has the same for browsers, so that a slider need not ask again.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def cut(vectors: Matrix, dimensions: int) -> Matrix:
    """The beginnings of vectors `[N, D]`, scaled to length one: `[N, dimensions]`."""
    kept = vectors[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    scaled: Matrix = kept / np.where(lengths > 0, lengths, 1.0)
    return scaled


def order_of(scores: Sequence[float]) -> list[int]:
    """Positions of scores from the highest; equal ones stay as they are."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def places_of(order: Sequence[int]) -> list[int]:
    """The place of each position in an order, from 1."""
    places = [0] * len(order)
    for place, index in enumerate(order, start=1):
        places[index] = place
    return places


def neighbours_of(similarities: Matrix) -> list[int | None]:
    """Whom each is most like, besides itself; `None` where there is nobody else."""
    if len(similarities) < 2:
        return [None] * len(similarities)
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    return [int(index) for index in others.argmax(axis=1)]


def range_of(similarities: Matrix) -> tuple[float, float]:
    """The least and the highest similarity of two different vectors."""
    others = similarities[~np.eye(len(similarities), dtype=bool)]
    return (float(others.min()), float(others.max())) if others.size else (0.0, 1.0)


def plane_of(vectors: Matrix) -> tuple[Matrix, float]:
    """Where vectors lie on their two principal axes.

    Args:
        vectors: `[N, D]`.

    Returns:
        Places `[N, 2]` around their middle, of which the farthest along an axis is on its positive side, and the share
        of all variance that the two axes have.
    """
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred @ centred.T)
    values = np.maximum(values[::-1], 0.0)
    places = np.zeros((len(vectors), 2))
    for axis in range(min(2, len(vectors))):
        along = directions[:, -1 - axis] * np.sqrt(values[axis])
        places[:, axis] = along * (-1.0 if along[np.abs(along).argmax()] < 0 else 1.0)
    whole = float(values.sum())
    return places, float(values[:2].sum()) / whole if whole > 0 else 1.0


def fit(places: Matrix, width: float, height: float, margin: float) -> Matrix:
    """Places in a picture `[N, 2]`, as large as it takes, with one scale for both axes."""
    most_x, most_y = np.abs(places).max(axis=0)
    rooms = [(size / 2 - margin) / most for size, most in ((width, most_x), (height, most_y)) if most > 0]
    shown: Matrix = np.array([width / 2, height / 2]) + places * np.array([1.0, -1.0]) * min(rooms, default=1.0)
    return shown
