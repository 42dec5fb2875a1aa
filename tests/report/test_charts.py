"""Geometry of the pictures: everything inside the frame, labels apart, tails kept."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.report.charts import MAX_POINTS, NARROW, WIDE, Chart, accuracy_against_latency, distribution, ticks, training
from toolchain.report.variant import Variant


def positions(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def assert_inside(chart: Chart, x: float, y: float) -> None:
    assert chart.left - 0.1 <= x <= chart.right + 0.1
    assert chart.top - 0.1 <= y <= chart.bottom + 0.1


@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e4), count=st.integers(2, 10))
def test_ticks_lie_within_and_are_evenly_spaced(low: float, width: float, count: int) -> None:
    found = ticks(low, low + width, count)
    air = width * 1e-6 + 1e-9
    assert 1 <= len(found) <= 1.6 * count + 1  # a step is at most √2.5 finer than asked
    assert low - air <= found[0]
    assert found[-1] <= low + width + air
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-6, abs_tol=1e-9) for step in steps)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@given(
    values=st.lists(
        st.tuples(st.floats(0.05, 500), st.floats(0, 1), st.text("abc +", min_size=1, max_size=18)), min_size=2, max_size=6
    )
)
def test_points_and_labels_stay_inside(width: float, values: list[tuple[float, float, str]]) -> None:
    variants = [
        Variant(label, map50_95=share, latency_ms=ms, latency_interval_ms=(ms * 0.9, ms * 1.1)) for ms, share, label in values
    ]
    chart = accuracy_against_latency(variants, width)
    assert chart is not None
    assert len(chart.marks) == len(variants)
    for mark in chart.marks:
        assert_inside(chart, mark.x, mark.y)
        assert mark.bar is not None
        assert mark.bar[0] <= mark.x <= mark.bar[1]
        assert chart.top <= mark.label_y <= chart.bottom
        assert 0 <= mark.label_x <= width


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    variants = [Variant(f"variant {n}", map50_95=0.7 + 0.001 * n, latency_ms=2.0 + 0.01 * n) for n in range(3)]
    chart = accuracy_against_latency([*variants, Variant("far", map50_95=0.6, latency_ms=5)], WIDE)
    assert chart is not None
    rows = sorted(mark.label_y for mark in chart.marks[:3])
    assert all(b - a >= 12 for a, b in itertools.pairwise(rows))


def test_labels_without_room_become_numbers() -> None:
    variants = [Variant(f"pruned to {n}0 %, some runtime, INT8", map50_95=0.5, latency_ms=float(n)) for n in (1, 2)]
    wide, narrow = (accuracy_against_latency(variants, width) for width in (WIDE, NARROW))
    assert wide is not None
    assert narrow is not None
    assert not wide.numbered
    assert [mark.label for mark in narrow.marks] == ["1", "2"]
    assert "pruned to 20 %" in narrow.marks[1].detail


def test_one_point_is_no_comparison() -> None:
    assert accuracy_against_latency([Variant("a", map50_95=0.5, latency_ms=1.0), Variant("b", map50_95=0.5)], WIDE) is None


@pytest.mark.parametrize("spread", [3.0, 400.0])
def test_distribution_keeps_first_and_slowest_sample(spread: float) -> None:
    samples = [1.0 + (spread - 1) * (step / 4999) ** 8 for step in range(5000)]
    chart = distribution([("engine", samples)], [2], WIDE)
    assert chart is not None
    points = positions(chart.curves[0].points)
    assert chart.curves[0].series == 2
    assert len(points) <= MAX_POINTS + 1
    assert points[0][1] == chart.bottom
    assert points[-1][1] == chart.top
    assert all(b[0] >= a[0] and b[1] <= a[1] for a, b in itertools.pairwise(points))
    for x, y in points:
        assert_inside(chart, x, y)
    assert ("logarithmic" in chart.x_title) == (spread > 12)
    assert len(chart.x_ticks) >= 3


def test_training_marks_the_epoch_kept() -> None:
    chart = training([(1, 0.1), (2, 0.4), (3, 0.35)], "mAP50-95", 2, NARROW)
    assert chart is not None
    assert chart.rules[0].text == "kept: epoch 2"
    assert chart.rules[0].at == positions(chart.curves[0].points)[1][0]
    assert training([(1, 0.1)], "mAP50-95", 1, NARROW) is None
    flat = training([(1, 0.0), (2, 0.0)], "mAP50-95", None, NARROW)
    assert flat is not None
    assert flat.rules == []
