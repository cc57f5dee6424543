"""Random layouts: every shape of forest that a batch can have."""

from hypothesis import strategies as st

from quernel.model.layout import Layout, Segment


def build_layout(lengths: list[int], parents: list[int | None], reads: list[int]) -> Layout:
    """The layout of segments of these lengths, each below the parent of that index."""
    segments: list[Segment] = []
    for length, parent in zip(lengths, parents, strict=True):
        start = segments[-1].stop if segments else 0
        position = 0 if parent is None else segments[parent].position + segments[parent].length
        segments.append(Segment(start, length, parent, position))
    return Layout(tuple(segments), tuple(reads))


@st.composite
def layouts(draw: st.DrawFn, max_segments: int = 8, max_length: int = 9) -> Layout:
    """Forests of any depth and order, one-token segments included, read at any of their segments in any order."""
    lengths = draw(st.lists(st.integers(1, max_length), min_size=1, max_size=max_segments))
    parents = [draw(st.none() | st.integers(0, i - 1)) if i else None for i in range(len(lengths))]
    reads = draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    return build_layout(lengths, parents, reads)


def path_rows(layout: Layout, index: int) -> list[int]:
    """The rows of the stream that make the whole text which ends with segment `index`."""
    segments = [layout.segments[i] for i in (index, *layout.ancestors(index))]
    return [row for segment in reversed(segments) for row in range(segment.start, segment.stop)]
