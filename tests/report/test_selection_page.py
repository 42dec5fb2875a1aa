"""The page of a selection: well-formed, loads nothing, and says in words what was chosen and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.test_html import EVIL, Page, assert_loads_nothing
from toolchain.errors import RunFolderError
from toolchain.report.charts import NARROW, WIDE
from toolchain.report.select_charts import agreement_chart, front_chart, stairs_chart
from toolchain.report.selected import Agreement, Stairs, parse_selection
from toolchain.report.selection_page import write

MINIMAL = {
    "share": 0.5, "measured": 0.49, "error": 0.002, "rounds": [{"predicted": 0.5, "measured": 0.49, "error": 0.002, "loss": 3.0}]
}  # fmt: skip


QUALITY = {"plans": 96, "mape": 0.018, "bias": -0.001, "kendall_tau": 0.954}
STAIRS = {
    "group": "model.1", "kept": 16, "widths": [8, 16, 24, 32], "saved": [0.1, 0.1, 0.0, 0.0], "dropped": [8, 24],
    "points": [{"width": 8, "saved": 0.097, "error": 0.001}],
}  # fmt: skip
CHOSEN = {
    "model": "n.pt",
    "imgsz": 320,
    "uncut": 1.0,
    "share": 0.5,
    "loss": 4.0,
    "trial_map": 0.5,
    "why_not": None,
    "chosen": True,
}
REFUSED = {"model": "s.pt", "imgsz": 320, "uncut": 2.1, "share": None, "loss": None, "why_not": "out of its reach"}


@pytest.fixture
def result() -> dict[str, Any]:
    def layer(group: str, kept: int, channels: int, kind: str, why: str, share: float) -> dict[str, Any]:
        shares = {"loss": share * 4, "loss_share": share, "saved": share * 0.5, "saved_share": share}
        return {"group": group, "layers": [], "halves": 1, "kept": kept, "channels": channels, "kind": kind, "why": why, **shares}

    return {
        "model": "dense.pt", "imgsz": 320, "uncut": 1.0, "budgets": ["latency at most 0.5 of the dense engine's"], "share": 0.5,
        "measured": 0.504, "error": 0.002, "strategy": "latency", "criterion": "fisher", "align": 8, "timings": 102,
        "reached": {"channels": 0.4, "macs": 0.6, "params": 0.7}, "dense_ms": 8.0, "predicted_loss": 4.0, "rate": 16.0,
        "rounds": [
            {"predicted": 0.497, "measured": 0.53, "error": 0.002, "loss": 4.2, "gap": 0.002, "solver_s": 2.9, "widths": {}},
            {"predicted": 0.495, "measured": 0.504, "error": 0.002, "loss": 4.0, "gap": 0.0, "solver_s": 3.1, "widths": {}},
        ],
        "latency_model": {"held_out": QUALITY, "block": 16, "ridge": 0.1},
        "layers": [
            layer("model.1", 16, 32, "balanced", "8 would lose 1 more for 0.2 ms", 0.7),
            layer("model.2.m.0.cv1", 0, 16, "removed", "its Bottleneck is taken out", 0.3),
            {"group": "model.22.cv3.0.2", "channels": 3, "kept": 3, "kind": "frozen", "why": "class scores"},
        ],
        "staircase": {"block": 16, "widths": 6, "dropped": {"model.1": [8, 24]}, "stairs": [dict(STAIRS)]},
        "front": {
            "key": "x", "failed": {"0.300": "out of reach"},
            "points": [{"share": s, "latency": s, "loss": 2 / s, "gap": 0.01, "seconds": 1} for s in (0.4, 0.5, 0.6)],
        },
        "value": {
            "kind": "measured", "joint": [{"predicted": 0.1 * k, "measured": 0.08 * k} for k in range(1, 30)], "spearman": 0.97,
        },
        "candidates": [dict(CHOSEN), dict(REFUSED)], "setting": {"precision": "int8", "threads": 2}, "created": "2026-01-02",
        "store": "cache/latency/x", "device": {"cpu_model": "board cpu", "board": None},
        "versions": {"onnxruntime": "1.32.0"}, "command": "toolchain select dense.pt --budget latency=0.5x",
    }  # fmt: skip


def page(result: dict[str, Any], folder: Path) -> tuple[str, Page]:
    write(result, folder / "select.html")
    html = (folder / "select.html").read_text()
    parsed = Page(html)
    assert parsed.open == []
    assert_loads_nothing(html, parsed)
    return html, parsed


def test_a_whole_page_says_what_was_chosen_and_why(tmp_path: Path, result: dict[str, Any]) -> None:
    html, parsed = page(result, tmp_path)
    assert html.count("<svg") == html.count("</svg>") == 6  # three pictures, each for a desk and for a phone
    assert len(html.encode()) < 200_000
    facts = ["0.504 of the dense engine's latency, measured; asked for latency at most 0.5 of the dense engine's."]
    facts += [
        "4.03 ms (95 % interval 4.02–4.05) against 8.00 ms dense",
        "Met by plan 2",
        "1.8 % too fast",
        "40 % of the multiply-adds left",
    ]
    facts += ["its Bottleneck is taken out", "8 would lose 1 more for 0.2 ms", "Never cut: 1 of 3", "class scores"]
    facts += [
        "blocks of 16 channels",
        "Of 6 widths to choose from, 2 (in 1 of 2 groups) buy nothing",
        "rank correlation",
        "is 0.97",
    ]
    facts += ["out of its reach", "mAP50-95 of a trial", "1.8 % (mean of", "−0.1 %", "0.954", "cache/latency/x", "board cpu"]
    facts += ["No plan for 0.300 of the dense latency: out of reach", "toolchain select dense.pt --budget latency=0.5x", "+6.0 %"]
    assert [fact for fact in facts if fact not in parsed.text] == []


def test_the_smallest_result_says_what_is_missing(tmp_path: Path) -> None:
    _, parsed = page(MINIMAL, tmp_path)
    parts = [
        "plans for other budgets",
        "the groups and their reasons",
        "the worth of widths",
        "random plans were not measured whole",
    ]
    assert [part for part in parts if f"Not in this selection: {part}" not in parsed.text] == []
    assert "0.490 of the dense engine's latency, measured; asked for at most 0.500." in parsed.text


@pytest.mark.parametrize(
    "part", ["dense_ms", "layers", "staircase", "front", "value", "candidates", "latency_model", "reached", "device", "rate"]
)
def test_any_part_may_be_absent(tmp_path: Path, result: dict[str, Any], part: str) -> None:
    del result[part]
    if part == "layers":
        del result["staircase"]
    page(result, tmp_path)


def test_names_from_outside_are_text(tmp_path: Path, result: dict[str, Any]) -> None:
    result["model"] = result["layers"][0]["why"] = result["candidates"][0]["model"] = result["command"] = EVIL
    result["layers"][0]["group"] = result["staircase"]["stairs"][0]["group"] = result["store"] = EVIL
    html, parsed = page(result, tmp_path)
    assert "<script" not in html
    assert parsed.text.count(EVIL) >= 6


def test_what_is_no_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="rounds"):
        write({**MINIMAL, "rounds": []}, tmp_path / "select.html")
    assert not (tmp_path / "select.html").exists()


def test_a_poor_agreement_is_called_one(tmp_path: Path, result: dict[str, Any]) -> None:
    result["value"]["spearman"] = 0.4
    _, parsed = page(result, tmp_path)
    assert "may well be in the other order" in parsed.text
    assert "orders plans well" not in parsed.text


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_marks_stand_where_the_numbers_are(result: dict[str, Any], width: float) -> None:
    found = parse_selection(result)
    chart = front_chart(found.front, found.rounds, 0.5, 8.0, width)
    assert chart is not None
    chosen, first = chart.marks[-1], chart.marks[-2]
    assert chosen.label == "chosen, measured"
    assert chosen.x < first.x  # 0.504 against 0.53
    assert chosen.y > first.y  # the lesser loss is lower
    assert chosen.bar is not None
    assert chosen.bar[0] < chosen.x < chosen.bar[1]
    assert chart.rules[0].at < chosen.x
    assert all(chart.left <= m.x <= chart.right and chart.top <= m.y <= chart.bottom for m in chart.marks)


def test_a_tread_is_flat_and_a_dropped_width_hollow(result: dict[str, Any]) -> None:
    one = parse_selection(result).staircase.stairs[0]
    chart = stairs_chart(one, 16, 32, 8.0, NARROW)
    points = [tuple(map(float, point.split(","))) for point in chart.curves[0].points.split()]
    assert len(points) == 4  # two treads, each with two ends
    assert points[0][1] == points[1][1] < points[2][1] == points[3][1]  # y grows downwards
    assert sum(mark.hollow for mark in chart.marks) == 2
    assert [mark.label for mark in chart.marks if mark.label] == ["kept 16"]
    assert [mark.rise is not None for mark in chart.marks].count(True) == 1


def test_a_removed_bottleneck_has_stairs_too() -> None:
    one = Stairs(group="g", kept=0, widths=[0, 16, 32], saved=[0.2, 0.1, 0.0])
    assert stairs_chart(one, 16, 32, 8.0, WIDE).marks[-1].label == "kept 0"


def test_losses_over_orders_of_magnitude_get_logarithmic_axes() -> None:
    pairs = [{"predicted": 10.0**k, "measured": k} for k in range(-3, 3)]
    chart = agreement_chart(Agreement.model_validate({"kind": "fisher", "joint": pairs}), WIDE)
    assert chart is not None
    assert "logarithmic" in chart.x_title
    assert "logarithmic" not in chart.y_title  # a rise may be below zero
    gaps = {round(b.x - a.x, 0) for a, b in zip(chart.marks, chart.marks[1:], strict=False)}
    assert len(gaps) <= 2
