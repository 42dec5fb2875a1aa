"""What is learnt of a device before anything is chosen: plans of all sizes and shapes, timed, and the laws fitted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from toolchain import progress
from toolchain.device.profile import RUNTIMES
from toolchain.device.sweep import Timing, steady
from toolchain.pruning.groups import Network, Widths
from toolchain.selection import latency, spent
from toolchain.selection.cost import Cost, scaled, weights
from toolchain.selection.latency import LatencyModel, Prior, Quality
from toolchain.selection.sampling import spread_plans
from toolchain.selection.solver import Limit
from toolchain.selection.table import learn_table, profile_prior
from toolchain.selection.timed import Timed

FIRST, MORE, MOST = 40, 20, 100  # plans timed before the first model, before each further one, and at all, unless told
GOOD_ERROR, GOOD_ORDER = 0.025, 0.95  # mean error and Kendall τ on plans not seen, with which no more are timed
STILL_BETTER = 0.95  # of the error before: what more plans must bring for further ones
PROFILED = 30  # engines whose layers are timed for the table
FOR_PRIOR = 12  # and for the prior
PROFILES = "profiles of single layers"  # the prior's name


@dataclass(frozen=True)
class Learnt:
    """The steady timings, and the law fitted to them.

    Attributes:
        priors: what profiles say of single layers, where the runtime tells their times; for `latency.fit`.
    """

    timed: Timed
    known: list[Timing]
    model: LatencyModel
    table: Cost | None = None
    priors: Mapping[str, Prior] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """Latency of a plan: the sum of single layers where that was asked for, else the model of whole engines."""
        return self.table or self.model.cost


def study(timed: Timed, options: Mapping[str, Sequence[int]], samples: int | None, seed: int, *, table: bool = False) -> Learnt:
    """Time a spread of plans and learn the device's latency from them.

    Args:
        options: group -> widths it may have.
        samples: plans timed, those in the store not again; None: as many as the model gets better by, from 40 to 100.
        table: predict by the sum of single layers instead, from profiles of some of the engines.

    Raises:
        MeasurementError: the device is too unsteady to learn from.
    """
    plans = spread_plans(options, samples or MOST, seed, removals=timed.network.removals)
    before, count = float("inf"), samples or FIRST
    while True:
        learnt = _learnt(timed, plans[:count])
        held = learnt.model.held_out
        if count >= len(plans) or _enough(held, before):
            break
        before, count = held.mape, count + MORE
    if not table:
        return learnt
    with spent.stage("table of single layers"):
        return replace(learnt, table=table_cost(timed, learnt.known, learnt.model.cost))


def _learnt(timed: Timed, plans: Sequence[Widths]) -> Learnt:
    with spent.stage("timing of plans"):
        known = steady(timed.times(plans))
    with spent.stage("profiles of some plans"):
        priors = priors_of(timed, known)
    with spent.stage("fit of the latency model"):
        model = latency.fit(timed.network, [one.about["widths"] for one in known], [one.ratio for one in known], priors)
    progress.note(f"  latency model: {_quality(model)}")
    return Learnt(timed, known, model, priors=priors)


def _enough(found: Quality, before: float) -> bool:
    """Whether more plans would be timed for little: the model is good, or not better than `before`, from fewer plans."""
    good = found.mape <= GOOD_ERROR and found.kendall_tau >= GOOD_ORDER
    return good or found.mape > STILL_BETTER * before


def priors_of(timed: Timed, known: Sequence[Timing]) -> dict[str, Prior]:
    """What the layer times of some of the engines say; nothing where the runtime tells none."""
    if timed.on.runtime not in RUNTIMES:
        return {}
    plans = [timing.about["widths"] for timing in known[:FOR_PRIOR]]
    return {PROFILES: profile_prior(timed.network, plans, timed.profiles(plans))}


def table_cost(timed: Timed, known: Sequence[Timing], like: Cost) -> Cost:
    """The sum-of-layers law in shares of the dense engine's own sum; channels count as in `like`."""
    plans = [timing.about["widths"] for timing in known[:PROFILED]]
    table = learn_table(timed.network, plans, timed.profiles(plans), like.counting)
    whole = table.at({group.name: group.channels for group in timed.network.free})
    return scaled(table, 1 / whole, 0.0)


def size_limit(learnt: Learnt, most: float | None) -> list[Limit]:
    """The budget of bytes, if there is one."""
    return [] if most is None else [Limit("size", size_model(learnt.timed.network, learnt.known), most, "bytes")]


def size_model(network: Network, known: Sequence[Timing]) -> Cost:
    """Bytes of the engine: a constant and so many bytes a weight, from the engines timed."""
    import numpy as np

    count = weights(network)
    column = np.array([[1.0, count.at(timing.about["widths"])] for timing in known])
    (constant, each), *_ = np.linalg.lstsq(column, np.array([float(timing.size_bytes) for timing in known]), rcond=None)
    return scaled(count, float(each), float(constant))


def _quality(model: LatencyModel) -> str:
    held = model.held_out
    return (
        f"{held.mape:.1%} off on plans it has not seen (bias {held.bias:+.1%}, Kendall τ {held.kendall_tau:.3f}, "
        f"{held.plans} plans, channels: {model.cost.counting}, from {model.prior})"
    )
