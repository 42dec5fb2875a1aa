"""What power sensors make of the truth: an INA3221's average-then-hold with its steps, and an energy counter with its range."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol


class Truth(Protocol):
    """Power and energy over time."""

    def power(self, t: float) -> float: ...

    def energy(self, t: float) -> float: ...


@dataclass
class Ina3221:
    """One rail of the chip and its Linux driver.

    At each k u + phase, the registers take the mean of the period before, and hold it. Voltage and current are rounded apart.

    Attributes:
        u: conversion period, s.
        phase: of the grid, s.
        volt: of the supply; constant, so that the mean of the product is the product of the means.
        shunt_ohm: sets the current's step: 40 uV / shunt_ohm.
        point: take the power of the instant and no mean, as a sensor that does not average.
        noise_a, offset_a: on the current, before rounding; they can make a reading negative.
    """

    u: float
    phase: float = 0.0
    volt: float = 5.0
    shunt_ohm: float = 0.005
    point: bool = False
    noise_a: float = 0.0
    offset_a: float = 0.0
    seed: int = 0

    @property
    def step_a(self) -> float:
        return 40e-6 / self.shunt_ohm

    @property
    def step_w(self) -> float:
        return self.step_a * self.volt

    def period(self, t: float) -> int:
        """Number of the conversion whose result is held at t."""
        return math.floor((t - self.phase) / self.u)

    def registers(self, truth: Truth, k: int) -> tuple[int, int]:
        """mV and mA that are held from k u + phase on."""
        end = k * self.u + self.phase
        watts = truth.power(end) if self.point else (truth.energy(end) - truth.energy(end - self.u)) / self.u
        ampere = watts / self.volt + self.offset_a
        if self.noise_a:
            ampere += random.Random(f"{self.seed}:{k}").gauss(0.0, self.noise_a)
        step = self.step_a
        return round(round(self.volt / 0.008) * 8), round(1000 * round(ampere / step) * step)

    def watts(self, truth: Truth, t: float) -> float:
        """What a client reads at t."""
        millivolt, milliampere = self.registers(truth, self.period(t))
        return millivolt * milliampere / 1e6


@dataclass
class Counter:
    """An energy counter in uJ that starts again from 0 after `range_uj`, refreshed every `u` seconds."""

    range_uj: int = 262143328850
    u: float = 0.001
    start_uj: int = 0

    def micro_joules(self, truth: Truth, t: float) -> int:
        """What a client reads at t."""
        t = math.floor(t / self.u) * self.u
        return (self.start_uj + int(truth.energy(t) * 1e6)) % (self.range_uj + 1)
