"""A benchmark as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolchain.report.columns import megabytes

PERCENTILES = ("p50", "p90", "p95", "p99")
Engine = Mapping[str, Any]


def bench_table(result: Mapping[str, Any]) -> Group:
    """Percentiles and ratios with their intervals, what else was measured, and below: why not to use it, what to know.

    Args:
        result: what `toolchain bench --json` prints.
    """
    engines = result["engines"]
    parts: list[RenderableType] = [*_latency(result)]
    whole = {label: engine["end_to_end"] for label, engine in engines.items() if engine["end_to_end"]}
    if whole:
        parts += _whole(whole)
    if any(engine["device_ms"] or engine["trtexec"] for engine in engines.values()):
        parts += _on_gpu(engines)
    if any(engine["paced"] for engine in engines.values()):
        parts += _paced(engines)
    return Group(*parts, *_beside(engines), *(Text(line) for line in _remarks(result)))


def _latency(result: Mapping[str, Any]) -> tuple[Text, Table]:
    first, pace = result["engines"][result["baseline"]], result["pace"]
    changed = f" with other {', '.join(pace['changed'])}" if pace["changed"] else ""
    loaded = {(one["runtime"], one["runtime_version"], one["provider"]) for one in result["engines"].values()}
    by = " ".join(loaded.pop()) if len(loaded) == 1 else "several runtimes"
    where = f"Latency on {result['device']['hostname']}, ms: {by}, threads: {first['threads']}"
    heading = Text(f"{where}\n{pace['name']} profile{changed}, {result['rounds']} rounds; below a number: its 95 % interval")
    table = _table()
    for title in (*PERCENTILES, "max", "times faster"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, engine in result["engines"].items():
        latency = engine["latency_ms"]
        cells = [_bounded(latency[key], milliseconds) for key in PERCENTILES]
        table.add_row(Text(label), *cells, milliseconds(latency["max"]), _ratio(engine["speedup"]))
    return heading, table


def _whole(engines: Mapping[str, Engine]) -> tuple[Text, Table]:
    height, width = next(iter(engines.values()))["picture_shape"][:2]
    table = _table()
    for title in ("p50", "prepare", "inference", "suppress", "boxes", "times faster"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, one in engines.items():
        parts = [milliseconds(one[key]) for key in ("prepare_ms", "inference_ms", "suppress_ms")]
        p50 = _bounded(one["latency_ms"]["p50"], milliseconds)
        table.add_row(Text(label), p50, *parts, str(one["boxes"]), _ratio(one["speedup"]))
    return Text(f"Whole detections, ms: from a picture of {width} by {height} to boxes, in numpy but for the inference"), table


def _on_gpu(engines: Mapping[str, Engine]) -> tuple[Text, Table]:
    """The accelerator's own time, how much of the latency it is, and what trtexec says of the same plan."""
    table = _table()
    for title in (*PERCENTILES, "of the\nlatency", "trtexec\np50"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, engine in engines.items():
        one, p50 = engine["device_ms"], engine["latency_ms"]["p50"]["value"]
        cells = ["–"] * (len(PERCENTILES) + 1)
        if one is not None:
            cells = [_bounded(one[key], milliseconds) for key in PERCENTILES]
            cells.append(f"{one['p50']['value'] / p50:.0%}" if p50 and one["p50"]["value"] is not None else "–")
        timed = engine["trtexec"]
        cells.append(_bounded(timed["compute_ms"]["p50"], milliseconds) if timed and timed["status"] == "measured" else "–")
        table.add_row(Text(label), *cells)
    return Text("On the GPU alone, ms: from event to event around the inference, without copies; trtexec: its computeMs"), table


def _paced(engines: Mapping[str, Engine]) -> tuple[Text, Table]:
    """At a rate of frames, and how that p50 compares with the one back to back."""
    table = _table()
    for title in ("p50", "p99", "max", "against\nback to back", "missed", "skipped"):
        table.add_column(title, justify="right", no_wrap=True)
    rate_hz = 0.0
    for label, engine in engines.items():
        one, p50 = engine["paced"], engine["latency_ms"]["p50"]["value"]
        latency, rate_hz = one["latency_ms"], one["rate_hz"]
        cells = [*(_bounded(latency[key], milliseconds) for key in ("p50", "p99")), milliseconds(latency["max"])]
        known = p50 is not None and latency["p50"]["value"] is not None
        cells.append(f"{latency['p50']['value'] / p50:.2f}×" if known else "–")
        table.add_row(Text(label), *cells, f"{one['missed']}/{one['frames']}", str(one["skipped"]))
    what = f"At {rate_hz:g} frames a second, idle in between, ms; missed: not done when the next frame was due"
    return Text(what), table


def _beside(engines: Mapping[str, Engine]) -> tuple[Text, Table]:
    """Size, load, memory, accuracy, energy; a column only where some engine has it."""
    several = len({(one["runtime"], one["provider"]) for one in engines.values()}) > 1
    columns: list[tuple[str, Callable[[Engine], str | None]]] = [
        ("runtime", lambda one: f"{one['runtime']} {one['runtime_version']}\n{one['provider']}" if several else None),
        ("engine\nMB", lambda one: megabytes(one["options"].get("plan_bytes", one["size_bytes"]))),
        ("typing\nflags", lambda one: _typing(one["options"])),
        ("load\nms", lambda one: milliseconds(one["load_ms"])),
        ("first\nms", lambda one: milliseconds(one["first_inference_ms"])),
        ("RSS\nMB", lambda one: None if one["rss_mb"] is None else f"{one['rss_mb']:.0f}"),
        ("GPU\nMB", lambda one: None if one["gpu_mb"] is None else f"{one['gpu_mb']:.0f}"),
        ("mAP\n50-95", lambda one: f"{one['accuracy']['map50_95']:.4f}" if one["accuracy"] else None),
        ("mJ", lambda one: _energy(one["energy"])),
        ("marginal\nmJ", lambda one: milliseconds(one["energy"].get("energy_marginal_mj"))),
    ]
    shown = [(title, cell) for title, cell in columns if any(cell(one) not in (None, "–") for one in engines.values())]
    table = _table()
    for title, _ in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for label, engine in engines.items():
        table.add_row(Text(label), *(cell(engine) or "–" for _, cell in shown))
    return Text("Beside it; loading and the first inference are no part of the latency"), table


def _table() -> Table:
    table = Table()
    table.add_column("engine", overflow="fold", min_width=8)
    return table


def _typing(options: Mapping[str, Any]) -> str | None:
    """How TensorRT chose precisions."""
    return f"{options['typing']}\n{options.get('flags', '')}".rstrip() if "typing" in options else None


def _energy(found: Mapping[str, Any]) -> str | None:
    value, spread = found.get("energy_total_mj"), found.get("uncertainty_total_mj")
    if value is None:
        return None
    return milliseconds(value) if spread is None else f"{milliseconds(value)}\n± {milliseconds(spread)}"


def _bounded(value: Mapping[str, Any], show: Callable[[float | None], str]) -> str:
    """A number and, below it, its interval."""
    if value["low"] is None or value["high"] is None:
        return show(value["value"])
    return f"{show(value['value'])}\n{show(value['low'])}–{show(value['high'])}"


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    return "1" if ratio is None else _bounded(ratio, lambda value: "–" if value is None else f"{value:.2f}×")


def _remarks(result: Mapping[str, Any]) -> list[str]:
    lines = [f"not valid: {reason}" for reason in result["reasons"]]
    lines += [f"note: {flag}" for flag in result["flags"]]
    for label, engine in result["engines"].items():
        lines += [f"{label}: {flag}" for flag in engine["flags"]]
        if engine["trtexec"] and engine["trtexec"]["status"] != "measured":
            lines.append(f"{label}: not timed by trtexec: {engine['trtexec']['reason']}")
        energy = engine["energy"]
        if energy["status"] == "not_measured" and energy["reason"] != "not_requested":
            lines.append(f"{label}: energy not measured: {energy['reason']}: {energy['detail']}")
        elif energy["status"] == "measured":
            lines.append(f"{label}: energy of {energy['scope']} ({', '.join(energy['rails'])})")
            lines += [f"{label}: energy: {text}" for text in (*energy["low_confidence"], *energy["flags"])]
    if any(engine["latency_ms"][key]["value"] is None for engine in result["engines"].values() for key in PERCENTILES):
        lines.append("–: takes more samples (--profile report, --rounds, --runs)")
    return lines


def milliseconds(value: float | None) -> str:
    """Three significant digits: an engine of 0.0169 ms is not one of 0.02."""
    return "–" if value is None else f"{value:#.3g}" if value < 100 else f"{value:.0f}"
