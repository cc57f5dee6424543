"""Attention of whole texts in few products, with gradients: for training.

Rows stay packed everywhere else. Here, texts of like length are laid out side by side and multiplied as one batch, so
that a step of training costs a few large products and not a few thousand small ones: a text by itself costs a slice of
every tensor on the way forward, and a tensor of zeros as large as the whole on the way back.

Shapes:
    T   rows of the packed texts              H   query heads
    N   texts of a group                      G   key/value heads; H / G query heads share one
    L   the group's longest text              D   width of a head
    P   places of all groups, N * L each
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLACK = 8
"""Tokens by which a text of a group may be shorter than a sixteenth below the longest."""

SCORES_TO = 512
"""Longest text on a CPU whose scores are held; in longer ones a blocked kernel is faster, and bounds the memory."""


@dataclass(frozen=True, slots=True)
class TextPlan:
    """Where the rows of packed texts stand in their groups, found once for all layers.

    Attributes:
        groups: Texts and longest length of each group.
        spread: For each place the row that stands there, `[P]`; after the end of a text, its last row.
        places: For each row its place, `[T]`.
        after: Which places are after the end of a text, bool `[P]`.
        order: For each text its number among all groups' texts, `[texts]`.
        is_causal: Whether each row asks, and sees what is before it; otherwise each text's last row asks.
    """

    groups: tuple[tuple[int, int], ...]
    spread: Tensor
    places: Tensor
    after: Tensor
    order: Tensor
    is_causal: bool

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of the rows, or of the texts' last rows, to the texts. `[T or texts, H, D]`.

        Args:
            query: `[T, H, D]`, or `[texts, H, D]` of the last rows.
            key: `[T, G, D]`.
            value: `[T, G, D]`.
        """
        shared = query.shape[1] // key.shape[1]
        keys, values = (
            _Spread.apply(part, self.spread, self.places).repeat_interleave(shared, dim=1)  # type: ignore[no-untyped-call]
            for part in (key, value)
        )
        sizes = [texts * length for texts, length in self.groups]
        if self.is_causal:
            asked, asked_sizes = _Spread.apply(query, self.spread, self.places), sizes  # type: ignore[no-untyped-call]
        else:
            asked = _Spread.apply(query, self.order.argsort(), self.order)  # type: ignore[no-untyped-call]
            asked_sizes = [texts for texts, _ in self.groups]
        parts = torch.split(asked, asked_sizes), torch.split(keys, sizes), torch.split(values, sizes)
        afters = torch.split(self.after, sizes)
        found = [
            self._group(texts, rows, after.view(texts, 1, 1, -1))
            for (texts, _), after, rows in zip(self.groups, afters, zip(*parts, strict=True), strict=True)
        ]
        back = self.places if self.is_causal else self.order
        gathered: Tensor = _Gather.apply(torch.cat(found), back)  # type: ignore[no-untyped-call]
        return gathered

    def _group(self, texts: int, rows: Sequence[Tensor], after: Tensor) -> Tensor:
        """The rows that a group's queries gather, in their order."""
        query, key, value = (part.view(texts, -1, *part.shape[1:]).transpose(1, 2) for part in rows)
        length = key.shape[2]
        if self.is_causal and (query.device.type != "cpu" or length > SCORES_TO):
            out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu_(1)
            scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
            scores = scores.masked_fill(future if self.is_causal else after, -math.inf)
            out = scores.softmax(dim=-1).to(value.dtype) @ value
        return out.transpose(1, 2).flatten(0, 1)


def plan_texts(lengths: Sequence[int], device: torch.device) -> tuple[TextPlan, TextPlan]:
    """The plans for all rows of packed texts, and for their last rows.

    Args:
        lengths: Tokens of each text, at least one.
        device: Where indexes go.
    """
    size = torch.tensor(lengths)
    starts = size.cumsum(0) - size
    order = size.argsort(stable=True)
    groups: list[list[int]] = []
    for number in order.tolist():
        if not groups or lengths[number] > lengths[groups[-1][0]] * 17 // 16 + SLACK:
            groups.append([])
        groups[-1].append(number)
    spread: list[Tensor] = []
    after: list[Tensor] = []
    places = torch.empty(int(size.sum()), dtype=torch.int64)
    first = 0
    for group in groups:
        columns = torch.arange(lengths[group[-1]]).expand(len(group), -1)
        own = size[group].unsqueeze(1)
        is_after = columns >= own
        rows = starts[group].unsqueeze(1) + columns.minimum(own - 1)
        places[rows[~is_after]] = first + torch.arange(rows.numel()).view_as(rows)[~is_after]
        spread.append(rows.flatten())
        after.append(is_after.flatten())
        first += rows.numel()
    rows_plan = TextPlan(
        groups=tuple((len(group), lengths[group[-1]]) for group in groups),
        spread=torch.cat(spread).to(device),
        places=places.to(device),
        after=torch.cat(after).to(device),
        order=order.argsort().to(device),
        is_causal=True,
    )
    return rows_plan, replace(rows_plan, is_causal=False)


class _Spread(torch.autograd.Function):
    """Rows to places. Nothing that is asked of a place after a text's end is used, so its gradient is none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, spread: Tensor, places: Tensor) -> Tensor:
        """Rows `[T, ...]`, the row of each place `[P]`, the place of each row `[T]`; gives `[P, ...]`."""
        ctx.save_for_backward(places)
        return rows[spread]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradients of the rows."""
        (places,) = ctx.saved_tensors
        return gradients[0][places], None, None


class _Gather(torch.autograd.Function):
    """Places to rows."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, places: Tensor) -> Tensor:
        """What stands in the places `[P, ...]`, the place of each row `[T]`; gives `[T, ...]`."""
        ctx.save_for_backward(places)
        ctx.num_places = len(found)
        return found[places]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradients of the places; none after a text's end."""
        (places,) = ctx.saved_tensors
        back = gradients[0].new_zeros(ctx.num_places, *gradients[0].shape[1:])
        back[places] = gradients[0]
        return back, None
