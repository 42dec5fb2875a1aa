"""What a benchmark says: per engine the latency and how many times faster than the baseline, and whether it may be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from toolchain.device.samples import Samples
from toolchain.measurement.stats import CONTROL_MARGIN, Ratio, Summary, control_holds, ratio_of_rounds, summarize

CV_LIMIT = 0.025  # trtexec warns above it
DRIFT_LIMIT = 0.02
LAG1_LIMIT = 0.1


@dataclass(frozen=True)
class EngineResult:
    """One engine.

    Attributes:
        latency_ms: summary over all rounds, ms.
        speedup: baseline latency / this engine's, median over rounds; above 1 is faster. None for the baseline itself.
        load_ms, first_inference_ms: of the first session; never part of the latency.
        flags: what to know when reading the numbers.
        samples: file with every sample, relative to the benchmark's folder.
    """

    label: str
    sha256: str
    size_bytes: int
    latency_ms: Summary
    speedup: Ratio | None
    provider: str
    threads: int
    runtime_version: str
    options: dict[str, Any]
    load_ms: float
    first_inference_ms: float
    rss_mb: float | None
    flags: tuple[str, ...]
    samples: str

    @property
    def p50_ms(self) -> float | None:
        """Median latency; None, with the reason in latency_ms.p50, where there are too few samples."""
        return self.latency_ms.p50.value


@dataclass(frozen=True)
class BenchResult:
    """A benchmark.

    Attributes:
        engines: by label, the baseline first.
        control: ratio of the baseline to itself in another process; None without a control.
        device: probe of the machine.
        state_before, state_after: state around the whole benchmark; every session's own is in sessions.json.
        valid, reasons: False and why, when the numbers must not be used.
    """

    baseline: str
    engines: dict[str, EngineResult]
    control: Ratio | None
    rounds: int
    sessions: int
    device: dict[str, Any]
    state_before: dict[str, Any]
    state_after: dict[str, Any]
    settings: dict[str, Any]
    valid: bool
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def flags_of(latency: Summary, threads: int, cores: int | None) -> tuple[str, ...]:
    """Plain words for what the statistics show about the machine."""
    flags = []
    if cores is not None and threads > cores:
        flags.append(f"{threads} threads on {cores} cores: they wait for each other")
    if latency.cv is not None and latency.cv > CV_LIMIT:
        flags.append(f"latency varies by {latency.cv:.1%} (sd / mean): clocks not locked, or other work ran")
    if latency.drift is not None and abs(latency.drift) > DRIFT_LIMIT:
        flags.append(f"latency drifted by {latency.drift:+.1%} from the first to the last third")
    if latency.lag1 is not None and latency.lag1 > LAG1_LIMIT:
        flags.append(f"neighbouring samples are correlated ({latency.lag1:.2f}): the percentiles' intervals are too narrow")
    if latency.slow_count:
        flags.append(f"{latency.slow_count} of {latency.n} samples above twice the median, the slowest {latency.max:.3g} ms")
    return tuple(flags)


def throttled(sessions: list[dict[str, Any]]) -> list[str]:
    """Throttle counters that moved during a session."""
    found = []
    for number, session in enumerate(sessions):
        before = session["state_before"]["throttle_counts"] or {}
        end = session["state_after"] or (sessions[number + 1]["state_before"] if number + 1 < len(sessions) else {})
        after = (end.get("throttle_counts") or {}) if end.get("boot_id") == session["state_before"]["boot_id"] else {}
        found += [f"the device throttled: {name} went from {before[name]} to {after[name]}"
                  for name in before if name in after and after[name] != before[name]]  # fmt: skip
    return found


def result_of(
    samples: list[Samples], files: Mapping[str, Path], sessions: list[dict[str, Any]], *, baseline: str, control: str | None,
    settings: dict[str, Any],
) -> BenchResult:  # fmt: skip
    """Statistics and judgement from the raw samples."""
    by_label = {one.label: one.latencies_ms() for one in samples}
    loaded = sessions[0]["loaded"]
    engines = {}
    for one in samples:
        if one.label == control:
            continue
        latency = summarize(list(chain.from_iterable(by_label[one.label])))
        about = loaded[one.label]
        engines[one.label] = EngineResult(
            label=one.label,
            sha256=one.sha256,
            size_bytes=files[one.label].stat().st_size,
            latency_ms=latency,
            speedup=None if one.label == baseline else ratio_of_rounds(by_label[baseline], by_label[one.label]),
            threads=settings["threads"],
            rss_mb=max((entry["rss_mb"] for entry in one.rounds if entry["rss_mb"] is not None), default=None),
            flags=flags_of(latency, settings["threads"], sessions[-1]["device"]["cores"]),
            samples=f"{one.path.parent.name}/{one.path.name}",
            **{key: about[key] for key in ("provider", "runtime_version", "options", "load_ms", "first_inference_ms")},
        )
    reasons = throttled(sessions)
    same = ratio_of_rounds(by_label[baseline], by_label[control]) if control else None
    low, high = (same.low, same.high) if same is not None else (None, None)
    if same is not None and (low is None or high is None):
        reasons.append(f"the control could not be judged: {same.reason}")
    elif same is not None and low is not None and high is not None and not control_holds(low, high):
        reasons.append(
            f"the same engine twice differs: ratio {same.value:.3f} ({low:.3f} to {high:.3f}) is not within "
            f"{CONTROL_MARGIN:.0%} of 1; the machine is too noisy or too busy to compare on"
        )
    last = next((one["state_after"] for one in reversed(sessions) if one["state_after"]), None)
    if last is None:
        reasons.append("no state of the device after the benchmark")
    return BenchResult(
        baseline, engines, same, len(by_label[baseline]), len(sessions), sessions[-1]["device"], sessions[0]["state_before"],
        last or {}, settings, not reasons, tuple(reasons),
    )  # fmt: skip
