"""Benchmarks of a moment, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolchain.device.pace import PACES, Pace


def short(rounds: int = 6, runs: int = 2, **more: Any) -> Pace:
    """Like `quick`, with next to no warm-up."""
    return replace(PACES["quick"], rounds=rounds, runs=runs, **{"warmup_runs": 2, "warmup_s": 0.0, **more})
