"""How well a median is known, from a few samples that may hold outliers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAD_TO_SD = 1.4826  # of a normal distribution
MEDIAN_LOSS = 1.2533  # standard error of the median over that of the mean, √(π/2)


def relative_error(samples: Sequence[float]) -> float:
    """Standard error of the median relative to it, from the median absolute deviation; infinite below three samples."""
    if len(samples) < 3:
        return float("inf")
    values = np.asarray(samples, dtype=np.float64)
    middle = float(np.median(values))
    spread = MAD_TO_SD * float(np.median(np.abs(values - middle)))
    return float(MEDIAN_LOSS * spread / len(values) ** 0.5 / middle)
