"""Energy of a plan's engine, as a share of the dense engine's: measured on the device, and told of any plan.

An inference takes what the device draws while it lasts and what its arithmetic takes beside: constant + a·latency +
b·multiply-adds, none negative. Both laws are known already, so a dozen engines are enough for the three numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from toolchain import progress
from toolchain.device import energy
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.energy_sensor import choose
from toolchain.device.lock import hold
from toolchain.device.recover import recover
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.device.target import Target
from toolchain.errors import MeasurementError, UsageError
from toolchain.measurement.energy_result import EnergyResult
from toolchain.pruning.groups import Widths
from toolchain.selection import spent
from toolchain.selection.cost import Cost, macs, plus, scaled
from toolchain.selection.goals import TOLERANCE, Goal, LatencyGoal
from toolchain.selection.timed import Timed, cut, name_of

DENSE = "dense"
LEAST_PLANS = 6
Plan = tuple[Widths, float]  # and its energy over the dense engine's


def check_sensor(on: On, target: Target | None) -> None:
    """Raises: UsageError where the device has no power sensor that can be read, with the reason."""
    with connect(on.host, python=on.python) as device, device.session() as sampler:
        found = choose(sampler, target)
    if isinstance(found, EnergyResult):
        raise _no_sensor(on, found)


def _no_sensor(on: On, found: EnergyResult) -> UsageError:
    return UsageError(
        "an energy budget needs a power sensor that can be read", got=f"{on.host}: {found.reason}: {found.detail}",
        fix="`toolchain doctor` says what can be read there; --meter takes an external one",
    )  # fmt: skip


@dataclass(frozen=True)
class Meter:
    """Measures plans of one network on one device; what was measured before is read from the folder.

    Attributes:
        target: names the device's power sensor.
    """

    timed: Timed
    folder: Path
    request: EnergyRequest
    target: Target | None

    def measure(self, plans: Sequence[Widths]) -> tuple[EnergyResult, list[EnergyResult]]:
        """The dense engine's energy and that of every plan's, windows in turns.

        Raises:
            UsageError: the device has no sensor that can be read; says why.
            DeviceError and its kinds; windows measured before are kept.
        """
        labels = [name_of(plan) for plan in plans]
        out = self.folder / hashlib.sha256(" ".join(labels).encode()).hexdigest()[:16]
        out.mkdir(parents=True, exist_ok=True)
        dense, engines = onnx.load(self.timed.dense), {DENSE: self.timed.reference}
        for label, plan in zip(labels, plans, strict=True):
            engines[label] = self.timed.engine(cut(dense, self.timed.network, plan, out / f"{label}.onnx"))
        with spent.device():
            found = recover(lambda: self._windows(engines, out), self.timed.on)
        for label in labels:
            engines[label].unlink()
            (out / f"{label}.onnx").unlink(missing_ok=True)
        for one in found.values():
            if one.reason not in (None, "invalid_window"):
                raise _no_sensor(self.timed.on, one)
        return found[DENSE], [found[label] for label in labels]

    def _windows(self, engines: Mapping[str, Path], out: Path) -> dict[str, EnergyResult]:
        on = self.timed.on
        with connect(on.host, python=on.python) as device, device.session() as holder:
            hold(holder, wait_s=on.wait_s)
            return energy.measure(
                device, engines, out, self.request, target=self.target, fields=dict.fromkeys(engines, on.engine_fields()),
                calibration=on.calibration, on_phase=lambda name: progress.note(f"  energy on {device.name}: {name}"),
            )  # fmt: skip


class EnergyGoal(Goal):
    """Total energy of an inference; `share` is set once the dense engine's (`dense_mj`) is known."""

    name = "energy"

    def __init__(self, meter: Meter, latency: LatencyGoal, plans: Sequence[Widths]) -> None:
        """Measure a spread of plans and fit the law; raises as `Meter.measure`, MeasurementError where too few are valid."""
        dense, found = meter.measure(plans)
        self.dense_mj, self.scope, self.sensor = _total(dense), dense.scope, dense.sensor
        self.known = [
            (plan, _total(one) / self.dense_mj) for plan, one in zip(plans, found, strict=True) if one.energy_total_mj is not None
        ]
        if len(self.known) < LEAST_PLANS:
            bad = next((one.detail for one in found if one.energy_total_mj is None), "")
            raise MeasurementError(
                "too few windows were valid to learn the device's energy", got=f"{len(self.known)} of {len(plans)}: {bad}",
                fix=f"{LEAST_PLANS} or more are needed; `toolchain doctor` says what else runs there",
            )  # fmt: skip
        self.meter, self.latency = meter, latency
        super().__init__(None, fit(self.known, latency.cost, macs(meter.timed.network)), latency.least)

    def measure(self, widths: Widths) -> tuple[float, float]:
        dense, (one,) = self.meter.measure([widths])
        ratio = _total(one) / _total(dense)
        error = float(np.hypot(_error(one), _error(dense)))
        self.tolerance = max(TOLERANCE, 2 * error)
        if self.tolerance > TOLERANCE:
            progress.note(f"  the sensor tells energy to {2 * error:.1%}: no budget can be met closer than that")
        return ratio, error

    def fitted(self) -> Cost:
        return fit([*self.known, *self.done], self.latency.cost, macs(self.meter.timed.network))


def fit(plans: Sequence[Plan], latency: Cost, work: Cost) -> Cost:
    """constant + a·latency + b·multiply-adds of least relative error, each ≥ 0.

    Args:
        latency: share of the dense engine's latency.
        work: multiply-adds; counted here in widths rounded up as `latency` rounds them.
    """
    from scipy.optimize import nnls

    padded = replace(work, block=latency.block)
    measured = np.array([ratio for _, ratio in plans])
    columns = np.array([[1.0, latency.at(widths), padded.at(widths)] for widths, _ in plans])
    most = columns[:, 2].max()
    columns[:, 2] /= most
    (constant, a, b), _ = nnls(columns / measured[:, None], np.ones(len(plans)))
    return plus(scaled(latency, float(a), float(constant)), scaled(padded, float(b / most), 0.0))


def _total(result: EnergyResult) -> float:
    if result.energy_total_mj is None:
        raise MeasurementError("energy was not measured", got=f"{result.reason}: {result.detail}", fix="run it again: it goes on")
    return result.energy_total_mj


def _error(result: EnergyResult) -> float:
    """Relative standard error: the expanded uncertainty is twice that."""
    return (result.uncertainty_total_mj or 0.0) / 2 / _total(result)
