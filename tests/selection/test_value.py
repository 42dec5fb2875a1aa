"""Predicted loss falls with the width, is 0 for the dense network and keeps what was measured."""

from __future__ import annotations

import pytest

from tests.pruning.cases import random_scores, subject
from toolchain.errors import PlanError
from toolchain.selection import value

NETWORK = subject()[2]
OPTIONS = {g.name: list(range(4, g.channels + 1, 4)) or [g.channels] for g in NETWORK.free}
FISHER = value.fisher(NETWORK, random_scores(NETWORK, 0), OPTIONS)


def test_fisher_falls_to_zero() -> None:
    for group, curve in FISHER.items():
        losses = [curve[w] for w in OPTIONS[group]]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] == 0


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
