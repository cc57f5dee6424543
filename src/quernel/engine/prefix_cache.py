"""Prefixes that are kept between batches, least recently used out first. It knows sizes, not what it holds. No torch.

A prefix is known by all of its token ids, in one cache for each model and type, so there is never a wrong hit.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

from quernel.types import TokenPath

Entry = TypeVar("Entry")


class PrefixCache(Generic[Entry]):
    """Entries by prefix, at most `max_bytes` of them.

    Args:
        max_bytes: Bound on the sum of the entries' sizes; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[TokenPath, tuple[Entry, int]] = OrderedDict()
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drop all entries; counts go on."""
        self._entries.clear()
        self.num_bytes = 0

    def get(self, prefix: TokenPath) -> Entry | None:
        """The entry of a prefix, which becomes the most recently used."""
        found = self._entries.get(prefix)
        if found is None:
            self.num_misses += 1
            return None
        self.num_hits += 1
        self._entries.move_to_end(prefix)
        return found[0]

    def put(self, prefix: TokenPath, entry: Entry, num_bytes: int) -> None:
        """Keep an entry, and drop others to make room; one that is too large alone is not kept."""
        if num_bytes > self.max_bytes:
            return
        if prefix in self._entries:
            self.num_bytes -= self._entries.pop(prefix)[1]
        self._entries[prefix] = entry, num_bytes
        self.num_bytes += num_bytes
        while self.num_bytes > self.max_bytes:
            _, (_, dropped) = self._entries.popitem(last=False)
            self.num_bytes -= dropped
