"""Pictures of a selection: the front around the budget, the staircase of a group, predicted against measured loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from toolchain.report.charts import NARROW, Chart, Curve, Mark, Tick, frame, log_ticks, place_label, polyline, span
from toolchain.report.columns import milliseconds
from toolchain.report.selected import Agreement, Front, Round, Stairs

DOT, SMALL = 3.5, 2.5
INTERVAL = 1.96  # standard errors on both sides: 95 %


def front_chart(front: Front, rounds: Sequence[Round], budget: float, dense_ms: float, width: float) -> Chart | None:
    """Predicted loss against latency of the best plans, and the engines that were measured; None for fewer than two plans.

    Args:
        budget: a share of the dense engine's latency, as the front's points and the rounds are.
    """
    points = [(point.latency * dense_ms, point.loss) for point in front.points]
    if len(points) < 2:
        return None
    measured = [(one.measured * dense_ms, one.loss, INTERVAL * one.error) for one in rounds]
    ends = [ms for ms, _ in points] + [ms * (1 + sign * e) for ms, _, e in measured for sign in (-1, 1)] + [budget * dense_ms]
    losses = [loss for _, loss in points] + [loss for _, loss, _ in measured]
    power = _power(max(losses))
    y_title = "predicted loss" if power == 0 else f"predicted loss, in units of 1e{power}"
    x_range, y_range = span(ends, 0.06, 0.0), span([loss / 10**power for loss in losses], 0.12, 0.0)
    x, y, chart = frame(width, 320.0, x_range, y_range, ("latency, ms (bar: 95 % interval)", y_title))
    chart.curves.append(Curve("best plans by the model", polyline([(x(ms), y(loss / 10**power)) for ms, loss in points]), 0))
    chart.rules.append(Tick(x(budget * dense_ms), f"budget: {milliseconds(budget * dense_ms)} ms"))
    for ms, loss in points:
        _mark(chart, x(ms), y(loss / 10**power), f"best plan for {milliseconds(ms)} ms: loss {loss:.3g}", 0, radius=DOT)
    for number, (ms, loss, error) in enumerate(measured, 1):
        last = number == len(measured)
        detail = f"round {number}: {milliseconds(ms)} ms measured, predicted loss {loss:.3g}"
        at = (x(ms), y(loss / 10**power))
        mark = _mark(chart, *at, detail, 1 if last else 2, "chosen, measured" if last else f"round {number}")
        chart.marks[-1] = replace(mark, bar=(x(ms * (1 - error)), x(ms * (1 + error))))
    return chart


def stairs_chart(one: Stairs, block: int, channels: int, dense_ms: float, width: float) -> Chart:
    """Latency that each width of a group saves: the model's steps, the widths that may be chosen, and what was measured."""
    saved = [share * dense_ms for share in one.saved]
    measured = [(point.saved * dense_ms, INTERVAL * point.error * dense_ms) for point in one.points]
    ends = [*saved, 0.0, *(ms + sign * e for ms, e in measured for sign in (-1, 1))]
    titles = (f"channels kept of {channels}", "saves, ms")
    x, y, chart = frame(width, 200.0, (0.0, channels * 1.03), span(ends, 0.1), titles)
    treads: list[tuple[float, float]] = []
    for kept, ms in zip(one.widths, saved, strict=True):
        edge = -(-kept // block) * block
        low, high = (edge - block + 1, min(edge, channels)) if block > 1 and kept else (kept, kept)
        treads += [(x(low), y(ms)), (x(high), y(ms))]
    chart.curves.append(Curve("by the model", polyline(list(dict.fromkeys(treads))), 0))
    for kept, ms in zip(one.widths, saved, strict=True):
        if kept != one.kept:
            dropped = kept in one.dropped
            detail = f"{kept} channels save {milliseconds(ms)} ms{', as a wider one does' if dropped else ''}"
            _mark(chart, x(kept), y(ms), detail, 0, radius=DOT, hollow=dropped)
    for point, (ms, error) in zip(one.points, measured, strict=True):
        _mark(chart, x(point.width), y(ms), f"{point.width} channels, measured: {milliseconds(ms)} ms", 2, radius=DOT)
        chart.marks[-1] = replace(chart.marks[-1], rise=(y(ms - error), y(ms + error)))
    at = one.widths.index(one.kept)
    _mark(chart, x(one.kept), y(saved[at]), f"kept: {one.kept} channels save {milliseconds(saved[at])} ms", 1, f"kept {one.kept}")
    return chart


def agreement_chart(value: Agreement, width: float) -> Chart | None:
    """Summed losses of random plans against the loss of the whole plan; None for fewer than two."""
    if len(value.joint) < 2:
        return None
    sums, rises = [point.predicted for point in value.joint], [point.measured for point in value.joint]
    x_log, y_log = _spread(sums), _spread(rises)
    titles = ("sum of the single losses" + ", logarithmic" * x_log, "measured loss" + ", logarithmic" * y_log)
    x, y, chart = frame(width, 300.0, _range(sums, x_log), _range(rises, y_log), titles)
    to_x: Callable[[float], float] = (lambda value: x(math.log10(value))) if x_log else x
    to_y: Callable[[float], float] = (lambda value: y(math.log10(value))) if y_log else y
    if x_log:
        chart.x_ticks[:] = [Tick(to_x(at), f"{at:g}") for at in log_ticks(*_ends(sums), width)]
    if y_log:
        chart.y_ticks[:] = [Tick(to_y(at), f"{at:g}") for at in log_ticks(*_ends(rises), NARROW)]
    for point in value.joint:
        detail = f"predicted {point.predicted:.3g}, measured {point.measured:.3g}"
        _mark(chart, to_x(point.predicted), to_y(point.measured), detail, 1, radius=DOT)
    return chart


def _mark(
    chart: Chart, x: float, y: float, detail: str, series: int, label: str = "", *, radius: float = 5.5, hollow: bool = False
) -> Mark:  # fmt: skip
    at = place_label(label, x, y, chart) if label else (x, y, "start")
    chart.marks.append(Mark(x, y, label, detail, series, None, *at, radius=radius, hollow=hollow))
    return chart.marks[-1]


def _power(largest: float) -> int:
    """Power of ten, a multiple of three, to write small or large values by; 0 for those that need none."""
    if largest <= 0 or 0.01 <= largest < 10000:
        return 0
    return 3 * math.floor(math.log10(largest) / 3)


def _spread(values: Sequence[float]) -> bool:
    """Whether a linear axis would hide all but the largest."""
    return min(values) > 0 and max(values) / min(values) > 12


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.2, max(values) * 1.2


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    if not log:
        return span(values, 0.08)
    low, high = _ends(values)
    return math.log10(low), math.log10(high)
