"""Geometry of the report's pictures. Pure arithmetic: what to draw where, in px; `charts.html.j2` turns it into inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from toolchain.report.columns import milliseconds
from toolchain.report.variant import Variant

MAX_POINTS = 240  # of one curve; more cannot be seen
LABEL_HEIGHT = 15.0
CHARACTER_WIDTH = 6.6  # of a label's font, on the generous side
WIDE, NARROW = 760.0, 350.0  # the same picture for a desk and for a phone: text in an SVG shrinks with it


@dataclass(frozen=True)
class Scale:
    """A line from values to px."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A labelled point; `bar` is its horizontal, `rise` its vertical interval in px."""

    x: float
    y: float
    label: str
    detail: str
    series: int
    bar: tuple[float, float] | None
    label_x: float
    label_y: float
    anchor: str
    rise: tuple[float, float] | None = None
    radius: float = 5.5
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """A line; `points` is the text of an SVG polyline."""

    label: str
    points: str
    series: int


@dataclass(frozen=True)
class Chart:
    """A picture of `width` x `height` px with its plot area from (left, top) to (right, bottom).

    `rules` are vertical lines; `numbered`: the marks bear their row's number, since their labels have no room.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    y_title: str
    marks: list[Mark] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    rules: list[Tick] = field(default_factory=list)
    numbered: bool = False


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values within [low, high], about `count` of them, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def span(values: Sequence[float], margin: float, floor: float | None = None, ceiling: float | None = None) -> tuple[float, float]:
    """Range that shows all values with `margin` of air, never of zero width, not beyond floor and ceiling."""
    low, high = min(values), max(values)
    air = (high - low) * margin or max(abs(high), 1e-6) * 0.1
    low, high = low - air, high + air
    return (low if floor is None else max(floor, low)), (high if ceiling is None else min(ceiling, high))


def frame(
    width: float, height: float, x_range: tuple[float, float], y_range: tuple[float, float], titles: tuple[str, str]
) -> tuple[Scale, Scale, Chart]:
    left, right, top, bottom = 46.0, width - 12.0, 26.0, height - 40.0
    x, y = Scale(*x_range, left, right), Scale(*y_range, bottom, top)
    x_ticks, y_ticks = _labelled(x, ticks(*x_range, int(width // 90))), _labelled(y, ticks(*y_range, 5))
    return x, y, Chart(width, height, left, right, top, bottom, x_ticks, y_ticks, *titles)


def _labelled(scale: Scale, values: Sequence[float]) -> list[Tick]:
    """Ticks whose texts have the same number of decimals."""
    decimals = max((len(f"{value:g}".partition(".")[2]) for value in values), default=0)
    return [Tick(scale(value), f"{value:.{decimals}f}") for value in values]


def accuracy_against_latency(variants: Sequence[Variant], width: float) -> Chart | None:
    """Each variant as a point with its latency interval; None if fewer than two have both numbers."""
    shown = [(row, v, v.latency_ms, v.map50_95) for row, v in enumerate(variants)]
    points = [(row, v, ms, share) for row, v, ms, share in shown if ms is not None and share is not None]
    if len(points) < 2:
        return None
    ends = [bound for _, v, ms, _ in points for bound in (v.latency_interval_ms or (ms, ms))]
    x_range = (0.0, max(ends) * 1.12)
    y_range = span([share for *_, share in points], 0.35, 0.0, 1.0)
    x, y, chart = frame(width, 300.0, x_range, y_range, ("latency, ms (median; bar: 95 % interval)", "mAP50-95"))
    if numbered := max(len(v.label) for _, v, *_ in points) * CHARACTER_WIDTH > 0.4 * (chart.right - chart.left):
        chart = replace(chart, numbered=True)
    for row, v, ms, share in points:
        label = str(row + 1) if numbered else v.label
        bar = (x(v.latency_interval_ms[0]), x(v.latency_interval_ms[1])) if v.latency_interval_ms else None
        detail = f"{v.label}: {milliseconds(ms)} ms, mAP50-95 {share:.3f}"
        label_x, label_y, anchor = place_label(label, x(ms), y(share), chart)
        chart.marks.append(Mark(x(ms), y(share), label, detail, row, bar, label_x, label_y, anchor))
    return chart


def place_label(label: str, x: float, y: float, chart: Chart) -> tuple[float, float, str]:
    """Where a label goes: beside its point on the side with room, moved up or down past labels already there."""
    length = len(label) * CHARACTER_WIDTH
    anchor = "start" if x + 10 + length <= chart.right else "end" if x - 10 - length >= chart.left else "middle"
    at = {"start": x + 10, "end": x - 10, "middle": min(max(x, chart.left + length / 2), chart.right - length / 2)}[anchor]
    first = {"start": at, "end": at - length, "middle": at - length / 2}[anchor]
    taken = [(mark, _extent(mark)) for mark in chart.marks]
    for shift in (-9.0, 18.0, -24.0, 33.0, -39.0, 48.0):
        row = y + shift
        clear = all(
            abs(mark.label_y - row) >= LABEL_HEIGHT or first > end or first + length < begin for mark, (begin, end) in taken
        )
        if clear and chart.top <= row <= chart.bottom - 2:
            return at, row, anchor
    return at, max(y - 9.0, chart.top), anchor


def _extent(mark: Mark) -> tuple[float, float]:
    length = len(mark.label) * CHARACTER_WIDTH
    begin = {"start": mark.label_x, "end": mark.label_x - length, "middle": mark.label_x - length / 2}[mark.anchor]
    return begin, begin + length


def distribution(engines: Sequence[tuple[str, Sequence[float]]], colours: Sequence[int], width: float) -> Chart | None:
    """Share of runs at or below each latency, every sample counted; the slowest are at the right end of each line."""
    engines = [(label, sorted(samples)) for label, samples in engines]
    if not engines:
        return None
    low, high = min(samples[0] for _, samples in engines), max(samples[-1] for _, samples in engines)
    # engines or tails an order of magnitude apart: a linear axis would hide all but one
    log = low > 0 and high / low > 12
    x_range = (math.log10(low / 1.1), math.log10(high * 1.1)) if log else (0.0, high * 1.04)
    x, y, chart = frame(
        width, 280.0, x_range, (0.0, 1.0), ("latency, ms, logarithmic" if log else "latency, ms", "share of runs")
    )
    place: Callable[[float], float] = (lambda value: x(math.log10(value))) if log else x
    if log:
        chart.x_ticks[:] = [Tick(place(value), f"{value:g}") for value in log_ticks(low / 1.1, high * 1.1, width)]
    chart.y_ticks[:] = [Tick(y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    for colour, (label, samples) in zip(colours, engines, strict=True):
        steps = [(place(samples[0]), y(0.0))] + [(place(samples[i]), y((i + 1) / len(samples))) for i in _thin(len(samples))]
        chart.curves.append(Curve(label, polyline(steps), colour))
    return chart


def log_ticks(low: float, high: float, width: float) -> list[float]:
    factors = (1, 2, 5) if width > NARROW else (1, 3)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def training(points: Sequence[tuple[int, float]], title: str, best_epoch: int | None, width: float) -> Chart | None:
    """Value against epoch, with a rule at the epoch that was kept; None for fewer than two points."""
    if len(points) < 2:
        return None
    epochs = [epoch for epoch, _ in points]
    y_range = span([value for _, value in points], 0.08, 0.0)
    x, y, chart = frame(width, 220.0, (min(epochs), max(epochs)), y_range, ("epoch", title))
    chart.x_ticks[:] = [tick for tick in chart.x_ticks if "." not in tick.text]
    chart.curves.append(Curve(title, polyline([(x(points[i][0]), y(points[i][1])) for i in _thin(len(points))]), 1))
    if best_epoch is not None and min(epochs) <= best_epoch <= max(epochs):
        chart.rules.append(Tick(x(best_epoch), f"kept: epoch {best_epoch}"))
    return chart


def _thin(count: int) -> list[int]:
    """At most about MAX_POINTS indices of `count`, first and last among them; the last tenth, the tail, is kept denser."""
    if count <= MAX_POINTS:
        return list(range(count))
    body, tail = count * 9 // 10, MAX_POINTS // 3
    indices = [round(i * (body - 1) / (MAX_POINTS - tail - 1)) for i in range(MAX_POINTS - tail)]
    return sorted({*indices, *(round(body + i * (count - 1 - body) / (tail - 1)) for i in range(tail))})


def polyline(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
