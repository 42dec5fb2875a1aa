"""A benchmark as a table for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def bench_table(result: dict[str, Any]) -> Table:
    """One row an engine: percentiles, ratio to the baseline with its interval; reasons under the table when it is not valid."""
    table = Table(title=f"Latency on {result['device']['hostname']}", caption="; ".join(result["reasons"]) or None)
    for title in ("engine", "p50 ms", "p90", "p95", "p99", "faster", "95 % interval", "provider"):
        table.add_column(title, justify="left" if title in ("engine", "provider") else "right")
    for label, engine in result["engines"].items():
        latency, ratio = engine["latency_ms"], engine["speedup"]
        cells = [_number(latency[key]["value"]) for key in ("p50", "p90", "p95", "p99")]
        spread = "" if ratio is None or ratio["low"] is None else f"{ratio['low']:.2f}–{ratio['high']:.2f}"
        table.add_row(label, *cells, "1" if ratio is None else f"{ratio['value']:.2f}×", spread, engine["provider"])
    return table


def _number(value: float | None) -> str:
    return "too few" if value is None else f"{value:.2f}"
