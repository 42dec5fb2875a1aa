"""The raw files of an energy measurement as they come from a device: checked, and turned into arrays."""

from __future__ import annotations

import json
import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import ProtocolError

Array = NDArray[np.float64]


def load_readings(path: Path, rails: Sequence[str]) -> tuple[Array, dict[str, Array]]:
    """A sampler's file: times (n,) s, and each rail's values (n,), NaN where it could not be read.

    Raises:
        ProtocolError: a line is not [t, one number or null for each rail], or time runs backwards.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, list) or len(row) != len(rails) + 1 or row[0] is None:
                raise ValueError("not a time and a value for each rail")
            if any(isinstance(value, bool) or not isinstance(value, (int, float, type(None))) for value in row):
                raise ValueError("not numbers")
            rows.append([float("nan") if value is None else float(value) for value in row])
        except (ValueError, RecursionError) as error:
            raise ProtocolError("the device's power readings are damaged", got=f"line {number}: {error}"[:200]) from error
    table = np.asarray(rows, dtype=np.float64).reshape(-1, len(rails) + 1)
    if np.isinf(table).any() or not np.isfinite(table[:, 0]).all() or (np.diff(table[:, 0]) <= 0).any():
        raise ProtocolError("the device's power readings are damaged", got="times that do not increase, or infinite values")
    return table[:, 0], {rail: table[:, column] for column, rail in enumerate(rails, start=1)}


def load_stamps(path: Path, count: int) -> Array:
    """A load's file: (n, 2) start and end of every inference, s.

    Raises:
        ProtocolError: not that, or inferences that overlap.
    """
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream) if version == (1, 0) else ((), False, None)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise ProtocolError("the device's stamps are damaged", got=str(error)[:200]) from error
        data = stream.read()
    if shape != (count, 2) or dtype != np.float64 or len(data) != 16 * count:  # looked at before anything is allocated for it
        raise ProtocolError(
            "the device's stamps are not what it announced", got=f"{shape} {dtype}, not ({count}, 2) float64"[:200]
        )
    stamps = np.frombuffer(data, dtype=np.float64).reshape(count, 2)
    edges = stamps.ravel()
    if not np.isfinite(edges).all() or (np.diff(edges) < 0).any():
        raise ProtocolError("the device's stamps run backwards, or are no numbers")
    return stamps
