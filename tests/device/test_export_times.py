"""Samples for readers of trtexec's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.device.paces import short
from toolchain.device.bench import Extras, bench
from toolchain.device.settings import On


def test_samples_in_the_shape_of_trtexec(engines: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    bench(engines, out, On(threads=1), short(2, 3))
    assert not (out / "times").exists()
    bench(engines, out, On(threads=1), short(2, 3), extras=Extras(export_times=True))  # of a finished benchmark too
    assert {path.name for path in (out / "times").iterdir()} == {"one.json", "two.json"}
    times = json.loads((out / "times" / "two.json").read_text())
    rounds = json.loads((out / "samples" / "two.json").read_text())["rounds"]
    assert [one["latencyMs"] for one in times] == [value for entry in rounds for value in entry["latency_ms"]]
    for one, start_s in zip(times, [value for entry in rounds for value in entry["start_s"]], strict=True):
        assert set(one) == {"startComputeMs", "endComputeMs", "computeMs", "latencyMs"}
        assert one["startComputeMs"] == pytest.approx(1000 * start_s)
        assert one["endComputeMs"] - one["startComputeMs"] == pytest.approx(one["computeMs"], abs=2e-4)
