"""From prompts to the forest that a batch computes: equal runs once, whoever asked for them. No torch.

Prompts arrive as paths of token runs. Paths that begin alike share segments; equal paths share everything. A run that
only one prompt extends is joined with what follows, so a prompt that shares nothing is a single segment.
"""

from collections.abc import Callable, Mapping, Sequence
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
        cached: The prefixes whose last runs are the cached rows of the layout, in the order of those rows.
        computed: For each prefix that several prompts could share and that was not known: its last run's stream rows.
    """

    token_ids: tuple[int, ...]
    layout: Layout
    rows: tuple[int, ...]
    cached: tuple[TokenPath, ...] = ()
    computed: Mapping[TokenPath, slice] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """A run of tokens below its parent, while the forest is built."""

    path: TokenPath
    children: dict[tuple[int, ...], "_Node"] = field(default_factory=dict)
    read: int | None = None

    @property
    def run(self) -> tuple[int, ...]:
        return self.path[-1]


def build_forest(paths: Sequence[TokenPath], known: Callable[[TokenPath], bool] = lambda prefix: False) -> Forest:
    """The forest in which each distinct run of `paths` stands once below its parent.

    Args:
        paths: One or more prompts; each has at least one run and no empty run.
        known: Whether keys and values of a prefix's last run are at hand; asked for prefixes whose own are known, and
            that are not read.
    """
    root = _Node(())
    rows = []
    num_reads = 0
    for path in paths:
        node = root
        for depth, run in enumerate(path, 1):
            if run not in node.children:
                node.children[run] = _Node(path[:depth])
            node = node.children[run]
        if node.read is None:
            node.read = num_reads
            num_reads += 1
        rows.append(node.read)

    segments: list[Segment] = []
    cached: list[TokenPath] = []
    num_cached = 0
    top: list[tuple[_Node, int | None, int]] = []
    pending: list[tuple[_Node, int | None, int]] = [(node, None, 0) for node in reversed(root.children.values())]
    while pending:
        node, parent, position = pending.pop()
        if node.read is not None or not known(node.path):
            top.append((node, parent, position))
            continue
        index, length = len(segments), len(node.run)
        segments.append(Segment(num_cached, length, parent, position))
        cached.append(node.path)
        num_cached += length
        pending.extend((child, index, position + length) for child in reversed(node.children.values()))

    token_ids: list[int] = []
    computed: dict[TokenPath, slice] = {}
    reads = [0] * num_reads
    pending = top[::-1]
    while pending:
        node, parent, position = pending.pop()
        start = len(token_ids)
        token_ids.extend(node.run)
        while node.read is None:
            computed[node.path] = slice(len(token_ids) - len(node.run), len(token_ids))
            if len(node.children) > 1:
                break
            (node,) = node.children.values()
            token_ids.extend(node.run)
        length = len(token_ids) - start
        index = len(segments)
        segments.append(Segment(num_cached + start, length, parent, position))
        if node.read is not None:
            reads[node.read] = index
        pending.extend((child, index, position + length) for child in reversed(node.children.values()))
    layout = Layout(tuple(segments), tuple(reads), num_cached)
    return Forest(tuple(token_ids), layout, tuple(rows), tuple(cached), computed)


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
