"""One row of the comparison: a network in one form, with what was measured of it and why the rest was not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from toolchain.errors import MeasurementError

Interval = tuple[float, float]

POSITIVE = ("size_bytes", "params", "gmacs", "latency_ms", "speedup", "energy_mj")
SHARES = ("map50", "map50_95")
DERIVED_FROM = {"speedup": "latency_ms", "map50": "map50_95", "map50_95": "map50", "per_class": "map50_95"}


@dataclass(frozen=True)
class Variant:
    """A dense, pruned or quantised form of one network.

    Attributes:
        label: what a reader calls it, e.g. "pruned + INT8".
        size_bytes: the file that is deployed.
        params: learned values in the network.
        gmacs: 10^9 multiply-adds of one picture at the run's image size.
        map50, map50_95: 0..1, on the run's split.
        latency_ms: median of all samples; `latency_interval_ms` its 95 % interval.
        speedup: dense latency over this one's, measured in the same session; `speedup_interval` its 95 % interval.
        energy_mj: per inference, if there is a meter.
        per_class: class name -> mAP50-95.
        why: field name -> why it is None.

    Raises:
        MeasurementError: a value no measurement can give (not finite, zero or negative size or time, mAP outside 0..1), or an
            interval that does not hold its value.
    """

    label: str
    size_bytes: int | None = None
    params: int | None = None
    gmacs: float | None = None
    map50: float | None = None
    map50_95: float | None = None
    latency_ms: float | None = None
    latency_interval_ms: Interval | None = None
    speedup: float | None = None
    speedup_interval: Interval | None = None
    energy_mj: float | None = None
    per_class: Mapping[str, float] | None = None
    why: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise MeasurementError(
                    f"{name} of {self.label} is not a measurement", got=value, fix="None and a reason in `why`"
                )
        for name in SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise MeasurementError(f"{name} of {self.label} is not within 0..1", got=value)
        for value, interval in ((self.latency_ms, self.latency_interval_ms), (self.speedup, self.speedup_interval)):
            if interval is not None and (value is None or not interval[0] <= value <= interval[1]):
                raise MeasurementError(f"an interval of {self.label} does not hold its value", got=f"{value} in {interval}")

    def reason(self, name: str) -> str:
        """Why field `name` is missing; what it is derived from answers for it."""
        return self.why.get(name) or self.why.get(DERIVED_FROM.get(name, "")) or "no reason recorded"

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `Variant(**d)` reads it back, an interval may then be a list."""
        return asdict(self)
