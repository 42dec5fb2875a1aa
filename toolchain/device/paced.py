"""Latency at a camera's rate, the device idle between two frames: a quantity of its own beside the back-to-back latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.device.pace import Pace
from toolchain.device.samples import Samples
from toolchain.errors import UsageError
from toolchain.measurement.stats import Summary, summarize

SLOWEST_HZ, FASTEST_HZ = 0.01, 10000.0


@dataclass(frozen=True)
class PacedResult:
    """One engine at a rate.

    Attributes:
        latency_ms: from the start of each inference to its end.
        frames: due from the first to the last of each pass, together.
        missed: results that were not there when the next frame was due, one period after their own.
        skipped: frames that never began, since the one before took until the next was due.
        late_start_ms: latest start after a frame was due while nothing else ran, ms: how well the device wakes up.
        samples: file with every sample, relative to the benchmark's folder.
    """

    rate_hz: float
    latency_ms: Summary
    frames: int
    missed: int
    skipped: int
    late_start_ms: float
    samples: str


def check_rate(rate_hz: float | None) -> None:
    """Raises: UsageError for a rate no camera has."""
    if rate_hz is not None and not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
        raise UsageError("rate_hz is out of range", got=rate_hz, fix=f"{SLOWEST_HZ:g} to {FASTEST_HZ:g} frames a second")


def paced_fields(pace: Pace, rate_hz: float) -> dict[str, Any]:
    """What the agent must know about a pass at a rate: it takes as many frames as the other passes, and as long."""
    seconds = min(pace.cap_s, max(pace.pass_s, pace.runs / rate_hz))
    return {**pace.pass_fields(seconds), "rate_hz": rate_hz}


def paced_result(label: str, paced: Sequence[Samples], rate_hz: float | None) -> PacedResult | None:
    """Statistics of an engine's passes at a rate; None where they were not asked for."""
    mine = next((one for one in paced if one.label == label), None)
    if mine is None or rate_hz is None:
        return None
    period_s, passes = 1 / rate_hz, mine.by_round()
    skipped = sum(_skipped(entry, period_s) for entry in mine.rounds)
    frames = [frame for entry in mine.rounds for frame in _frames(entry)]
    return PacedResult(
        rate_hz=rate_hz, latency_ms=summarize([ms for samples in passes for ms in samples], [len(one) for one in passes]),
        frames=len(frames) + skipped, missed=sum(end - due > period_s for due, _, end in frames), skipped=skipped,
        late_start_ms=round(1000 * max(start - due for due, start, _ in frames), 6), samples=mine.file,
    )  # fmt: skip


def _frames(entry: Mapping[str, Any]) -> Iterator[tuple[float, float, float]]:
    """Due, start and end of each, s."""
    for due, start, ms in zip(entry["due_s"], entry["start_s"], entry["latency_ms"], strict=True):
        yield due, start, start + ms / 1000


def _skipped(entry: Mapping[str, Any], period_s: float) -> int:
    due_s: list[float] = entry["due_s"]
    return round((due_s[-1] - due_s[0]) / period_s) + 1 - len(due_s)
