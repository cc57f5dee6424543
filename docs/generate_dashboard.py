"""Writes dashboards of every metric, of a server and of a gateway: `python docs/generate_dashboard.py`."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quernel.gateway.metrics import GATEWAY_MEASURES
from quernel.server.metrics import MEASURES, Measure

FOLDER = Path(__file__).parent
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


def server_dashboard() -> dict[str, Any]:
    """That of a server."""
    own = [panel_of(measure) for measure in MEASURES]
    return dashboard("Quernel", "quernel", [*own, *engine_panels(), *process_panels()])


def gateway_dashboard() -> dict[str, Any]:
    """That of a gateway; models of its process are on the server's."""
    measures = [measure for measure in MEASURES if measure.exchange is not None and measure.labels != ("model",)]
    own = [panel_of(measure) for measure in (*measures, *GATEWAY_MEASURES)]
    return dashboard("Quernel gateway", "quernel-gateway", [*own, *process_panels()])


def dashboard(title: str, uid: str, panels: list[dict[str, Any]]) -> dict[str, Any]:
    """A dashboard, as Grafana imports it."""
    for index, panel in enumerate(panels):
        panel["id"] = index + 1
        row, column = divmod(index, COLUMNS)
        panel["gridPos"] = {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT}
    return {
        "title": title,
        "uid": uid,
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
    legend = " ".join(f"{{{{{label}}}}}" for label in measure.labels) or "all"
    unit = unit_of(measure)
    if measure.kind == "gauge":
        # Of several gateways, whichever has it worst; counts add up.
        how = "min" if measure.name.endswith("_cosine") else "sum"
        return panel(measure.about, unit, [(f"{how}{by(measure.labels)} ({measure.full_name})", legend)])
    if measure.kind == "counter":
        rate = f"sum{by(measure.labels)} (rate({measure.full_name}[$__rate_interval]))"
        return panel(f"{measure.about} A second.", unit, [(rate, legend)])
    buckets = f"sum{by(('le', *measure.labels))} (rate({measure.full_name}_bucket[$__rate_interval]))"
    targets = [(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g} {legend}") for share in QUANTILES]
    return panel(measure.about, unit, targets)


def by(labels: Iterable[str]) -> str:
    """What a sum is divided by."""
    named = ", ".join(labels)
    return f" by ({named})" if named else ""


def unit_of(measure: Measure) -> str:
    """Grafana's name of what a metric counts."""
    if measure.name.endswith("_bytes"):
        return "bytes"
    if measure.name.endswith("_dollars"):
        return "currencyUSD"
    if measure.name.endswith("busy_seconds"):
        return "percentunit"
    return "s" if measure.name.endswith("_seconds") else "short"


def engine_panels() -> Iterator[dict[str, Any]]:
    """What takes more than one metric."""
    yield panel("How full batches are.", "percentunit", [(FILL, "{{model}}")])
    yield panel("Share of prefixes that were found in the cache.", "percentunit", [(HIT_RATE, "{{model}}")])


def process_panels() -> Iterator[dict[str, Any]]:
    """The process itself."""
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


BOARDS = {"grafana.json": server_dashboard, "grafana-gateway.json": gateway_dashboard}


def main() -> int:
    """Write them, or with `--check` only compare; the number of stale ones is the exit code."""
    stale = 0
    for name, make in BOARDS.items():
        file, text = FOLDER / name, json.dumps(make(), indent=1) + "\n"
        if "--check" not in sys.argv[1:]:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            print(f"{file} is not up to date: run `make docs`.", file=sys.stderr)
            stale += 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
