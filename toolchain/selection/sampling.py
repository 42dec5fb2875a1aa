"""Which plans to time so that the latency of all others can be told: spread over sizes, and over shapes at every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Widths = dict[str, int]
SPREAD = 0.3  # standard deviation of a group's share around the plan's own


def spread_plans(options: Mapping[str, Sequence[int]], count: int, seed: int) -> list[Widths]:
    """Random plans: the mean share runs evenly from the smallest to the dense network, each group's own share scatters round it.

    Args:
        options: group -> widths it may have, rising.
        count: how many plans.

    Returns:
        plans, different from each other, the same for the same seed.
    """
    rng = np.random.default_rng(seed)
    plans: list[Widths] = []
    for level in rng.permutation((np.arange(count) + 0.5) / count):
        plan: Widths = {}
        for group, widths in options.items():
            share = float(np.clip(level + SPREAD * rng.standard_normal(), 0.0, 1.0))
            plan[group] = int(widths[round(share * (len(widths) - 1))])
        if plan not in plans:
            plans.append(plan)
    return plans


def near_plans(
    plan: Mapping[str, int], options: Mapping[str, Sequence[int]], count: int, seed: int, *, share: float = 0.3
) -> list[Widths]:
    """Plans around one: each group moves by at most a step or two of its widths, with probability `share`."""
    rng = np.random.default_rng(seed)
    plans = []
    for _ in range(count):
        moved: Widths = {}
        for group, widths in options.items():
            index = list(widths).index(plan[group])
            step = int(rng.integers(-2, 3)) if rng.random() < share else 0
            moved[group] = int(widths[min(max(index + step, 0), len(widths) - 1)])
        plans.append(moved)
    return plans
