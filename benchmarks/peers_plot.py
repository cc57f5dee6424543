"""A picture of `peers.py`'s JSON: speed relative to sentence-transformers, one panel for each workload.

    python benchmarks/peers_plot.py RESULT.json PICTURE.svg [--workloads W1,W1i,W2,W3,W4,W5]

Needs matplotlib. The background is transparent and every colour is readable on white and on black.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

OURS, THEIRS, TEXT = "#1a8fa8", "#9a9a9a", "#808080"
BASELINE = "sentence-transformers"
COLUMNS = 2
# The shape of a row of panels, in inches: width of all, height of a bar, height of what stands above the bars.
WIDTH, BAR, HEADING = 10.0, 0.27, 0.62


def panels(result: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """The workloads that were measured against the baseline."""
    return [
        workload
        for workload in result["workloads"]
        if (not names or workload["name"] in names)
        and any(row.get("ratio") is not None for row in workload["systems"].values())
    ]


def draw_panel(axes: Any, workload: dict[str, Any], titles: dict[str, str], order: list[str]) -> None:
    """Bars from the top in the order of the systems; a system without a number says so."""
    rows = workload["systems"]
    ratios = {name: rows.get(name, {}).get("ratio") for name in order}
    longest = max(ratio for ratio in ratios.values() if ratio is not None)
    for place, name in enumerate(order):
        ratio = ratios[name]
        ours = name.startswith("quernel")
        if ratio is None:
            axes.text(longest * 0.01, place, "did not run", va="center", color=TEXT, fontsize=8, style="italic")
            continue
        axes.barh(place, ratio, height=0.72, color=OURS if ours else THEIRS, linewidth=0)
        axes.text(
            ratio + longest * 0.015,
            place,
            f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}",
            va="center",
            color=OURS if ours else TEXT,
            fontsize=9,
            weight="bold" if ours else "normal",
        )
    axes.set_yticks(range(len(order)), [titles[name] for name in order])
    for label, name in zip(axes.get_yticklabels(), order, strict=True):
        label.set_color(OURS if name.startswith("quernel") else TEXT)
        label.set_weight("bold" if name.startswith("quernel") else "normal")
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.12)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelsize=9, pad=4)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    about = workload["about"]
    count = f"{workload['num_texts']} " if workload["num_texts"] > 1 else ""
    axes.set_title(f"{workload['name']}  ", loc="left", fontsize=10, weight="bold", color=TEXT, pad=16)
    axes.text(0, 1.0, count + about, transform=axes.transAxes, fontsize=8.5, color=TEXT, va="bottom", ha="left")


def draw(result: dict[str, Any], names: list[str], target: Path) -> None:
    """The whole picture, in the format that the target's name says."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "quernel"
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", "sans-serif"]
    pyplot = importlib.import_module("matplotlib.pyplot")
    chosen = panels(result, names)
    if not chosen:
        sys.exit("Nothing to draw: no workload was measured with sentence-transformers.")
    order = [
        name
        for name in chosen[0]["systems"]
        if any(workload["systems"].get(name, {}).get("ratio") is not None for workload in chosen)
    ]
    order.sort(key=lambda name: (not name.startswith("quernel"), name != BASELINE))
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    height = rows * (len(order) * BAR + HEADING) + 0.75
    figure, grid = pyplot.subplots(rows, columns, figsize=(WIDTH * columns / COLUMNS, height), squeeze=False)
    places = grid.flatten()
    for axes, workload in zip(places, chosen, strict=False):
        draw_panel(axes, workload, result["titles"], order)
    for axes in places[len(chosen) :]:
        axes.set_visible(False)
    for row in grid[:, 1:]:
        for axes in row:
            axes.set_yticklabels([])
    machine = result["machine"]
    figure.text(
        0.01,
        1 - 0.12 / height,
        "Speed relative to sentence-transformers (more is better)",
        fontsize=11.5,
        weight="bold",
        color=TEXT,
        va="top",
    )
    figure.text(
        0.01,
        0.08 / height,
        f"Qwen3-Embedding-0.6B shape, {result['layers']} layers, random weights, the same token ids; "
        f"{machine['cpu']}, {machine['cores']} cores; medians of {result['repetitions']} in turns"
        + ("" if result["scale"] == 1 else f"; {result['scale']:.0%} of the texts"),
        fontsize=7.5,
        color=TEXT,
        va="bottom",
    )
    figure.tight_layout(rect=(0, 0.25 / height, 1, 1 - 0.4 / height), w_pad=2.0, h_pad=1.2)
    figure.savefig(target, transparent=True, metadata={"Date": None} if target.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path, help="its ending says the format: .svg, .png")
    parser.add_argument("--workloads", default="", help="which, by name; by default all")
    arguments = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("matplotlib is not installed: pip install matplotlib")
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    draw(result, [name for name in arguments.workloads.split(",") if name], arguments.picture)


if __name__ == "__main__":
    main()
