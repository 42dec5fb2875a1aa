"""The product's own calls, small, to show that a device of the lab is one for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tinynet
from toolchain.device.bench import bench
from toolchain.device.pace import PACES
from toolchain.device.probe import probe
from toolchain.device.results import BenchResult
from toolchain.device.settings import On

NONE: dict[str, Any] = {"lead_runs": 0, "pass_s": 0.0, "warmup_s": 0.0, "settle_cap_s": 0.0, "post_s": 0.0, "end_to_end": False}
SHORT = replace(PACES["quick"], rounds=1, runs=2, warmup_runs=1, **NONE)


def asked(host: str = "dev", **on: Any) -> dict[str, Any]:
    """The probe's answer."""
    return probe(host, **on)


def tiny_bench(folder: Path, host: str = "dev", **on: Any) -> BenchResult:
    """Two inferences of a network of a few hundred bytes."""
    engine = tinynet.save_detector(folder / "engine.onnx")
    return bench({"one": engine}, folder / "bench", On(host=host, threads=1, **on), SHORT)
