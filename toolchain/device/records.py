"""A benchmark as records: one result a line, each with what makes it true."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.measurement.record import Record, append

ABOUT = ("id", "time_unix", "command", "target", "pace", "conditions", "settings", "flags")
OF_ENGINE = (
    "runtime", "provider", "runtime_version", "options", "threads", "input_shape", "load_ms", "first_inference_ms", "warmup",
    "rss_mb", "gpu_mb", "gpu_reason",
)  # fmt: skip
OF_TIMING = (
    "latency_ms", "device_ms", "trtexec", "speedup", "flags",
    "prepare_ms", "inference_ms", "suppress_ms", "picture_shape", "boxes",
    "rate_hz", "frames", "missed", "skipped", "late_start_ms",
)  # fmt: skip


def records_of(bench: Mapping[str, Any], label: str, folder: str = "") -> list[Record]:
    """Latency, whole detections, latency at a rate, energy, accuracy and size of one engine, as far as they were measured.

    Args:
        bench: `BenchResult.to_json()`, perhaps read back from bench.json.
        folder: where its files are, relative to the records file, with a slash at the end.
    """
    engine = bench["engines"][label]
    common: dict[str, Any] = {
        "subject": label, "subject_sha256": engine["sha256"], "device": bench["device"],
        "versions": {**bench["versions"], engine["runtime"]: engine["runtime_version"]},
    }  # fmt: skip
    around: dict[str, Any] = {**common, "state_before": bench["state_before"], "state_after": bench["state_after"]}
    about = {key: bench[key] for key in ABOUT} | {key: engine[key] for key in OF_ENGINE}
    found = [_latency(engine, "latency", {**around, "extra": about}, bench, folder)]
    if engine["end_to_end"] is not None:
        found.append(_latency(engine["end_to_end"], "end_to_end", {**around, "extra": about}, bench, folder))
    if engine["paced"] is not None:
        found.append(_latency(engine["paced"], "paced", {**around, "extra": about}, bench, folder))
    if engine["energy"]["status"] == "measured" or engine["energy"]["reason"] != "not_requested":
        found.append(_energy(engine["energy"], around, about))
    if engine["accuracy"] is not None:
        found.append(accuracy_record(engine["accuracy"], **common))
    return [*found, Record(**common, kind="size", value=engine["size_bytes"], unit="bytes")]


def _latency(timed: Mapping[str, Any], kind: str, values: dict[str, Any], bench: Mapping[str, Any], folder: str) -> Record:
    p50 = timed["latency_ms"]["p50"]
    reasons = [*bench["reasons"], *([p50["reason"]] if p50["value"] is None else [])]
    own = {key: timed[key] for key in OF_TIMING if key in timed}
    return Record(
        **{**values, "extra": {**values["extra"], **own}}, kind=kind, value=p50["value"], unit="ms", interval=interval(p50),
        samples_path=folder + timed["samples"], valid=bench["valid"] and p50["value"] is not None, reasons=tuple(reasons),
    )  # fmt: skip


def _energy(found: Mapping[str, Any], around: dict[str, Any], about: dict[str, Any]) -> Record:
    value, spread = found["energy_total_mj"], found["uncertainty_total_mj"]
    measured = found["status"] == "measured"
    reasons = () if measured else (f"not measured: {found['reason']}: {found['detail']}",)
    bounds = None if value is None or spread is None else (value - spread, value + spread)
    return Record(
        **around,
        kind="energy",
        value=value,
        unit="mJ",
        interval=bounds,
        valid=measured,
        reasons=reasons,
        extra={**about, **found},
    )


def accuracy_record(found: Mapping[str, Any], **common: Any) -> Record:
    """Accuracy of an engine's own outputs, as `toolchain eval` gives it."""
    extra = {key: value for key, value in found.items() if key not in ("per_class", "engine")}
    return Record(**common, kind="accuracy", value=found["map50_95"], unit="mAP50-95", extra=extra)


def interval(value: Mapping[str, Any]) -> tuple[float, float] | None:
    """(low, high) of a percentile or ratio, if both exist."""
    low, high = value.get("low"), value.get("high")
    return None if low is None or high is None else (low, high)


def keep(bench: Mapping[str, Any], out: Path) -> None:
    """`records.jsonl` in the benchmark's folder, made anew. A benchmark whose state moved is no record, unless it was asked to be
    kept: then its records say that they must not be used."""
    path = out / "records.jsonl"
    path.unlink(missing_ok=True)
    if bench["unstable"] and not bench["conditions"]["keep_unstable"]:
        return
    for label in bench["engines"]:
        for record in records_of(bench, label):
            append(path, record)
