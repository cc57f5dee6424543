"""Where things stand in a packed batch: the forest of segments, as plain numbers. No torch, no token ids.

A segment is a run of tokens that extends a parent segment, or nothing. A token sees all tokens of its segment's
ancestors, and those before it in its own segment. Mixed lengths, a shared instruction, a reranker's shared query and
duplicated texts are all this one structure; there is no padding anywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens.

    Attributes:
        start: Its first row: the cached rows come first, the packed stream follows.
        length: Its tokens, at least one.
        parent: Index of the segment that it extends, which stands before it; `None` for a root.
        position: Position of its first token in the text: the total length of its ancestors.
    """

    start: int
    length: int
    parent: int | None
    position: int

    @property
    def stop(self) -> int:
        """The row after its last."""
        return self.start + self.length


@dataclass(frozen=True)
class Layout:
    """A packed batch without its tokens.

    Attributes:
        segments: In the order of the rows, each after its parent, together covering every row once.
        reads: Indexes of the segments whose last token is read, each once, in the order of the results.
        num_cached: Rows at the front whose keys and values are known already. They belong to whole segments, are not
            in the stream, and are not read.
    """

    segments: tuple[Segment, ...]
    reads: tuple[int, ...]
    num_cached: int = 0

    @classmethod
    def from_lengths(cls, lengths: Sequence[int]) -> "Layout":
        """Independent texts, one after the other, each read at its last token."""
        starts = accumulate(lengths, initial=0)
        segments = tuple(Segment(start, length, None, 0) for start, length in zip(starts, lengths, strict=False))
        return cls(segments, tuple(range(len(segments))))

    @property
    def num_tokens(self) -> int:
        """Rows of the stream, which are the ones to compute."""
        return self.segments[-1].stop - self.num_cached if self.segments else 0

    @cached_property
    def stream(self) -> tuple[int, ...]:
        """Indexes of the segments that are in the stream."""
        return tuple(index for index, segment in enumerate(self.segments) if segment.start >= self.num_cached)

    def rows(self, index: int) -> slice:
        """The rows of a segment in the stream, counted from its beginning."""
        segment = self.segments[index]
        return slice(segment.start - self.num_cached, segment.stop - self.num_cached)

    @cached_property
    def children(self) -> dict[int, tuple[int, ...]]:
        """For each segment that has any: the segments that extend it, in the order of the stream."""
        found: dict[int, list[int]] = {}
        for index, segment in enumerate(self.segments):
            if segment.parent is not None:
                found.setdefault(segment.parent, []).append(index)
        return {parent: tuple(children) for parent, children in found.items()}

    def ancestors(self, index: int) -> Iterable[int]:
        """The segments that `index` extends, nearest first."""
        parent = self.segments[index].parent
        while parent is not None:
            yield parent
            parent = self.segments[parent].parent
