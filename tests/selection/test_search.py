"""The loop over a device whose law is known: it meets the budget although its first idea of the device is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tests.selection.test_latency import DENSE, NETWORK, OPTIONS, law
from tests.selection.test_value import FISHER
from toolchain.device.sweep import Timing
from toolchain.errors import BudgetError, MeasurementError
from toolchain.selection.search import TOLERANCE, search


class Device:
    """Answers as `Timed` does, from a law, with noise and a bend that the model cannot express."""

    def __init__(self, bend: float = 0.0, noise: float = 0.002, steady: bool = True) -> None:
        self.network, self.truth, self.bend, self.noise, self.steady = NETWORK, law(8), bend, noise, steady
        self.rng, self.timed = np.random.default_rng(0), 0

    def times(self, plans: Sequence[Mapping[str, int]]) -> list[Timing]:
        found = []
        for plan in plans:
            self.timed += 1
            straight = self.truth.at(plan)
            ratio = straight * (1 + self.bend * straight) * (1 + self.noise * self.rng.standard_normal())
            found.append(Timing(str(self.timed), {"widths": dict(plan)}, "", ratio, 0.001, self.steady, [], [], 1))
        return found


def run(device: Device, share: float, **more: Any) -> Any:
    return search(device, OPTIONS, FISHER, share, samples=40, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.7, 0.5, 0.35])
@pytest.mark.parametrize("bend", [0.0, -0.2])
def test_the_measured_engine_meets_the_budget(share: float, bend: float) -> None:
    device = Device(bend)
    found = run(device, share)
    assert abs(found.rounds[-1].measured / share - 1) <= TOLERANCE
    assert len(found.rounds) <= 4
    assert found.widths == found.rounds[-1].widths
    assert all(found.widths[g] in OPTIONS[g] for g in DENSE)
    assert found.timings == 40 + len(found.rounds) == device.timed


def test_out_of_reach_names_the_least() -> None:
    with pytest.raises(BudgetError, match=r"0\.100.*\n.*narrowest network measured 0\.3"):
        run(Device(), 0.1)


def test_an_unsteady_device_is_refused() -> None:
    with pytest.raises(MeasurementError, match="40 of 40 timings"):
        run(Device(steady=False), 0.5)


def test_the_same_seed_and_timings_give_the_same_plan() -> None:
    assert run(Device(), 0.5).widths == run(Device(), 0.5).widths
