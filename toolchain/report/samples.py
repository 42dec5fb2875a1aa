"""Raw latencies for the report, inline or from a file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.errors import MeasurementError, RunFolderError
from toolchain.measurement.stats import checked
from toolchain.report.summary import Bench, EngineSamples


def load_samples(bench: Bench | None, folder: Path) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Latencies in ms per engine, and the reason for each engine that has none.

    Raises:
        RunFolderError: a file is there but is not a list of positive numbers in .json or .npy.
    """
    samples: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    for engine in bench.engines if bench else []:
        values = engine.samples_ms if engine.samples_ms is not None else _read(engine, folder)
        if values is None:
            absent[engine.label] = f"no file {engine.samples_path}" if engine.samples_path else "none in the summary"
        else:
            samples[engine.label] = _positive(values, engine)
    return samples, absent


def _read(engine: EngineSamples, folder: Path) -> Any:
    if engine.samples_path is None or not (folder / engine.samples_path).is_file():
        return None
    path = folder / engine.samples_path
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError("raw samples cannot be read", got=f"{path}: {error}", fix="measure again") from error


def _positive(values: Any, engine: EngineSamples) -> list[float]:
    try:
        numbers = checked(values)
    except (MeasurementError, TypeError, ValueError) as error:
        raise RunFolderError(f"the raw samples of {engine.label} are damaged", got=error) from error
    if (numbers <= 0).any():
        raise RunFolderError(f"the raw samples of {engine.label} hold a time of zero or less", got=float(numbers.min()))
    return [float(number) for number in numbers]
