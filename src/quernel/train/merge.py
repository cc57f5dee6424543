"""Checkpoints into one: weighted means, and slerp, the way of the Qwen3 Embedding paper; adapters into their base.

Source: arXiv 2506.05176, section 3 (slerp of checkpoints of one run); Shoemake, SIGGRAPH 1985, for slerp.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from quernel.errors import CheckpointError, SettingsError
from quernel.model.rewrite import rewrite
from quernel.model.weights import PREFIX, Checkpoint
from quernel.train.lora import read_adapter

Report = Callable[[int, int], None]

NEARLY_PARALLEL = 1e-6
"""Sine of the angle below which slerp is the straight line, which it is in the limit."""


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of tensors of one shape, computed in float64."""
    total = sum(weights)
    mean = sum(tensor.double() * (weight / total) for tensor, weight in zip(tensors, weights, strict=True))
    assert isinstance(mean, Tensor)
    return mean.to(tensors[0].dtype)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The point at `share` of the way from the first to the second along the arc between them.

        sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b,    w the angle between a and b

    The tensors are taken as vectors; where they are nearly parallel it is the straight line. Computed in float64.
    """
    a, b = first.double().flatten(), second.double().flatten()
    lengths = float(a.norm() * b.norm())
    angle = math.acos(max(-1.0, min(1.0, float(a @ b) / lengths))) if lengths else 0.0
    sine = math.sin(angle)
    if sine < NEARLY_PARALLEL:
        return linear([first, second], [1 - share, share])
    merged = math.sin((1 - share) * angle) / sine * a + math.sin(share * angle) / sine * b
    return merged.to(first.dtype).reshape(first.shape)


def slerp_all(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Slerp of several, in turn: each next one at its share of the weights so far."""
    merged, total = tensors[0], weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total += weight
        merged = slerp(merged, tensor, weight / total)
    return merged


class Method(StrEnum):
    """How checkpoints become one."""

    SLERP = "slerp"
    LINEAR = "linear"


def merge_checkpoints(
    sources: Sequence[Path],
    target: Path,
    *,
    weights: Sequence[float] = (),
    method: Method = Method.SLERP,
    report: Report = lambda done, total: None,
) -> None:
    """Write the merge of several checkpoints of one shape; other files are those of the first.

    Args:
        sources: Folders, two or more.
        target: The folder to make.
        weights: Of each; equal where empty.
        method: How.
        report: Told how many tensors are written, and of how many.

    Raises:
        SettingsError: Fewer than two, or weights that do not fit.
        CheckpointError: They are not of one shape.
    """
    weights = tuple(weights) or (1.0,) * len(sources)
    if len(sources) < 2 or len(weights) != len(sources):
        raise SettingsError(
            f"{len(sources)} models and {len(weights)} weights cannot be merged.",
            param="weights",
            hint="Give each one.",
        )
    if not all(weight >= 0 for weight in weights) or not sum(weights) > 0 or not weights[0] > 0:
        raise SettingsError(f"weights are {', '.join(map(str, weights))}.", param="weights", hint="Set them above 0.")
    others = [Checkpoint.open(source) for source in sources[1:]]
    combine = slerp_all if method is Method.SLERP else linear

    def parts(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        own = name.removeprefix(PREFIX)
        tensors = [tensor]
        for other in others:
            stored = other.tensors.get(own)
            if stored is None or stored.shape != tuple(tensor.shape):
                found = "none" if stored is None else f"one of {list(stored.shape)}"
                raise CheckpointError(
                    f"{name} is {list(tensor.shape)}, but {other.source} has {found}.",
                    param=str(other.source),
                    hint="Only models of one shape can be merged.",
                )
            ((_, read),) = other.read([own])
            assert isinstance(read, Tensor), "quantised checkpoints do not have the first one's tensors"
            tensors.append(read)
        return {name: combine(tensors, weights).contiguous()}

    rewrite(sources[0], target, parts, report=report)


def merge_adapter(base: Path, adapter: Path, target: Path, *, report: Report = lambda done, total: None) -> None:
    """Write a base model with a LoRA adapter in its matrices.

    Args:
        base: Folder of the base.
        adapter: Folder of the adapter, as PEFT writes it.
        target: The folder to make.
        report: Told how many tensors are written, and of how many.

    Raises:
        CheckpointError: The adapter is of another model, or of a kind that cannot be merged.
    """
    products = read_adapter(adapter)
    known = Checkpoint.open(base).tensors
    for name, product in products.items():
        if name not in known or known[name].shape != tuple(product.shape):
            raise CheckpointError(
                f"The adapter changes {name} {list(product.shape)}, which {base} does not have.",
                param=str(adapter),
                hint="Name the model that the adapter was trained on.",
            )

    def parts(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        product = products.get(name.removeprefix(PREFIX))
        return {name: tensor if product is None else (tensor.double() + product).to(tensor.dtype)}

    rewrite(base, target, parts, report=report)
