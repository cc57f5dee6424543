"""Which examples make up which step: decided by a seed and the step's number alone, so that a run can go on anywhere.

A batch holds rows of one source, so that its in-batch negatives are of the same kind as its positives. A step may have
several batches, so that it also tells kinds apart, by their instructions. Each source is gone through in a new order
each time round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from quernel.train.drawing import Form

T = TypeVar("T")

PLAIN = Form()


@dataclass(frozen=True)
class Source(Generic[T]):
    """Rows that are drawn together.

    Attributes:
        name: For reports.
        rows: The rows.
        weight: Its share of the batches, next to the others'.
        form: How its rows are read.
    """

    name: str
    rows: Sequence[T]
    weight: float
    form: Form = PLAIN


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Rows of one source that a step reads.

    Attributes:
        source: Where they come from.
        rows: The rows.
        seed: For whatever else is drawn: which positive, which negatives.
        form: How they are read.
    """

    source: str
    rows: Sequence[T]
    seed: int
    form: Form = PLAIN


class Mixture(Generic[T]):
    """The batches of a run.

    Args:
        sources: What is drawn from.
        steps: How many there are.
        batch_size: Rows in each; fewer where a source has fewer.
        batches: Batches of a step, among which its rows are divided.
        seed: Fixes everything.
    """

    def __init__(
        self, sources: Sequence[Source[T]], *, steps: int, batch_size: int, seed: int, batches: int = 1
    ) -> None:
        self._sources, self._batch_size, self._seed = sources, max(1, batch_size // batches), seed
        weights = np.array([source.weight for source in sources], dtype=np.float64)
        self._orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}
        draw = np.random.default_rng([seed, 0])
        self._choices = draw.choice(len(sources), size=(steps, batches), p=weights / weights.sum())

    def __len__(self) -> int:
        return len(self._choices)

    def __getitem__(self, step: int) -> list[Batch[T]]:
        """The batches of a step."""
        return [self._batch(step, place) for place in range(self._choices.shape[1])]

    def _batch(self, step: int, place: int) -> Batch[T]:
        number = int(self._choices[step, place])
        source = self._sources[number]
        # How many batches the source has given before.
        turn = int((self._choices[:step] == number).sum() + (self._choices[step, :place] == number).sum())
        size = min(self._batch_size, len(source.rows))
        per_round = len(source.rows) // size
        round_, part = divmod(turn, per_round)
        chosen = self._order(number, round_)[part * size : (part + 1) * size]
        seed = int(np.random.default_rng([self._seed, 2, step, place]).integers(2**31))
        return Batch(source.name, [source.rows[index] for index in chosen.tolist()], seed, source.form)

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
        counts = np.bincount(self._choices.ravel(), minlength=len(self._sources))
        return {
            source.name: float(count) / self._choices.size for source, count in zip(self._sources, counts, strict=True)
        }
