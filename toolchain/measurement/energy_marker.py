"""Where a meter's clock lies on the device's: from bursts of load that both saw.

The readings are fitted by two levels, one while the device loaded and one while it rested, for every offset; the offset with the
least squared error is the right one. Offsets whose error is no worse than noise explains (two standard deviations) are as likely,
so half their range is the uncertainty: readings a second apart cannot place a single edge better than that, and bursts of unequal
length, whose edges fall between readings in different places, are what narrows it down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolchain.errors import MeasurementError

COARSE_S, FINE_S = 0.1, 0.005
LEAST_EXPLAINED = 0.5
FIX = "is it the meter of this device, does its program write while the device works, and is its clock right to a minute?"

Array = NDArray[np.float64]


def find_offset(
    t_s: ArrayLike, watts: ArrayLike, loads: Sequence[tuple[float, float]], *, guess_s: float = 0.0, search_s: float = 60.0
) -> tuple[float, float]:
    """(device time - meter time, its uncertainty), s.

    Args:
        t_s, watts: (n,) the meter's readings, by its own clock.
        loads: (start, end) of every stretch of load, on the device's clock.
        guess_s: the offset to look around, as far as `search_s` each way.

    Raises:
        MeasurementError: the load is not seen in the readings.
    """
    t, values = np.asarray(t_s, dtype=np.float64), np.asarray(watts, dtype=np.float64)
    good = np.isfinite(t) & np.isfinite(values)
    t, values = t[good], values[good]
    if len(t) < 10 or not loads or np.ptp(values) == 0:
        raise MeasurementError("the meter's readings do not show the load", got=f"{len(t)} readings", fix=FIX)
    values = values - values.mean()
    edges = np.asarray(loads, dtype=np.float64).ravel()
    coarse = guess_s + np.arange(-search_s, search_s + COARSE_S, COARSE_S)
    near = float(coarse[np.argmin(_squared_errors(t, values, edges, coarse))])
    fine = near + np.arange(-1.5, 1.5, FINE_S)
    errors = _squared_errors(t, values, edges, fine)
    least, whole = float(errors.min()), float(values @ values)
    if least > (1 - LEAST_EXPLAINED) * whole:
        raise MeasurementError("the meter's readings do not show the load",
                               got=f"{1 - least / whole:.0%} of their changes fit it", fix=FIX)  # fmt: skip
    likely = fine[errors <= least * (1 + 4 / (len(t) - 2)) + 1e-12 * whole]
    return float((likely[0] + likely[-1]) / 2), float((likely[-1] - likely[0]) / 2 + FINE_S)


def _squared_errors(t: Array, values: Array, edges: Array, offsets: Array) -> Array:
    """Squared error of the two levels' fit at each offset; `values` have mean 0. A load that lowers the power does not fit."""
    whole, count = float(values @ values), len(values)
    errors = np.empty(len(offsets))
    for index, offset in enumerate(offsets):
        loaded = np.searchsorted(edges, t + offset, side="right") % 2 == 1
        n, total = int(loaded.sum()), float(values[loaded].sum())
        explained = total**2 / n + total**2 / (count - n) if 0 < n < count and total > 0 else 0.0
        errors[index] = whole - explained
    return errors
