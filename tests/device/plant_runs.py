"""Energy measured on boards that the power plant plays: what the tests and the benchmark of the truth share."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.plant import Board, Plant, start_plant
from tests.lab.sense import Ina3221
from tests.lab.waveform import random_load
from toolchain.device.energy import measure
from toolchain.device.energy_request import EnergyRequest, Phases
from toolchain.device.remote import connect
from toolchain.device.target import Target, load_target
from toolchain.device.target_power import Power, PowerSource
from toolchain.measurement.energy_result import EnergyResult

FIELDS = {"runtime": "onnxruntime", "provider": "CPUExecutionProvider", "threads": 1}
SOURCES: dict[str, dict[str, Any]] = {
    "hwmon": {"kind": "hwmon", "scope": "module", "chips": ["ina3221"], "update_ms": "read"},
    "iio": {
        "kind": "iio",
        "scope": "module",
        "paths": ["/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device*"],
        "update_ms": "measure",
    },
    "pmic": {"kind": "vcgencmd_pmic", "scope": "board_pmic_rails", "update_ms": "measure"},
    "rapl": {"kind": "rapl", "scope": "cpu_package", "update_ms": 1.0, "requires": "root"},
}


def target_for(board: Board, roles: Mapping[str, str] | None = None, max_hz: float = 100.0) -> Target:
    """This host's target with the board's power source in the place of its own."""
    rails = dict(roles or dict.fromkeys(board.rails, "+"))
    source = PowerSource.model_validate({**SOURCES[board.front], "rails": rails, "max_hz": max_hz, "source": "the power plant"})
    return load_target("host-cpu").model_copy(update={"power": Power(source=[source])})


def short(idle_s: float = 1.5, lead_in_s: float = 0.5, window_s: float = 3.0, updates: int = 20, **more: Any) -> Phases:
    """Phases for tests."""
    return Phases(idle_s, lead_in_s, window_s, updates, run_on_s=0.3, **{"swings": 1, **more})


def run(plant: Plant, name: str, engines: dict[str, Path], out: Path, *, request: EnergyRequest, target: Target,
        on_phase: Any = None, host: str = "local", python: str = sys.executable) -> dict[str, EnergyResult]:  # fmt: skip
    """Measure a board of the plant, whose load follows the phases."""

    def follow(phase: str) -> None:
        plant.follow(name, phase)
        if on_phase is not None:
            on_phase(phase)

    places = {"root": str(plant.boards[name].root), "cache": str(plant.folder / "cache")}
    with connect(host, python=python, **places) as device:
        return measure(device, engines, out, request, target=target, fields=dict.fromkeys(engines, FIELDS), on_phase=follow)


def random_board(root: Path, seed: int, u: float) -> Board:
    """A board with a random load, rest, noise and phase of its sensor's grid."""
    rng = random.Random(seed)
    sensor = Ina3221(u, phase=rng.random() * u, noise_a=rng.choice((0.0, 0.02)), shunt_ohm=rng.choice((0.005, 0.002)), seed=seed)
    return Board(root, random_load(rng, u), idle_w=rng.uniform(2.0, 5.0), sensor=sensor, rails={"VDD_IN": 1.0, "VDD_SOC": 0.3})


@dataclass(frozen=True)
class Error:
    """Measured against the truth, in the same window.

    Attributes:
        total, marginal: measured / true - 1.
        covered: the true total lies within the uncertainty given.
    """

    seed: int
    total: float
    marginal: float
    covered: bool
    uncertainty: float
    reasons: tuple[str, ...]
    window: dict[str, Any]


def compare(board: Board, seed: int, window: Mapping[str, Any]) -> Error:
    """One window against what the board really drew in it."""
    a, b = window["start_s"], window["end_s"]
    true_j, marginal_j = board.between(a, b), board.marginal(b) - board.marginal(a)
    measured_j, per_j = window["energy_j"], window["n"] / 1000
    total = measured_j / true_j - 1
    uncertainty = window["uncertainty_total_mj"] * per_j / measured_j
    return Error(seed, total, window["energy_marginal_mj"] * per_j / marginal_j - 1, abs(total) <= uncertainty, uncertainty,
                 tuple(window["reasons"]), dict(window))  # fmt: skip


def errors_of(folder: Path, engine: Path, seeds: Sequence[int], u: float, phases: Phases, workers: int) -> list[Error]:
    """Measure boards of random loads, all at once, each with the whole way: plant, agent, link, arithmetic.

    A board is measured anew, once, where the plant itself came late by more than half the sensor's period: that is no error of
    the measurement.
    """
    boards = {str(seed): random_board(folder / f"board{seed}", seed, u) for seed in seeds}
    request = EnergyRequest(repeats=1, rate_hz=5.0, phases=phases)
    with start_plant(folder / "plant", boards) as plant:

        def one(seed: int) -> Error:
            name = str(seed)
            target = target_for(boards[name], {"VDD_IN": "total", "VDD_SOC": "info"})
            for attempt in range(2):
                plant.late_s(name)  # forgets what was late before
                out = folder / f"out{seed}.{attempt}"
                (window,) = run(plant, name, {"one": engine}, out, request=request, target=target)["one"].windows
                if plant.late_s(name) <= u / 2:
                    break
            return compare(plant.truth(name), seed, window)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, seeds))
