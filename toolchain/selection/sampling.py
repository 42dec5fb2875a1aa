"""Which plans to time so that the latency of all others can be told: spread over sizes, and over shapes at every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolchain.pruning.depth import Removal, emptied
from toolchain.pruning.groups import Widths

SPREAD = 0.3  # standard deviation of a group's share around the plan's own
GONE = 0.6  # highest chance of each Bottleneck to be missing; every plan has its own, from 0, so that most may be gone together


def spread_plans(
    options: Mapping[str, Sequence[int]], count: int, seed: int, *, removals: Sequence[Removal] = ()
) -> list[Widths]:
    """Random plans: mean shares lie evenly between the smallest and the dense network, each group's own share scatters round it.

    Args:
        options: group -> widths it may have, rising.
        count: how many plans.
        removals: the network's; those whose hidden group may be 0 are gone now and then. The other widths do not depend on that.

    Returns:
        plans, different from each other, the same for the same seed: the first of many are those of few, and lie as evenly
        (van der Corput's sequence, shifted at random).
    """
    rng, depth = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    may_go = [removal.hidden for removal in removals if 0 in options.get(removal.hidden, ())]
    plans: list[Widths] = []
    shift = rng.random()
    for number in range(count):
        level, plan = (_radical_inverse(number) + shift) % 1, Widths()
        for group, widths in options.items():
            share = float(np.clip(level + SPREAD * rng.standard_normal(), 0.0, 1.0))
            there = [w for w in widths if w]
            plan[group] = int(there[round(share * (len(there) - 1))])
        chance = GONE * depth.random()
        for hidden in may_go:
            if depth.random() < chance:
                plan |= dict.fromkeys(emptied(removals, hidden), 0)
        if plan not in plans:
            plans.append(plan)
    return plans


def _radical_inverse(number: int) -> float:
    """Binary digits mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, …"""
    digits = f"{number:b}"
    return int(digits[::-1], 2) / (1 << len(digits))


def near_plans(
    plan: Mapping[str, int], options: Mapping[str, Sequence[int]], count: int, seed: int, *, share: float = 0.3
) -> list[Widths]:
    """Plans around one: each group moves by at most a step or two of its widths, with probability `share`; none comes or goes."""
    rng = np.random.default_rng(seed)
    plans = []
    for _ in range(count):
        moved: Widths = {}
        for group, widths in options.items():
            there = [w for w in widths if w] if plan[group] else [0]
            index = there.index(plan[group])
            step = int(rng.integers(-2, 3)) if rng.random() < share else 0
            moved[group] = int(there[min(max(index + step, 0), len(there) - 1)])
        plans.append(moved)
    return plans
