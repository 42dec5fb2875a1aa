"""A benchmark on several devices as rows for machines and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from toolchain.report.bench_table import milliseconds

Row = dict[str, Any]


def rows_of(devices: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a host and engine, or one for a host without a result; None where there is no number.

    Args:
        devices: `devices` of fleet.json.
    """
    rows: list[Row] = []
    seen: dict[tuple[Any, Any], str] = {}
    for device in devices:
        result = device["result"]
        if result is None:
            rows.append({"host": device["host"], "board": None, "engine": None, "valid": False, "why": [_first(device["error"])]})
            continue
        machine = (result["state_before"].get("boot_id"), result["device"]["hostname"])
        twin = seen.setdefault(machine, device["host"]) if machine[0] else device["host"]
        same = [] if twin == device["host"] else [f"the same device as {twin}: the two disturbed each other"]
        rows += [_row(device["host"], result, label, [*result["reasons"], *same]) for label in result["engines"]]
    return rows


def _row(host: str, result: Mapping[str, Any], label: str, why: list[str]) -> Row:
    engine = result["engines"][label]
    p50, ratio, energy, accuracy = engine["latency_ms"]["p50"], engine["speedup"] or {}, engine["energy"], engine["accuracy"]
    measured = energy["status"] == "measured"
    return {
        "host": host, "board": board_of(result["device"]), "engine": label,
        "p50_ms": p50["value"], "p50_low_ms": p50["low"], "p50_high_ms": p50["high"],
        "times_faster": ratio.get("value"), "times_faster_low": ratio.get("low"), "times_faster_high": ratio.get("high"),
        "map50_95": accuracy["map50_95"] if accuracy else None,
        "energy_mj": energy["energy_total_mj"] if measured else None,
        "energy_uncertainty_mj": energy["uncertainty_total_mj"] if measured else None,
        "energy_scope": energy["scope"] if measured else None,
        "energy_reason": None if measured else energy["reason"],
        "valid": not why, "why": why,
    }  # fmt: skip


def board_of(probe: Mapping[str, Any]) -> str:
    """What a machine calls itself: board, product, processor or at least its name."""
    dmi = probe.get("dmi") or {}
    product = " ".join(filter(None, (dmi.get("sys_vendor"), dmi.get("product_name"))))
    return str(probe.get("board") or product or probe.get("cpu_model") or probe["hostname"])


def _first(error: Mapping[str, Any]) -> str:
    return str(error["what"])


def fleet_table(rows: Sequence[Row]) -> Table:
    """The rows for people, energy always with its scope; under it why some must not be used."""
    notes = dict.fromkeys(why if row["host"] in why else f"{row['host']}: {why}" for row in rows for why in row["why"])
    scopes = sorted({row["energy_scope"] for row in rows if row.get("energy_scope")})
    if len(scopes) > 1:
        notes[f"energy of different scopes is not comparable: {', '.join(scopes)}"] = None
    table = Table(box=box.SIMPLE, pad_edge=False, caption=Text("\n".join(notes), justify="left"), caption_justify="left")
    asked = {key: any(row.get(key) is not None for row in rows) for key in ("times_faster", "map50_95", "energy_mj")}
    asked["energy_mj"] |= any(row.get("energy_reason") not in (None, "not_requested") for row in rows)
    table.add_column("host", overflow="fold")
    table.add_column("board", overflow="fold")
    table.add_column("engine", overflow="fold")
    titles = ["p50 ms", "times faster"] if asked["times_faster"] else ["p50 ms"]
    titles += ["mAP50-95"] * asked["map50_95"] + ["mJ (scope)"] * asked["energy_mj"]
    for title in [*titles, "valid"]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [_spread(row.get("p50_ms"), row.get("p50_low_ms"), row.get("p50_high_ms"), milliseconds)]
        if asked["times_faster"]:
            cells.append(_spread(row.get("times_faster"), row.get("times_faster_low"), row.get("times_faster_high"), _times))
        if asked["map50_95"]:
            cells.append("–" if row.get("map50_95") is None else f"{row['map50_95']:.4f}")
        if asked["energy_mj"]:
            cells.append(_energy(row))
        names = (Text(row[key] or "–") for key in ("host", "board", "engine"))
        table.add_row(*names, *cells, "yes" if row["valid"] else "NO")
    return table


def _spread(value: float | None, low: float | None, high: float | None, shown: Any) -> str:
    if value is None:
        return "–"
    return shown(value) if low is None or high is None else f"{shown(value)}\n{shown(low)}–{shown(high)}"


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _energy(row: Row) -> str:
    if row.get("energy_mj") is None:
        return str(row.get("energy_reason") or "–").replace("_", " ")
    spread = row["energy_uncertainty_mj"]
    value = milliseconds(row["energy_mj"]) + ("" if spread is None else f" ± {milliseconds(spread)}")
    return f"{value}\n{row['energy_scope']}"
