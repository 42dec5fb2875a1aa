"""What a benchmark says: per engine the latency and how many times faster than the baseline, and whether it may be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.device.judgement import drift_in_report, flags_of, moved, noise, notes
from toolchain.device.pace import Pace
from toolchain.device.paced import PacedResult, paced_result
from toolchain.device.samples import Samples
from toolchain.device.trtexec import disagreement
from toolchain.measurement.energy_result import not_measured
from toolchain.measurement.stats import Ratio, Summary, ratio_of_rounds, summarize

PARTS = ("prepare_ms", "inference_ms", "suppress_ms")


@dataclass(frozen=True)
class WholeResult:
    """Detections from a picture to its boxes, timed apart from inference alone.

    Attributes:
        latency_ms: letterbox, inference and suppression together.
        prepare_ms, inference_ms, suppress_ms: medians of the parts.
        picture_shape: height, width, channels of the picture.
        boxes: found in it.
        speedup: baseline / this engine, whole detections.
    """

    latency_ms: Summary
    prepare_ms: float
    inference_ms: float
    suppress_ms: float
    picture_shape: list[int]
    boxes: int
    speedup: Ratio | None
    samples: str


@dataclass(frozen=True)
class EngineResult:
    """One engine.

    Attributes:
        latency_ms: inference alone, summary over all rounds, ms.
        device_ms: the part of it on the accelerator alone, by its own clock, without copies there and back; None where the
            runtime does not tell.
        trtexec: TensorRT's plan timed by trtexec, see device.trtexec.measure; None where it was not asked for.
        speedup: baseline latency / this engine's, median over rounds; above 1 is faster. None for the baseline itself.
        load_ms, first_inference_ms: of the first session; never part of the latency.
        warmup: runs, seconds, why it stopped.
        input_shape: of the tensor that was timed.
        rss_mb: largest resident memory after a pass, MB.
        gpu_mb: memory on the GPU; None with `gpu_reason`.
        end_to_end: None where it was not asked for.
        paced: latency at a rate of frames; None where it was not asked for.
        energy: of one inference, or why it was not measured.
        accuracy: of this engine's own outputs on the device; None where it was not asked for.
        flags: what to know when reading the numbers.
        samples: file with every sample, relative to the benchmark's folder.
    """

    label: str
    sha256: str
    size_bytes: int
    latency_ms: Summary
    device_ms: Summary | None
    trtexec: dict[str, Any] | None
    speedup: Ratio | None
    runtime: str
    provider: str
    threads: int
    runtime_version: str
    options: dict[str, Any]
    load_ms: float
    first_inference_ms: float
    warmup: dict[str, Any]
    input_shape: list[int]
    rss_mb: float | None
    gpu_mb: float | None
    gpu_reason: str | None
    end_to_end: WholeResult | None
    paced: PacedResult | None
    energy: dict[str, Any]
    accuracy: dict[str, Any] | None
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
        id: of its first session.
        time_unix: when it began, on the device's clock.
        engines: by label, the baseline first.
        control: ratio of the baseline to itself in another process; None without a control.
        target: name and whether this project has run on it; None where none was named.
        pace: the profile in force.
        device: probe of the machine.
        state_before, state_after: state around the whole benchmark; that between the rounds is in sessions.json.
        versions: of the tools that measured, on this side.
        valid, reasons: False and why, when the numbers must not be used.
        unstable: those of the reasons that say the device's state moved.
        flags: what else to know.
    """

    id: str
    time_unix: float | None
    command: str
    baseline: str
    engines: dict[str, EngineResult]
    control: Ratio | None
    rounds: int
    sessions: int
    pace: dict[str, Any]
    conditions: dict[str, Any]
    target: dict[str, Any] | None
    device: dict[str, Any]
    state_before: dict[str, Any]
    state_after: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str | None]
    valid: bool
    reasons: tuple[str, ...]
    unstable: tuple[str, ...]
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def result_of(
    alone: Sequence[Samples], whole: Sequence[Samples], paced: Sequence[Samples], files: Mapping[str, Path],
    sessions: list[dict[str, Any]], pace: Pace, *, baseline: str, control: str | None, settings: dict[str, Any],
) -> BenchResult:  # fmt: skip
    """Statistics and judgement from the raw samples.

    Args:
        alone, whole, paced: inference alone; whole detections and inferences at a rate (none where not asked for).
        sessions: what stood around them, see SessionLog.entries.
    """
    by_label = {one.label: one.by_round() for one in alone}
    engines = {}
    for one in alone:
        label, base = one.label, None if one.label == baseline else by_label[baseline]
        beside = {"end_to_end": _whole(label, whole), "paced": paced_result(label, paced, settings["rate_hz"])}
        if label != control:
            by = settings.get("by", {}).get(label, settings)
            engines[label] = _engine(one, base, files[label], sessions, by, beside)
    same = ratio_of_rounds(by_label[baseline], by_label[control]) if control else None
    unstable = moved(sessions)
    reasons = [*unstable, *noise(same), *drift_in_report(pace, {label: one.latency_ms for label, one in engines.items()})]
    first = sessions[0]
    return BenchResult(
        first["id"], first["state_before"]["time_unix"], first["command"], baseline, engines, same, len(by_label[baseline]),
        len(sessions), pace.to_json(), first["conditions"], first["target"], sessions[-1]["device"], first["state_before"],
        next((one["state_after"] for one in reversed(sessions) if one["state_after"]), {}), settings, first["versions"],
        not reasons, tuple(reasons), tuple(unstable), notes(sessions),
    )  # fmt: skip


def _engine(
    one: Samples, base: list[list[float]] | None, file: Path, sessions: list[dict[str, Any]], by: Mapping[str, Any],
    beside: Mapping[str, Any],
) -> EngineResult:  # fmt: skip
    latency, about = _summary(one), sessions[0]["loaded"][one.label]
    energy: dict[str, Any] = next((entry["energy"] for entry in reversed(sessions) if entry["energy"] is not None), {})
    device = _summary(one, "device_ms") if all(entry.get("device_ms") for entry in one.rounds) else None
    timed: dict[str, Any] = next((entry["trtexec"] for entry in reversed(sessions) if entry.get("trtexec") is not None), {})
    apart = disagreement(None if device is None else device.p50.value, timed.get(one.label))
    flags = flags_of(latency, one, about["warmup"], by["threads"], sessions[-1]["device"]["cores"])
    return EngineResult(
        label=one.label, sha256=one.sha256, size_bytes=file.stat().st_size, latency_ms=latency, device_ms=device,
        trtexec=timed.get(one.label),
        speedup=None if base is None else ratio_of_rounds(base, one.by_round()), runtime=by["runtime"], threads=by["threads"],
        rss_mb=max((entry["rss_mb"] for entry in one.rounds if entry["rss_mb"] is not None), default=None),
        **beside, energy=energy.get(one.label) or not_measured("not_requested", "").to_json(),
        accuracy=None, flags=flags if apart is None else (*flags, apart),
        samples=one.file,
        **{key: about[key] for key in ("provider", "runtime_version", "options", "load_ms", "first_inference_ms", "warmup",
                                       "input_shape", "gpu_mb", "gpu_reason")},
    )  # fmt: skip


def _summary(one: Samples, part: str = "latency_ms") -> Summary:
    rounds = one.by_round(part)
    return summarize(list(chain.from_iterable(rounds)), [len(samples) for samples in rounds])


def _whole(label: str, whole: Sequence[Samples]) -> WholeResult | None:
    mine = next((one for one in whole if one.label == label), None)
    if mine is None:
        return None
    parts = {part: float(np.median(np.concatenate(mine.by_round(part)))) for part in PARTS}
    last = mine.rounds[-1]
    speedup = None if mine is whole[0] else ratio_of_rounds(whole[0].by_round(), mine.by_round())
    return WholeResult(
        latency_ms=_summary(mine),
        picture_shape=last["picture_shape"],
        boxes=last["boxes"],
        speedup=speedup,
        samples=mine.file,
        **parts,
    )


def with_accuracy(result: BenchResult, found: Mapping[str, dict[str, Any]]) -> BenchResult:
    """The same result with the accuracy of its engines, by label."""
    engines = {label: replace(one, accuracy=found.get(label)) for label, one in result.engines.items()}
    return replace(result, engines=engines)
