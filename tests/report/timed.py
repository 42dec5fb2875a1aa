"""An engine's part of a summary."""

from __future__ import annotations

from typing import Any

from toolchain.measurement.stats import summarize, to_json


def timed(label: str, samples_ms: list[float]) -> dict[str, Any]:
    """An engine as the benchmark gives it: its samples, and its own statistics of them."""
    return {"label": label, "samples_ms": samples_ms, "latency_ms": to_json(summarize(samples_ms))}
