"""From prompts to the forest that a batch computes: equal runs once, whoever asked for them. No torch.

Prompts arrive as paths of token runs. Paths that begin alike share segments; equal paths share everything. A run that
only one prompt extends is joined with what follows, so a prompt that shares nothing is a single segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from quernel.model.layout import Layout, Segment
from quernel.types import TokenPath


@dataclass(frozen=True)
class Forest:
    """A batch, ready for the model.

    Attributes:
        token_ids: The packed stream.
        layout: The segments in it, and which are read.
        rows: For each prompt, its row among the results (equal prompts have the same).
    """

    token_ids: tuple[int, ...]
    layout: Layout
    rows: tuple[int, ...]


@dataclass(slots=True)
class _Node:
    """A run of tokens below its parent, while the forest is built."""

    run: tuple[int, ...]
    children: dict[tuple[int, ...], "_Node"] = field(default_factory=dict)
    read: int | None = None


def build_forest(paths: Sequence[TokenPath]) -> Forest:
    """The forest in which each distinct run of `paths` stands once below its parent.

    Args:
        paths: One or more prompts; each has at least one run and no empty run.
    """
    root = _Node(())
    rows = []
    num_reads = 0
    for path in paths:
        node = root
        for run in path:
            node = node.children.setdefault(run, _Node(run))
        if node.read is None:
            node.read = num_reads
            num_reads += 1
        rows.append(node.read)

    token_ids: list[int] = []
    segments: list[Segment] = []
    reads = [0] * num_reads
    pending: list[tuple[_Node, int | None, int]] = [(node, None, 0) for node in reversed(root.children.values())]
    while pending:
        node, parent, position = pending.pop()
        start = len(token_ids)
        token_ids.extend(node.run)
        while node.read is None and len(node.children) == 1:
            (node,) = node.children.values()
            token_ids.extend(node.run)
        length = len(token_ids) - start
        index = len(segments)
        segments.append(Segment(start, length, parent, position))
        if node.read is not None:
            reads[node.read] = index
        pending.extend((child, index, position + length) for child in reversed(node.children.values()))
    return Forest(tuple(token_ids), Layout(tuple(segments), tuple(reads)), tuple(rows))


class SharedRuns:
    """Counts the tokens of a growing batch, with shared runs counted once."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._seen: set[TokenPath] = set()

    def cost(self, path: TokenPath) -> int:
        """Tokens that `path` would add."""
        shared = len(path)
        while shared and path[:shared] not in self._seen:
            shared -= 1
        return sum(map(len, path[shared:]))

    def add(self, path: TokenPath) -> None:
        """Take `path` into the batch."""
        self.num_tokens += self.cost(path)
        self._seen.update(path[:depth] for depth in range(1, len(path) + 1))
