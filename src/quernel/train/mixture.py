"""Which examples make up which step: decided by a seed and the step's number alone, so that a run can go on anywhere.

A batch holds rows of one source, so that its in-batch negatives are of the same kind as its positives. Each source is
gone through in a new order each time round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


@dataclass(frozen=True)
class Source(Generic[T]):
    """Rows that are drawn together.

    Attributes:
        name: For reports.
        rows: The rows.
        weight: Its share of the batches, next to the others'.
    """

    name: str
    rows: Sequence[T]
    weight: float


@dataclass(frozen=True)
class Batch(Generic[T]):
    """The rows of one step.

    Attributes:
        source: Where they come from.
        rows: The rows.
        seed: For whatever else is drawn in this step: which positive, which negatives.
    """

    source: str
    rows: Sequence[T]
    seed: int


class Mixture(Generic[T]):
    """The batches of a run.

    Args:
        sources: What is drawn from.
        steps: How many batches there are.
        batch_size: Rows in each; fewer where a source has fewer.
        seed: Fixes everything.
    """

    def __init__(self, sources: Sequence[Source[T]], *, steps: int, batch_size: int, seed: int) -> None:
        self._sources, self._batch_size, self._seed = sources, batch_size, seed
        weights = np.array([source.weight for source in sources], dtype=np.float64)
        self._orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}
        draw = np.random.default_rng([seed, 0])
        self._choices = draw.choice(len(sources), size=steps, p=weights / weights.sum())

    def __len__(self) -> int:
        return len(self._choices)

    def __getitem__(self, step: int) -> Batch[T]:
        """The batch of a step."""
        number = int(self._choices[step])
        source = self._sources[number]
        turn = int((self._choices[:step] == number).sum())  # how many batches it has given before
        size = min(self._batch_size, len(source.rows))
        per_round = len(source.rows) // size
        round_, place = divmod(turn, per_round)
        chosen = self._order(number, round_)[place * size : (place + 1) * size]
        seed = int(np.random.default_rng([self._seed, 2, step]).integers(2**31))
        return Batch(source.name, [source.rows[index] for index in chosen.tolist()], seed)

    def _order(self, number: int, round_: int) -> npt.NDArray[np.int64]:
        """The order in which a source is gone through, which many steps ask for."""
        held = self._orders.get(number)
        if held is None or held[0] != round_:
            drawn = np.random.default_rng([self._seed, 1, number, round_])
            held = self._orders[number] = round_, drawn.permutation(len(self._sources[number].rows))
        return held[1]

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of each source in the batches that there are."""
        counts = np.bincount(self._choices, minlength=len(self._sources))
        return {source.name: float(count) / len(self) for source, count in zip(self._sources, counts, strict=True)}
