"""The benchmark in a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from toolchain.report.bench_table import bench_table


def engine(p50: float, ratio: dict[str, Any] | None, *flags: str) -> dict[str, Any]:
    percentiles = {name: {"value": None, "low": None, "high": None, "reason": "few"} for name in ("p90", "p95", "p99")}
    return {
        "latency_ms": {"p50": {"value": p50, "low": p50, "high": p50}, **percentiles, "n": 30}, "speedup": ratio,
        "provider": "CPUExecutionProvider", "threads": 2, "flags": flags,
    }  # fmt: skip


def shown(**changes: Any) -> str:
    ratio = {"value": 2.4449, "low": 2.1, "high": 12.98, "rounds": 11, "reason": None}
    engines = {"dense": engine(0.01693, None), "pruned-int8": engine(141.06, ratio, "latency varies by 5.0%")}
    result = {"baseline": "dense", "device": {"hostname": "board"}, "engines": engines, "reasons": [], **changes}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(bench_table(result))
    return capture.get()


def test_nothing_is_cut_off_at_80_columns() -> None:
    text = shown()
    assert "…" not in text
    for word in ("board", "CPUExecutionProvider", "threads: 2", "0.0169", "141", "2.44×", "2.10–12.98", "pruned-int8"):
        assert word in text


def test_remarks_stand_under_the_table() -> None:
    text = shown(reasons=("the device throttled",))
    assert text.index("95 %") < text.index("not valid: the device throttled") < text.index("pruned-int8: latency varies by 5.0%")
    assert "takes more samples" in text
