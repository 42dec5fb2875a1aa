"""Where to clip the input of a SiLU: below about -5 its output hardly moves, so INT8 levels spent there are lost.

A conv's raw output reaches far into the negative; its range, and with it the rounding step, would be set by values whose SiLU is
all but zero. The lower end is therefore chosen by the error **after** the SiLU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolchain.quantization.ranges import LEVELS, Observed, Range

CANDIDATES = 60
NARROWEST = 0.05  # part of the lower end below which no candidate lies


def clip_before_silu(seen: Observed, wide: Range) -> Range:
    """`wide` with the lower end raised to where the squared error of SiLU(quantized x) is smallest over what was seen."""
    low, high = wide
    used = np.flatnonzero(seen.histogram.counts)
    if low >= 0 or high <= 0 or not used.size:
        return wide
    values, weight = seen.histogram.centres[used], seen.histogram.counts[used]
    true = _silu(values)
    errors = {}
    for candidate in low * np.linspace(1.0, NARROWEST, CANDIDATES):
        step = (high - candidate) / LEVELS
        zero = np.round(-candidate / step)
        rounded = (np.clip(np.round(values / step) + zero, 0, LEVELS) - zero) * step
        errors[float(candidate)] = float((weight * (_silu(rounded) - true) ** 2).sum())
    return min(errors, key=errors.__getitem__), high


def _silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x / (1 + np.exp(-np.clip(x, -80, None))), dtype=np.float64)
