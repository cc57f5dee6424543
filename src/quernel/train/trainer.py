"""How the token table is trained: a loop that knows nothing of what it minimises, and the table's objective.

An objective is a function from progress (0 to 1) to a loss. Runs are fixed by their seed.

Shapes:
    N   texts                                 C   hidden size
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quernel.model.qwen3 import Qwen3
from quernel.train.bag import bag_hidden
from quernel.train.batches import Block, Sampler, Texts, join
from quernel.train.corpus import Corpus
from quernel.train.losses import cosent, distillation, info_nce, matryoshka
from quernel.train.teacher import Targets

Embed = Callable[[Texts], Tensor]
"""Texts to final hidden states `[N, C]`."""

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: Optimiser steps.
        rate: Peak learning rate of the layers.
        table_rate: Peak learning rate of the token table.
        warmup: Steps over which the rate rises from zero.
        floor: Share of the peak that is left at the end of the cosine.
    """

    steps: int
    rate: float
    table_rate: float
    warmup: int = 50
    floor: float = 0.05


@dataclass(frozen=True, kw_only=True)
class TableWeights:
    """What the table's objective is made of.

    Attributes:
        blocks: Blocks of one source each in a step.
        pairs: Pairs in a block.
        dimensions: Matryoshka dimensions and the weight of each.
        first_temperature: Of InfoNCE at the beginning.
        last_temperature: At the end.
        margin: Negatives that score above their positive by more are left out.
        distillation: Weight of the teacher's loss; needs targets.
        taught: Texts with a teacher vector in a step.
        similarity: Weight of the loss on judged pairs.
        judged: Judged pairs in a step.
    """

    blocks: int
    pairs: int
    dimensions: dict[int, float]
    first_temperature: float
    last_temperature: float
    margin: float = 0.1
    distillation: float = 1.0
    taught: int = 512
    similarity: float = 0.1
    judged: int = 384


class TableObjective:
    """InfoNCE on blocks of pairs, distillation, and the order of judged pairs; see `losses` for each.

    Args:
        embed: The model, as a function.
        sampler: Draws the blocks.
        corpus: Where judged pairs and taught texts come from.
        targets: The teacher's vectors, if there is one.
        weights: What counts how much.
        seed: Fixes which judged pairs and taught texts are drawn.
    """

    def __init__(
        self,
        embed: Embed,
        sampler: Sampler,
        corpus: Corpus,
        targets: Targets | None,
        weights: TableWeights,
        *,
        seed: int,
    ) -> None:
        self._embed, self._sampler, self._corpus, self._weights = embed, sampler, corpus, weights
        self._rng = np.random.default_rng(seed)
        self._targets = targets
        if targets is not None:
            self._target_vectors = torch.from_numpy(targets.vectors)
            self._target_rows = targets.rows(corpus.num_texts + 1)  # crops carry the number after the last text

    def __call__(self, progress: float) -> Tensor:
        """The loss of one fresh batch."""
        weights, corpus = self._weights, self._corpus
        temperature = weights.first_temperature + (weights.last_temperature - weights.first_temperature) * progress
        blocks = [self._sampler.draw(weights.pairs) for _ in range(weights.blocks)]
        texts = [side for block in blocks for side in (block.queries, block.documents)]
        judged = self._rng.integers(0, max(len(corpus.similar), 1), weights.judged if len(corpus.similar) else 0)
        texts += [self._sampler.plain(corpus.similar[judged, side]) for side in (0, 1)]
        taught = np.empty(0, dtype=np.int64)
        if self._targets is not None:
            taught = self._rng.integers(0, len(self._targets.texts), weights.taught)
            texts.append(self._sampler.plain(self._targets.texts[taught]))
        hidden = torch.split(self._embed(join(texts)), [side.num_texts for side in texts])

        losses = [
            self._contrast(hidden[2 * index], hidden[2 * index + 1], block.groups, temperature) / weights.blocks
            for index, block in enumerate(blocks)
        ]
        if len(judged):
            scores = torch.from_numpy(corpus.scores[judged])
            first, second = hidden[2 * len(blocks)], hidden[2 * len(blocks) + 1]
            ordered = matryoshka(
                lambda left, right: cosent(left, right, scores, temperature=0.05),
                first,
                second,
                dimensions=tuple(weights.dimensions)[:2],
            )
            losses.append(weights.similarity * ordered)
        if self._targets is not None:
            losses.append(weights.distillation * self._distil(blocks, hidden, taught))
        return torch.stack(losses).sum()

    def _contrast(self, queries: Tensor, documents: Tensor, groups: Tensor, temperature: float) -> Tensor:
        total = sum(self._weights.dimensions.values())
        losses = [
            weight
            / total
            * info_nce(
                F.normalize(queries[:, :size], dim=-1),
                F.normalize(documents[:, :size], dim=-1),
                groups,
                temperature=temperature,
                margin=self._weights.margin,
            )
            for size, weight in self._weights.dimensions.items()
        ]
        return torch.stack(losses).sum()

    def _distil(self, blocks: Sequence[Block], hidden: Sequence[Tensor], taught: np.ndarray) -> Tensor:
        """Taught texts towards their own vectors, and translations towards those of their English side."""
        vectors, rows = [hidden[-1]], [taught]
        for index, block in enumerate(blocks):
            if block.source not in self._corpus.bitexts:
                continue
            english = self._target_rows[block.numbers[:, 1]]
            known = np.flatnonzero(english < len(self._target_vectors))
            vectors.append(hidden[2 * index][known])
            rows.append(english[known])
        return distillation(F.normalize(torch.cat(vectors), dim=-1), self._target_vectors[np.concatenate(rows)])


def bag_embed(model: Qwen3, *, end_token: int) -> Embed:
    """A one-layer model as a bag of tokens."""
    return lambda texts: bag_hidden(model, texts.token_ids, texts.bounds, end_token=end_token)


def train(
    model: nn.Module,
    objective: Callable[[float], Tensor],
    schedule: Schedule,
    *,
    frozen: Iterable[str] = (),
    report: Report = lambda line: None,
) -> None:
    """Minimises the objective over the model's parameters, in place.

    Args:
        model: Its `embed_tokens` is the table.
        objective: From progress to the loss of a fresh batch.
        schedule: Steps and rates.
        frozen: Parameters whose names contain one of these stay as they are.
        report: Called with a line of progress about every half minute.
    """
    frozen = tuple(frozen)
    table: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
        if parameter.requires_grad:
            (table if name.startswith("embed_tokens") else others).append(parameter)
    groups = [{"params": table, "lr": schedule.table_rate}, {"params": others, "lr": schedule.rate}]
    peaks = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.999), fused=True)
    started = reported = time.monotonic()
    recent: list[float] = []
    for step in range(schedule.steps):
        seconds = time.monotonic() - started
        progress = step / schedule.steps
        rise = min(1.0, (step + 1) / schedule.warmup)
        fall = schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * progress)) / 2
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * rise * fall
        loss = objective(progress)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(others, 5.0)
        optimiser.step()
        recent.append(loss.item())
        if time.monotonic() - reported > 30:
            reported = time.monotonic()
            report(f"step {step + 1} of {schedule.steps}, {seconds:.0f} s, loss {sum(recent) / len(recent):.3f}")
            recent.clear()
    model.requires_grad_(True)
