"""Verbs on engines where they will live: build, bench, profile. A lost link is waited for, and the work goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.device.bench import bench as bench_engines
from toolchain.device.bundle import build as build_bundle
from toolchain.device.manifest import engine_of
from toolchain.device.profile import profile as profile_engine
from toolchain.device.recover import recover
from toolchain.device.results import BenchResult
from toolchain.device.settings import HERE, On
from toolchain.errors import UsageError
from toolchain.stage import write_json


def build(
    model: Path, out: Path, *, imgsz: int, on: On = HERE, precision: str = "fp32", sample: Path | None = None
) -> dict[str, Any]:
    """ONNX -> a bundle whose engine really ran on the host; `sample` is the picture it is tried on there and wherever it goes."""
    from toolchain.export.metadata import class_names

    labels = class_names(model)
    return recover(lambda: build_bundle(model, out, on, labels=labels, imgsz=imgsz, precision=precision, sample=sample), on)


def engine_files(engines: Mapping[str, Path]) -> dict[str, Path]:
    """Label -> engine; a bundle folder stands for its engine, after its hashes were checked."""
    for path in engines.values():
        if not path.exists():
            raise UsageError("an engine's file does not exist", got=path, fix="`toolchain export` or `toolchain build` makes one")
    return {label: engine_of(path) if path.is_dir() else path for label, path in engines.items()}


def bench(engines: Mapping[str, Path], out: Path, *, on: On = HERE, rounds: int = 11, runs: int = 20) -> BenchResult:
    """Latency of several engines in turns; the first is the baseline. A bundle folder stands for its engine."""
    files = engine_files(engines)
    return recover(lambda: bench_engines(files, out, on, rounds=rounds, runs=runs), on)


def profile(
    engines: Mapping[str, Path], out: Path, *, on: On = HERE, imgsz: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Time of every node of each engine, one engine after the other; writes `profile.json`."""
    result = {}
    with progress.task(f"Profiling on {on.host}", total=len(engines), unit="engines") as task:
        for label, path in engine_files(engines).items():
            nodes = recover(lambda path=path: profile_engine(path, on, imgsz=imgsz), on)  # type: ignore[misc]
            result[label] = [node.to_json() for node in nodes]
            task.advance(note=label)
    write_json(out / "profile.json", result)
    return result
