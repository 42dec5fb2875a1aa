"""Latency at a camera's rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.device.paces import short
from toolchain import errors, verbs
from toolchain.device.bench import Extras, bench
from toolchain.device.engine_messages import PacedTurn
from toolchain.device.messages import check
from toolchain.device.pace import PACES
from toolchain.device.paced import paced_fields, paced_result
from toolchain.device.samples import Samples
from toolchain.device.settings import On
from toolchain.measurement.record import read_records

ONE = On(threads=1)


def entry(*frames: tuple[float, float, float]) -> dict[str, Any]:
    """One pass of (due s, start s, latency ms)."""
    due, start, latency = zip(*frames, strict=True)
    return {"due_s": list(due), "start_s": list(start), "latency_ms": list(latency)}


def test_missed_and_skipped_frames_are_counted() -> None:
    slow = entry((0.0, 0.0, 20.0), (0.1, 0.101, 120.0), (0.3, 0.301, 20.0))  # the one due at 0.2 never began
    good = entry((9.0, 9.0, 99.0), (9.1, 9.102, 20.0))
    samples = Samples("one", "0" * 64, Path("paced/one.json"), PacedTurn, [slow, good])
    found = paced_result("one", [samples], 10.0)
    assert found is not None
    assert (found.frames, found.missed, found.skipped) == (6, 1, 1)
    assert found.late_start_ms == pytest.approx(2.0)
    assert (found.latency_ms.n, found.samples) == (5, "paced/one.json")
    assert paced_result("two", [samples], 10.0) is None


def test_a_benchmark_at_a_rate(engines: dict[str, Path], tmp_path: Path) -> None:
    out, extras = tmp_path / "out", Extras(rate_hz=100.0)
    before = bench(engines, out, ONE, short(2, 3))  # a rate may be added to a finished benchmark
    result = verbs.bench(engines, out, on=ONE, pace=short(2, 3), extras=extras)
    assert result.engines["one"].latency_ms == before.engines["one"].latency_ms
    one = result.engines["one"].paced
    assert one is not None
    assert one.rate_hz == 100
    assert one.latency_ms.n + one.skipped == one.frames
    assert {path.name for path in (out / "paced").iterdir()} == {"one.json", "two.json"}
    for passed in json.loads((out / "paced" / "one.json").read_text())["rounds"]:
        steps = [(due - passed["due_s"][0]) * 100 for due in passed["due_s"]]
        assert steps == pytest.approx([round(step) for step in steps], abs=1e-3)
        assert len(steps) >= 3
    kinds = [record.kind for record in read_records(out / "records.jsonl") if record.subject == "two"]
    assert kinds == ["latency", "paced", "size"]
    assert bench(engines, out, ONE, short(3, 3), extras=extras).rounds == 3
    with pytest.raises(errors.RunFolderError, match=r"rate_hz is 50\.0, was 100\.0"):
        bench(engines, out, ONE, short(3, 3), extras=Extras(rate_hz=50.0))


def test_length_of_a_pass() -> None:
    assert paced_fields(PACES["report"], 30.0)["seconds"] == 10
    assert paced_fields(PACES["report"], 4.0)["seconds"] == 28
    assert paced_fields(PACES["report"], 0.5)["seconds"] == PACES["report"].cap_s


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), 1e9])
def test_rates_no_camera_has(rate_hz: float) -> None:
    with pytest.raises(errors.UsageError, match="rate_hz"):
        Extras(rate_hz=rate_hz)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"due_s": [1.0]}, "as many"), ({"due_s": [1.0, 1.6]}, "before its frame"), ({"due_s": [1.0, 1.0]}, "not in order")],
)
def test_a_device_that_says_nonsense(change: dict[str, Any], words: str) -> None:
    good = {"start_s": [1.0, 1.5], "latency_ms": [5.0, 5.0], "due_s": [1.0, 1.5], "stopped": "enough", "rss_mb": None}
    check(PacedTurn, good)
    with pytest.raises(errors.ProtocolError, match=words):
        check(PacedTurn, {**good, **change})
