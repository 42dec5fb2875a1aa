"""A whole summary, as a finished run writes it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.timed import timed


@pytest.fixture
def summary() -> dict[str, Any]:
    def samples(middle: float) -> list[float]:
        return [middle * (1 + 0.001 * (step % 40)) for step in range(400)]

    curve = [{"epoch": epoch, "map50_95": 0.2 * epoch, "loss": 3 - 0.5 * epoch} for epoch in (1, 2, 3)]
    return {
        "title": "small net on drawn shapes",
        "created": "2026-01-02 03:04 UTC",
        "command": "toolchain run demo.toml --budget latency=0.5x",
        "model": {"source": "dense.pt", "sha256": "9f" * 32, "names": {"0": "disc", "1": "star"}, "imgsz": 160},
        "data": {"yaml": "data.yaml", "sha256": "ab" * 32, "split": "test", "images": 80, "shared_with_train": 0},
        "variants": [
            {
                "label": "dense", "size_bytes": 12_000_000, "params": 3_000_000, "gmacs": 0.26, "map50": 0.91, "map50_95": 0.73,
                "latency_ms": 4.5, "latency_interval_ms": [4.4, 4.6], "speedup": 1.0, "per_class": {"disc": 0.8, "star": 0.66},
            },
            {
                "label": "pruned + INT8", "size_bytes": 1_000_000, "params": 790_000, "gmacs": 0.09, "map50": 0.89,
                "map50_95": 0.69, "latency_ms": 1.5, "latency_interval_ms": [1.4, 1.6],
                "speedup": 3.0, "speedup_interval": [2.8, 3.2], "per_class": {"disc": 0.79, "star": 0.59},
            },
        ],
        "layers": [
            {"name": "model.1.conv", "dense": 32, "kept": 16, "group": "g0", "reason": None},
            {"name": "model.22.cv3.2.2", "dense": 2, "kept": 2, "group": None, "reason": "output layer"},
        ],
        "prune": {
            "criterion": "taylor", "strategy": "latency", "asked": {"latency": "0.5x"}, "alignment": 8,
            "pages": ["stages/cut/select.html"],
            "reached": {"macs_ratio": 0.38, "params_ratio": 0.26, "channels_ratio": None},
        },
        "training": {"epochs": 3, "best_epoch": 2, "curve": curve},
        "sensitivity": [{"group": "model.1", "kept_ratio": ratio, "drop": 0.4 - 0.4 * ratio} for ratio in (0.25, 0.5)],
        "stages": [{"name": "prune", "duration_s": 9.5, "reused": False}, {"name": "train", "duration_s": 125, "reused": True}],
        "bench": {
            "device": {"cpu": {"model": "board cpu", "cores": 4}, "governor": None},
            "engines": [timed("dense", samples(4.4)), timed("pruned + INT8", samples(1.45))],
            "valid": True, "reasons": [], "threads": 2, "provider": "CPUExecutionProvider", "runtime_version": "1.32.0",
            "control": {"ratio": 1.003, "interval": [0.98, 1.02]}, "rounds": 15,
        },
        "int8": {"recipe": "minmax", "images": 64, "float_map": 0.70, "int8_map": 0.69, "max_drop": 0.02},
        "diagnosis": [{"title": "INT8 keeps the accuracy", "severity": "ok", "numbers": {"drop": "1.0 points"}, "next": ""}],
        "versions": {"torch": "2.14.1", "openvino": None},
    }  # fmt: skip
