"""Power over time whose energy over any span is known in closed form: the truth that energy measurement is held against."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Segment:
    """A stretch of `seconds`: constant, ramp, square or sine.

    Attributes:
        low, high: W. Ramp: from low to high; square: low, then high; sine: between them. Constant: high is not used.
        period: of square and sine, s.
        duty: share of a square's period that is high.
    """

    kind: str
    seconds: float
    low: float
    high: float = 0.0
    period: float = 1.0
    duty: float = 0.5

    def power(self, t: float) -> float:
        """W, t seconds into the segment."""
        if self.kind == "constant":
            return self.low
        if self.kind == "ramp":
            return self.low + (self.high - self.low) * t / self.seconds
        if self.kind == "square":
            return self.high if t % self.period >= (1 - self.duty) * self.period else self.low
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle + half * math.sin(2 * math.pi * t / self.period)

    def energy(self, t: float) -> float:
        """J from the segment's beginning to t."""
        if self.kind == "constant":
            return self.low * t
        if self.kind == "ramp":
            return self.low * t + (self.high - self.low) * t * t / (2 * self.seconds)
        if self.kind == "square":
            whole, rest = divmod(t, self.period)
            off = (1 - self.duty) * self.period
            one = self.low * off + self.high * (self.period - off)
            return whole * one + self.low * min(rest, off) + self.high * max(0.0, rest - off)
        middle, half, w = (self.low + self.high) / 2, (self.high - self.low) / 2, 2 * math.pi / self.period
        return middle * t + half / w * (1 - math.cos(w * t))


@dataclass(frozen=True)
class Waveform:
    """Segments one after the other, from t = 0: over and over, or the last power for ever. Before 0 it is the first power."""

    segments: tuple[Segment, ...]
    repeat: bool = True

    @property
    def seconds(self) -> float:
        return sum(segment.seconds for segment in self.segments)

    def power(self, t: float) -> float:
        """W at t."""
        if t < 0:
            return self.segments[0].power(0.0)
        if t >= self.seconds and not self.repeat:
            return self.segments[-1].power(self.segments[-1].seconds * (1 - 1e-12))
        t %= self.seconds
        for segment in self.segments:
            if t < segment.seconds:
                return segment.power(t)
            t -= segment.seconds
        return self.segments[-1].power(self.segments[-1].seconds)

    def energy(self, t: float) -> float:
        """J from 0 to t; negative before 0."""
        if t < 0:
            return self.segments[0].power(0.0) * t
        whole = sum(segment.energy(segment.seconds) for segment in self.segments)
        if t >= self.seconds and not self.repeat:
            return whole + self.power(t) * (t - self.seconds)
        times, t = divmod(t, self.seconds)
        energy = times * whole
        for segment in self.segments:
            if t < segment.seconds:
                return energy + segment.energy(t)
            energy += segment.energy(segment.seconds)
            t -= segment.seconds
        return energy

    def between(self, a: float, b: float) -> float:
        """J in [a, b]."""
        return self.energy(b) - self.energy(a)

    def to_json(self) -> dict[str, Any]:
        return {"segments": [segment.__dict__ for segment in self.segments], "repeat": self.repeat}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Waveform:
        return Waveform(tuple(Segment(**segment) for segment in data["segments"]), data["repeat"])


def constant(watts: float) -> Waveform:
    """The same for ever."""
    return Waveform((Segment("constant", 1.0, watts),))


def load_between(idle_w: float, load: Waveform, start: float, seconds: float) -> Waveform:
    """Rest, `load` from `start` for `seconds`, then rest again for ever."""
    inside: list[Segment] = []
    left, position = seconds, 0
    while left > 1e-9:
        segment = load.segments[position % len(load.segments)]
        take = min(left, segment.seconds)
        if segment.kind == "ramp" and take < segment.seconds:
            segment = Segment("ramp", take, segment.low, segment.power(take))
        inside.append(Segment(**{**segment.__dict__, "seconds": take}))
        left, position = left - take, position + 1
    return Waveform((Segment("constant", start, idle_w), *inside, Segment("constant", 1.0, idle_w)), repeat=False)


def random_load(rng: random.Random, unit_s: float) -> Waveform:
    """A few random stretches of every kind, from far below to far above `unit_s`, the sensor's refresh."""
    segments = []
    for _ in range(rng.randint(2, 6)):
        low = rng.uniform(3.0, 12.0)
        high = low * rng.uniform(1.05, 2.5)
        kind = rng.choice(("constant", "ramp", "square", "sine"))
        period = unit_s * 10 ** rng.uniform(-1.5, 1.0)
        segments.append(Segment(kind, unit_s * 10 ** rng.uniform(-0.5, 1.5), low, high, period, rng.uniform(0.1, 0.9)))
    return Waveform(tuple(segments))
