"""A benchmark as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

PERCENTILES = ("p50", "p90", "p95", "p99")


def bench_table(result: Mapping[str, Any]) -> Table:
    """One row an engine: percentiles, ratio to the baseline with its interval. Under it: why it must not be used, what to know.

    Args:
        result: what `toolchain bench --json` prints.
    """
    first = result["engines"][result["baseline"]]
    where = f"Latency on {result['device']['hostname']}: {first['provider']}, threads: {first['threads']}"
    table = Table(title=Text(where), caption=Text("\n".join(_remarks(result)), justify="left"), caption_justify="left")
    table.add_column("engine", overflow="fold")
    for title in ("p50 ms", *PERCENTILES[1:], "times faster", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, engine in result["engines"].items():
        cells = [_milliseconds(engine["latency_ms"][key]["value"]) for key in PERCENTILES]
        ratio = engine["speedup"]
        spread = "" if ratio is None or ratio["low"] is None else f"{ratio['low']:.2f}–{ratio['high']:.2f}"
        table.add_row(Text(label), *cells, "1" if ratio is None else f"{ratio['value']:.2f}×", spread)
    return table


def _remarks(result: Mapping[str, Any]) -> list[str]:
    lines = [f"not valid: {reason}" for reason in result["reasons"]]
    for label, engine in result["engines"].items():
        lines += [f"{label}: {flag}" for flag in engine["flags"]]
    if any(engine["latency_ms"][key]["value"] is None for engine in result["engines"].values() for key in PERCENTILES):
        lines.append("–: takes more samples (--rounds, --runs)")
    return lines


def _milliseconds(value: float | None) -> str:
    """Three significant digits: an engine of 0.0169 ms is not one of 0.02."""
    return "–" if value is None else f"{value:#.3g}" if value < 100 else f"{value:.0f}"
