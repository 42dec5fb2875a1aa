"""What an energy measurement says, and which of them may be held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from toolchain.errors import MeasurementError
from toolchain.measurement.stats import Ratio, ratio_of_rounds

REASONS = (
    "no_sensor",
    "permission",
    "scope_excludes_accelerator",
    "unknown_rail_map",
    "sampler_failed",
    "invalid_window",
    "not_requested",
)


@dataclass(frozen=True)
class EnergyResult:
    """Energy of one inference of one engine, or why there is none. A missing number is None, never 0.

    Attributes:
        status: `measured`, or `not_measured` with `reason` (one of REASONS) and `detail` in words.
        scope, rails, excludes, sensor: what was read and what it does not see.
        energy_total_mj: all energy in the window / inferences in it, median over the valid windows.
        energy_marginal_mj: the same without what the idle device takes.
        uncertainty_total_mj, uncertainty_marginal_mj: expanded (k = 2), see measurement/energy_window.py; with the error of the
            sensor itself where the target or the user states it, else a flag says that it is left out.
        range_total_mj, range_marginal_mj: least and largest of the valid windows.
        power_idle_w, power_mean_w: medians over the valid windows.
        latency_overhead: median latency in the windows / in the pass without sampling - 1; None without that pass.
        windows: every repeat, the invalid ones too, each with its numbers, reasons and flags.
        saving: baseline / this engine, total energy by rounds; above 1 is less energy. None for the baseline.
        low_confidence: reasons to trust the number less.
    """

    status: Literal["measured", "not_measured"]
    reason: str | None = None
    detail: str = ""
    scope: str | None = None
    rails: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    sensor: dict[str, Any] = field(default_factory=dict)
    energy_total_mj: float | None = None
    energy_marginal_mj: float | None = None
    uncertainty_total_mj: float | None = None
    uncertainty_marginal_mj: float | None = None
    range_total_mj: tuple[float, float] | None = None
    range_marginal_mj: tuple[float, float] | None = None
    power_idle_w: float | None = None
    power_mean_w: float | None = None
    latency_overhead: float | None = None
    windows: tuple[dict[str, Any], ...] = ()
    saving: Ratio | None = None
    low_confidence: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.status == "not_measured") != (self.reason is not None) or self.reason not in (None, *REASONS):
            raise MeasurementError("energy that was not measured needs one of the known reasons", got=self.reason)

    @property
    def valid(self) -> bool:
        """Whether there is a number that may be used."""
        return self.status == "measured"

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {**asdict(self), "valid": self.valid}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EnergyResult:
        """Inverse of `to_json`."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "valid"
        }
        if values.get("saving") is not None:
            values["saving"] = Ratio(**values["saving"])
        return EnergyResult(**values)


def not_measured(reason: str, detail: str, **more: Any) -> EnergyResult:
    """No number, and why."""
    return EnergyResult("not_measured", reason, detail, **more)


def comparable(a: EnergyResult, b: EnergyResult) -> None:
    """Nothing, or an error that says why two figures must not be held against each other.

    Raises:
        MeasurementError: one was not measured, or they do not cover the same thing by the same kind of sensor.
    """
    for one in (a, b):
        if not one.valid:
            raise MeasurementError("energy that was not measured cannot be compared", got=f"{one.reason}: {one.detail}")
    for name in ("scope", "rails", "excludes"):
        mine, other = getattr(a, name), getattr(b, name)
        if mine != other:
            fix = "measure both with the same meter at the same place"
            raise MeasurementError(f"energy of different {name} is not comparable", got=f"{mine} and {other}", fix=fix)
    kinds = a.sensor.get("kind"), b.sensor.get("kind")
    if kinds[0] != kinds[1]:
        raise MeasurementError("energy by different kinds of sensor is not comparable", got=f"{kinds[0]} and {kinds[1]}")


def saving(baseline: EnergyResult, other: EnergyResult) -> Ratio | None:
    """How many times less energy an inference of `other` takes, by rounds; None where no round is valid on both sides.

    Raises:
        MeasurementError: as `comparable`.
    """
    comparable(baseline, other)
    pairs = [(a["energy_total_mj"], b["energy_total_mj"]) for a, b in zip(baseline.windows, other.windows, strict=False)
             if a["valid"] and b["valid"]]  # fmt: skip
    return ratio_of_rounds([[a] for a, _ in pairs], [[b] for _, b in pairs]) if pairs else None
