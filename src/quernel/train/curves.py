"""Loss curves of a run, as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quernel.errors import SettingsError

NOT_LOSSES = frozenset({"stage", "step", "source", "rate", "gradient", "tokens", "seconds"})
WINDOWS = 200
"""Points of a curve, each the mean of the steps that it stands for."""


def read_log(path: Path) -> list[Mapping[str, float]]:
    """The steps in a run's `log.jsonl`.

    Raises:
        SettingsError: It cannot be read, or holds none.
    """
    try:
        steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}.", param="log") from error
    if not steps:
        raise SettingsError(f"{path} holds no steps.", param="log")
    return steps


def smooth(steps: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """A part of the loss by tokens read, in millions: means over equal numbers of the steps that have it."""
    tokens = np.cumsum([step["tokens"] for step in steps]) / 1e6
    held = [(place, step[name]) for place, step in zip(tokens.tolist(), steps, strict=True) if name in step]
    parts = np.array_split(np.array(held), min(WINDOWS, len(held)))
    return [float(part[:, 0].mean()) for part in parts], [float(part[:, 1].mean()) for part in parts]


def draw_curves(log: Path, picture: Path, *, title: str) -> None:
    """Draw the parts of the loss of a run by tokens read.

    Args:
        log: The run's `log.jsonl`.
        picture: The SVG file to write; none without matplotlib.
        title: Over it.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("svg")
    from matplotlib import pyplot

    steps = read_log(log)
    names = [name for name in dict.fromkeys(name for step in steps for name in step) if name not in NOT_LOSSES]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3 * len(names), 2.4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot(*smooth(steps, name), linewidth=1)
        axis.set_title(name if name != "loss" else f"{title}: loss", fontsize=9)
        axis.set_xlabel("tokens, millions", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})
    pyplot.close(figure)
