"""Results for people and for programs: Markdown, JSON, pictures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quernel._version import __version__
from quernel.evaluate.measures import Difference, Figure, compare
from quernel.evaluate.run import Result, best_of

SIGNIFICANT = 0.05


def write_report(folder: Path, results: Sequence[Result], *, command: str, plots: bool) -> list[Path]:
    """Write `report.md`, `results.json` and, with `plots`, the pictures; what was written.

    Args:
        folder: Where to; it is made if need be.
        results: What was found.
        command: What made it, for the report.
        plots: Whether to draw; needs matplotlib.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(folder, results) if plots else []
    markdown = folder / "report.md"
    markdown.write_text(render_markdown(results, command=command, pictures=pictures), encoding="utf-8")
    data = folder / "results.json"
    data.write_text(json.dumps(as_json(results, command=command), indent=1, ensure_ascii=False), encoding="utf-8")
    return [markdown, data, *pictures]


def as_json(results: Sequence[Result], *, command: str) -> dict[str, Any]:
    """Everything, the numbers of single items included."""
    comparisons = [
        {"task": first.task, "model": other.model, "against": first.model, "measure": measure, **asdict(difference)}
        for rows in by_task(results).values()
        for first, other, measure, difference in _differences(rows)
    ]
    return {
        "quernel": __version__,
        "command": command,
        "results": [_plain(result) for result in results],
        "comparisons": comparisons,
    }


def _plain(result: Result) -> dict[str, Any]:
    row = asdict(result)
    for figure in row["figures"]:
        figure["items"] = dict(zip(figure.pop("names"), np.asarray(figure["items"]).tolist(), strict=False))
    return row


def render_markdown(results: Sequence[Result], *, command: str, pictures: Sequence[Path] = ()) -> str:
    """A table for each task, comparisons of models, and what made it."""
    blocks = ["# Evaluation", f"`{command}`", "Intervals are 95 %, by drawing the items anew 2,000 times."]
    for task, rows in by_task(results).items():
        measures = [figure.measure for figure in rows[0].figures]
        head = ["model", "dimensions", "numbers", *measures, "texts/s"]
        lines = [_line(head), _line(["---", "---:", "---", *["---:"] * (len(measures) + 1)])]
        for row in rows:
            speed = f"{row.num_texts / row.seconds:,.0f}" if row.seconds else ""
            cells = [row.model, f"{row.dimensions:,}", row.dtype, *map(_cell, row.figures), speed]
            lines.append(_line(cells))
        blocks += [f"## {task}", f"{rows[0].kind}.", "\n".join(lines), *_comparisons(rows)]
    blocks += [f"![{picture.stem.replace('-', ' ')}]({picture.name})" for picture in pictures]
    return "\n\n".join(blocks) + "\n"


def by_task(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of each task."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.task, []).append(result)
    return found


def _cell(figure: Figure) -> str:
    return f"{figure.value:.4f} ({figure.low:.3f} to {figure.high:.3f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _comparisons(rows: Sequence[Result]) -> list[str]:
    """How every other model differs from the first, in the main measure."""
    lines = []
    for first, other, measure, difference in _differences(rows):
        verdict = "" if difference.p_value < SIGNIFICANT else ", which may be chance"
        lines.append(
            f"- {other.model} against {first.model}, {measure}: {difference.mean:+.4f} "
            f"({difference.low:+.4f} to {difference.high:+.4f}), p = {difference.p_value:.4f}{verdict}."
        )
    return ["\n".join(lines)] if lines else []


def _differences(rows: Sequence[Result]) -> Iterator[tuple[Result, Result, str, Difference]]:
    """The first model, another, the main measure and how they differ in it, of one task."""
    first, *others = best_of(rows)
    for other in others:
        difference = compare(first.figures[0], other.figures[0])
        if difference is not None:
            yield first, other, other.figures[0].measure, difference


def draw(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Quality by dimension and kind of numbers, and quality by speed; those that have more than one point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    pictures = []
    for name, make in (("quality-by-dimension", _by_dimension), ("quality-by-speed", _by_speed)):
        lines = make(results)
        if not lines:
            continue
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        for label, points in lines.items():
            xs, ys = zip(*sorted(points), strict=True)
            axes.plot(xs, ys, marker="o", label=label)
        axes.set_xscale("log", base=2 if make is _by_dimension else 10)
        axes.set_xlabel("dimensions" if make is _by_dimension else "texts a second")
        axes.set_ylabel("main measure, mean over tasks")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        pictures.append(path)
    return pictures


Lines = Mapping[str, Sequence[tuple[float, float]]]


def _by_dimension(results: Sequence[Result]) -> Lines:
    lines: dict[str, list[tuple[float, float]]] = {}
    for model, dtype, dimensions in dict.fromkeys((one.model, one.dtype, one.dimensions) for one in results):
        chosen = [one for one in results if (one.model, one.dtype, one.dimensions) == (model, dtype, dimensions)]
        mean = float(np.mean([one.figures[0].value for one in chosen]))
        lines.setdefault(f"{model}, {dtype}", []).append((dimensions, mean))
    return lines if any(len(points) > 1 for points in lines.values()) else {}


def _by_speed(results: Sequence[Result]) -> Lines:
    lines: dict[str, list[tuple[float, float]]] = {}
    for model in dict.fromkeys(one.model for one in best_of(results)):
        chosen = [one for one in best_of(results) if one.model == model and one.seconds]
        if chosen:
            speed = sum(one.num_texts for one in chosen) / sum(one.seconds for one in chosen)
            lines[model] = [(speed, float(np.mean([one.figures[0].value for one in chosen])))]
    return lines if len(lines) > 1 else {}
