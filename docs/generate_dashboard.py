"""Writes `docs/grafana.json`, a dashboard of every metric: `python docs/generate_dashboard.py`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quernel.server.metrics import MEASURES, Measure

FILE = Path(__file__).parent / "grafana.json"
QUANTILES = (0.5, 0.95, 0.99)
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
SOURCE = {"type": "prometheus", "uid": "${source}"}

FILL = (
    "sum by (model) (rate(quernel_tokens_computed_total[$__rate_interval])) / "
    "sum by (model) (rate(quernel_batches_total[$__rate_interval])) / "
    "sum by (model) (quernel_max_batch_tokens)"
)
HIT_RATE = (
    "sum by (model) (rate(quernel_prefix_cache_hits_total[$__rate_interval])) / "
    "(sum by (model) (rate(quernel_prefix_cache_hits_total[$__rate_interval])) + "
    "sum by (model) (rate(quernel_prefix_cache_misses_total[$__rate_interval])))"
)


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels = [*(panel_of(measure) for measure in MEASURES), *computed_panels()]
    for index, panel in enumerate(panels):
        panel["id"] = index + 1
        row, column = divmod(index, COLUMNS)
        panel["gridPos"] = {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT}
    return {
        "title": "Quernel",
        "uid": "quernel",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


def panel_of(measure: Measure) -> dict[str, Any]:
    """The picture of one metric: rates of counters, values of gauges, quantiles of histograms."""
    by = ", ".join(measure.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in measure.labels)
    unit = unit_of(measure)
    if measure.kind == "gauge":
        return panel(measure.about, unit, [(f"sum by ({by}) ({measure.full_name})", legend)])
    if measure.kind == "counter":
        rate = f"sum by ({by}) (rate({measure.full_name}[$__rate_interval]))"
        return panel(f"{measure.about} A second.", unit, [(rate, legend)])
    buckets = f"sum by (le, {by}) (rate({measure.full_name}_bucket[$__rate_interval]))"
    targets = [(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g} {legend}") for share in QUANTILES]
    return panel(measure.about, unit, targets)


def unit_of(measure: Measure) -> str:
    """Grafana's name of what a metric counts."""
    if measure.name.endswith("_bytes"):
        return "bytes"
    if measure.name.endswith("busy_seconds"):
        return "percentunit"
    return "s" if measure.name.endswith("_seconds") else "short"


def computed_panels() -> Iterator[dict[str, Any]]:
    """What takes more than one metric, and the process itself."""
    yield panel("How full batches are.", "percentunit", [(FILL, "{{model}}")])
    yield panel("Share of prefixes that were found in the cache.", "percentunit", [(HIT_RATE, "{{model}}")])
    yield panel("Memory of the process.", "bytes", [("process_resident_memory_bytes", "{{instance}}")])
    yield panel("Processors in use.", "short", [("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")])
    yield panel("Open files and connections.", "short", [("process_open_fds", "{{instance}}")])


def panel(title: str, unit: str, targets: list[tuple[str, str]]) -> dict[str, Any]:
    """A graph over time."""
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
            for index, (expression, legend) in enumerate(targets)
        ],
    }


def main() -> int:
    """Write it, or with `--check` only compare."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{FILE} is not up to date: run `make docs`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
