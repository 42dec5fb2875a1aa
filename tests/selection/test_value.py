"""Predicted loss falls with the width, is 0 for the dense network and keeps what was measured."""

from __future__ import annotations

import pytest

from tests.pruning.cases import random_scores, subject
from toolchain.errors import PlanError
from toolchain.selection import value
from toolchain.selection.shapes import removable_options

NETWORK = subject()[2]
OPTIONS = {g.name: list(range(4, g.channels + 1, 4)) or [g.channels] for g in NETWORK.free}
FISHER = value.fisher(NETWORK, random_scores(NETWORK, 0), OPTIONS)


def test_fisher_falls_to_zero() -> None:
    for group, curve in FISHER.items():
        losses = [curve[w] for w in OPTIONS[group]]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] == 0


def test_what_remains_is_dearer_the_less_there_is() -> None:
    found = value.remaining(NETWORK, random_scores(NETWORK, 0), OPTIONS)
    for group, widths in OPTIONS.items():
        curve, lost = [found[group][w] for w in widths], [FISHER[group][w] for w in widths]
        assert curve == sorted(curve, reverse=True)
        assert curve[-1] == 0
        ratios = [dear / plain for dear, plain in zip(curve[:-1], lost[:-1], strict=True)]
        assert ratios == sorted(ratios, reverse=True)
        assert all(ratio > 1 for ratio in ratios)


def test_a_bottleneck_that_goes_costs_its_saliency() -> None:
    network = subject()[2]
    options = removable_options(network, OPTIONS)
    scores = random_scores(network, 0)
    gone = [removal.hidden for removal in network.removals]
    assert gone
    dear, plain = value.remaining(network, scores, options), value.fisher(network, scores, options)
    assert [dear[group][0] for group in gone] == [plain[group][0] for group in gone]


def test_measured_values_are_kept_and_made_monotone() -> None:
    rises = {g: {w[len(w) // 2]: 0.3, w[0]: 0.2} for g, w in OPTIONS.items()}  # narrower came out better: noise
    found = value.measured(rises, FISHER, OPTIONS)
    for group, widths in OPTIONS.items():
        curve = [found[group][w] for w in widths]
        assert curve == sorted(curve, reverse=True)
        assert curve[-1] == 0
        if len(widths) > 2:
            assert found[group][widths[len(widths) // 2]] == pytest.approx(0.3)
            assert found[group][widths[0]] == pytest.approx(0.3)


def test_a_rise_below_zero_is_no_gain() -> None:
    rises = {g: {w[0]: -0.5} for g, w in OPTIONS.items()}
    assert all(v == 0 for curve in value.measured(rises, FISHER, OPTIONS).values() for v in curve.values())


def test_a_group_that_was_not_measured_is_named() -> None:
    with pytest.raises(PlanError, match=r"model\.0"):
        value.measured({g: {w[0]: 0.1} for g, w in OPTIONS.items() if g != "model.0"}, FISHER, OPTIONS)
