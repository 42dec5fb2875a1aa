"""Groups and their sensitivity as tables for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

LISTED = 3


def _few(names: Sequence[str]) -> str:
    short = [name.removesuffix(".conv") for name in names if not name.endswith(".bn")]
    return ", ".join(short[:LISTED]) + (f" +{len(short) - LISTED}" if len(short) > LISTED else "")


def print_groups(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Every group: its layers, channels, kept, why it is not pruned."""
    if as_json:
        print(json.dumps({"groups": list(rows)}))
        return
    table = Table(title=f"{len(rows)} dependency groups", show_lines=False)
    for title, kwargs in (
        ("group", {}),
        ("makes", {}),
        ("feeds", {}),
        ("channels", {"justify": "right"}),
        ("kept", {"justify": "right"}),
        ("why", {}),
    ):
        table.add_column(title, overflow="fold", **kwargs)  # type: ignore[arg-type]
    for row in rows:
        channels = f"2×{row['channels']}" if row["halves"] == 2 else str(row["channels"])
        kept = str(row["kept"]) if row["kept"] else f"0: without {row['removes']}"
        table.add_row(row["group"], _few(row["layers"]), _few(row["feeds"]), channels, kept, row["why"])
    Console().print(table)


def print_sensitivity(result: dict[str, Any], as_json: bool) -> None:
    """The most sensitive groups first."""
    if as_json:
        return
    table = Table(title=f"Sensitivity on {result['images']} training images (higher is worse)")
    for title in ("group", "kept", "loss rise", "mAP50-95 drop", "box IoU drop"):
        table.add_column(title, justify="left" if title == "group" else "right")
    for row in sorted(result["rows"], key=lambda r: -r["map_drop"]):
        iou = "no box matched" if row["box_iou_drop"] is None else f"{row['box_iou_drop']:+.3f}"
        table.add_row(
            row["group"], f"{row['kept']}/{row['channels']}", f"{row['loss_rise']:+.2f}", f"{row['map_drop']:+.3f}", iou
        )
    Console(stderr=True).print(table)
