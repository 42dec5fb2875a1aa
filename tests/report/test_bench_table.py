"""The benchmark in a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from toolchain.report.bench_table import bench_table

RATIO = {"value": 2.4449, "low": 2.1, "high": 12.98, "rounds": 11, "reason": None}
NOTHING = {"value": None, "low": None, "high": None, "reason": "few"}


def around(p50: float) -> dict[str, Any]:
    return {"value": p50, "low": p50 * 0.9, "high": p50 * 1.1, "reason": None}


def engine(p50: float, ratio: dict[str, Any] | None, *flags: str, **changes: Any) -> dict[str, Any]:
    bounded = around(p50)
    return {
        "latency_ms": {"p50": bounded, "p90": bounded, "p95": NOTHING, "p99": NOTHING, "n": 30, "max": 2 * p50}, "speedup": ratio,
        "runtime": "onnxruntime", "runtime_version": "1.32.0", "provider": "CPUExecutionProvider", "threads": 2, "flags": flags,
        "end_to_end": None, "paced": None, "load_ms": 120.0,
        "device_ms": None, "trtexec": None, "options": {}, "size_bytes": 3_140_000,
        "first_inference_ms": 31.0, "rss_mb": 87.4, "gpu_mb": None, "accuracy": None,
        "energy": {"status": "not_measured", "reason": "not_requested", "detail": ""}, **changes,
    }  # fmt: skip


def shown(*, baseline: dict[str, Any] | None = None, **changes: Any) -> str:
    engines = {"dense": baseline or engine(0.01693, None), "pruned-int8": engine(141.06, RATIO, "latency varies by 5.0%")}
    result = {
        "baseline": "dense", "device": {"hostname": "board"}, "engines": engines, "reasons": [], "flags": [], "rounds": 9,
        "pace": {"name": "search", "changed": ["rounds"]}, **changes,
    }  # fmt: skip
    console = Console(width=80)
    with console.capture() as capture:
        console.print(bench_table(result))
    return capture.get()


def test_nothing_is_cut_off_at_80_columns() -> None:
    text = shown()
    assert "…" not in text
    for word in (
        "board",
        "CPUExecutionProvider",
        "threads: 2",
        "0.0169",
        "0.0152–0.0186",
        "141",
        "127–155",
        "2.44×",
        "282",
        "87",
    ):
        assert word in text
    assert "search profile with other rounds" in text
    assert "GPU" not in text


def test_remarks_stand_under_the_table() -> None:
    text = shown(reasons=("the device throttled",), flags=("zone0 rose by 7 degrees",))
    assert text.index("2.44") < text.index("not valid: the device throttled") < text.index("note: zone0 rose by 7 degrees")
    assert text.index("note: zone0") < text.index("pruned-int8: latency varies by 5.0%")
    assert "takes more samples" in text


def test_what_else_was_measured_has_its_place() -> None:
    bounded = {"value": 40.0, "low": 38.0, "high": 42.0, "reason": None}
    whole = {
        "latency_ms": {"p50": bounded}, "prepare_ms": 7.1, "inference_ms": 32.3, "suppress_ms": 0.12, "boxes": 17,
        "picture_shape": [1080, 1920, 3], "speedup": None,
    }  # fmt: skip
    measured = {
        "status": "measured", "scope": "module", "rails": ["VDD_IN"], "energy_total_mj": 123.4, "uncertainty_total_mj": 2.1,
        "energy_marginal_mj": 80.3, "low_confidence": ["2 repeats"], "flags": [],
    }  # fmt: skip
    one = engine(33.0, None, end_to_end=whole, gpu_mb=210.0, accuracy={"map50_95": 0.5123}, energy=measured)
    text = shown(baseline=one)
    assert "…" not in text
    words = (
        "1920 by 1080",
        "40.0",
        "38.0–42.0",
        "7.10",
        "17",
        "210",
        "0.5123",
        "123",
        "± 2.10",
        "80.3",
        "module (VDD_IN)",
        "2 repeats",
    )
    for word in words:
        assert word in text, word


def test_energy_that_was_not_measured_says_why() -> None:
    reason = {"status": "not_measured", "reason": "permission", "detail": "only root may read RAPL"}
    text = shown(baseline=engine(33.0, None, energy=reason))
    assert "dense: energy not measured: permission: only root may read RAPL" in text
    assert "mJ" not in text.replace("not measured", "")


def test_latency_at_a_rate_beside_the_one_back_to_back() -> None:
    p50 = {"value": 44.0, "low": 43.0, "high": 45.0, "reason": None}
    paced = {"rate_hz": 30.0, "latency_ms": {"p50": p50, "p99": NOTHING, "max": 61.0}, "frames": 900, "missed": 4, "skipped": 2}
    one = engine(33.0, None, paced=paced)
    text = shown(baseline=one, engines={"dense": one})
    assert "At 30 frames a second" in text
    for word in ("44.0", "43.0–45.0", "61.0", "1.33×", "4/900", "2"):
        assert word in text[text.index("At 30") :]


def test_size_of_what_is_loaded() -> None:
    """A plan built on the device, not the graph that went there."""
    text = shown(baseline=engine(33.0, None, options={"plan_bytes": 7_310_000, "typing": "weak", "flags": "FP16 INT8"}))
    assert "7.31" in text[text.index("Beside it") :]
    assert "3.14" in text[text.index("Beside it") :]
    assert text.index("weak") < text.index("FP16 INT8")
    assert "typing" not in shown()


def test_the_gpus_own_time_beside_trtexecs() -> None:
    device = {"p50": around(3.0), "p90": around(3.1), "p95": NOTHING, "p99": NOTHING}
    timed = {"status": "measured", "compute_ms": {"p50": around(2.9)}}
    missing = {"status": "not_measured", "reason": "no trtexec on this device"}
    engines = {
        "dense": engine(4.0, None, device_ms=device, trtexec=timed),
        "int8": engine(2.0, RATIO, device_ms=None, trtexec=missing),
    }
    text = shown(engines=engines)
    part = text[text.index("On the GPU alone") : text.index("Beside it")]
    for word in ("3.00", "2.70–3.30", "3.10", "75%", "2.90", "2.61–3.19"):
        assert word in part, word
    assert "int8: not timed by trtexec: no trtexec on this device" in text
    assert "…" not in text
    assert "On the GPU" not in shown()
