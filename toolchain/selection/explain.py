"""A plan in plain words: what every group gave up, what it gave back, and why it is as wide as it is.

At the best plan every step that was taken loses less per millisecond than any that was not. That price, the plan's going rate, is
what a group's next step is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from toolchain.device.sweep import Timing
from toolchain.pruning.depth import Removal
from toolchain.pruning.groups import Network
from toolchain.selection import staircase
from toolchain.selection.cost import Cost
from toolchain.selection.front import front
from toolchain.selection.solver import Limit
from toolchain.selection.staircase import NOTHING, Options, moved, useful
from toolchain.selection.value import Loss, total

SENSITIVE = 3.0  # a next step that costs so many times the going rate
PLAIN = {
    "fixed": "too few channels to cut", "free": "narrower would not be faster", "removed": "its Bottleneck is taken out",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A neighbouring width: loss it adds and latency it saves, as a share of the dense engine's; both below 0 for a wider one."""

    width: int
    loss: float
    saved: float

    @property
    def price(self) -> float | None:
        """Loss per share of latency; None where there is no trade."""
        return self.loss / self.saved if abs(self.saved) > NOTHING and self.loss * self.saved > 0 else None


Steps = Mapping[str, tuple[Step | None, Step | None]]  # group -> the next narrower and the next wider width


@dataclass(frozen=True)
class Layer:
    """A group of layers in a plan.

    Attributes:
        kind: frozen, fixed, removed, free, floor, sensitive or balanced; `why` says it in words.
        loss: predicted loss it adds; `loss_share` of the plan's.
        saved: latency it gives back, as a share of the dense engine's: the mean of what it saves first, in the dense network, and
            last, in the plan. For a cost of pairs that is its Shapley value: all groups together save what the plan saves.
            `saved_share` is its part of that.
    """

    group: str
    layers: list[str]
    channels: int
    halves: int
    kept: int
    kind: str
    why: str
    loss: float = 0.0
    loss_share: float = 0.0
    saved: float = 0.0
    saved_share: float = 0.0


def explain(
    network: Network, options: Options, loss: Loss, limits: Sequence[Limit], plan: Mapping[str, int], *, dense_ms: float,
    timings: Sequence[Timing] = (), seed: int = 0, known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What `select.json` says of the choice itself: layers, staircase, front.

    Args:
        limits: latency first, its cost a share of the dense engine's, its limit what the plan is predicted to take.
        plan: the widths chosen.
        dense_ms: latency of the dense engine.
        timings: of plans on the device; those near the plan are points of the staircase.
        known: an earlier `select.json`, whose front is used where it answers the same question.
    """
    cost = limits[0].cost
    steps = neighbours(useful(options, [cost]), loss, cost, plan, network.removals)
    return {
        "dense_ms": dense_ms, "predicted_loss": total(loss, plan), "rate": rate(steps),
        "layers": [asdict(row) for row in layers(network, options, loss, cost, plan, dense_ms)],
        "staircase": staircase.summary(options, cost, plan, network.removals, timings),
        "front": front(options, loss, limits, removals=network.removals, seed=seed, known=(known or {}).get("front")),
    }  # fmt: skip


def layers(network: Network, options: Options, loss: Loss, cost: Cost, plan: Mapping[str, int], dense_ms: float) -> list[Layer]:
    """Every group of the network, in its order."""
    worth = useful(options, [cost])
    steps = neighbours(worth, loss, cost, plan, network.removals)
    saved, going = savings(cost, plan, {group: max(widths) for group, widths in options.items()}), rate(steps)
    whole_loss, whole_saved = total(loss, plan), sum(saved.values())
    rows = []
    for group in network.groups:
        name = group.name
        row = Layer(name, group.layers("out"), group.channels, len(group.parts), group.channels, "frozen", group.frozen or "")
        if name in plan:
            lost, kind = loss[name][plan[name]], _kind(plan[name], options[name], worth[name], steps[name][0], going)
            why = words(kind, plan[name], options[name], worth[name], steps[name], going, dense_ms)
            row = replace(
                row, kept=plan[name], kind=kind, why=why, loss=lost, loss_share=_part(lost, whole_loss), saved=saved[name],
                saved_share=_part(saved[name], whole_saved),
            )  # fmt: skip
        rows.append(row)
    return rows


def savings(cost: Cost, plan: Mapping[str, int], whole: Mapping[str, int]) -> dict[str, float]:
    """Group -> latency it gives back; see `Layer.saved`.

    Bottlenecks that are gone make the cost one of triples, whose means do not add up; all are scaled to what the plan saves.
    """
    dense, chosen = cost.at(whole), cost.at(plan)
    means = {g: (dense - cost.at({**whole, g: w}) + cost.at({**plan, g: whole[g]}) - chosen) / 2 for g, w in plan.items()}
    scale = _part(dense - chosen, sum(means.values()))
    return {group: scale * one for group, one in means.items()}


def neighbours(worth: Options, loss: Loss, cost: Cost, plan: Mapping[str, int], removals: Sequence[Removal]) -> Steps:
    """The next useful widths on both sides of every group's own; none for the groups of a Bottleneck that is gone."""
    chosen, lost = cost.at(plan), total(loss, plan)

    def step(group: str, width: int | None) -> Step | None:
        if width is None or plan[group] == 0:
            return None
        other = moved(plan, group, width, removals)
        return Step(width, total(loss, other) - lost, chosen - cost.at(other))

    def narrower(group: str) -> Step | None:
        """The next that is faster beside these others: a narrower one is not where it leaves something over of a block."""
        steps = (step(group, w) for w in reversed(worth[group]) if w < plan[group])
        return next((one for one in steps if one and one.saved > NOTHING), None)

    return {g: (narrower(g), step(g, min((w for w in worth[g] if w > kept), default=None))) for g, kept in plan.items()}


def rate(steps: Steps) -> float | None:
    """Loss per share of latency at which the plan trades: the median over groups of the mean of both neighbours' prices."""
    prices = [(a * b) ** 0.5 for down, up in steps.values() if (a := down and down.price) and (b := up and up.price)]
    return median(prices) if prices else None


def words(
    kind: str, kept: int, widths: Sequence[int], worth: Sequence[int], steps: tuple[Step | None, Step | None],
    going: float | None, dense_ms: float,
) -> str:  # fmt: skip
    """Why a group is as wide as it is."""
    narrower, wider = steps
    if kind in PLAIN:
        return PLAIN[kind]
    said = ["as narrow as allowed"] if kind == "floor" else []
    if narrower:
        times, what = _times(narrower, going), f"{narrower.width}" if narrower.width else "no Bottleneck"
        said.append(f"{what} would lose {number(narrower.loss)} more for {_ms(narrower.saved, dense_ms)}")
        if times and kind == "sensitive":
            said[-1] = f"sensitive: {said[-1]}, {times:.0f} times the going rate"
    elif wider:
        said.append(f"{wider.width} would win back {number(-wider.loss)} for {_ms(-wider.saved, dense_ms)}")
    idle = [w for w in widths if w not in worth and (narrower.width if narrower else 0) < w < kept]
    if idle:
        said.append(f"{' and '.join(map(str, idle[-2:]))} would not be faster")
    return "; ".join(said)


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be read."""
    return f"{value:.3g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.1e}"


def _kind(kept: int, widths: Sequence[int], worth: Sequence[int], narrower: Step | None, going: float | None) -> str:
    if kept == 0:
        return "removed"
    if len(widths) == 1:
        return "fixed"
    if len(worth) == 1:
        return "free"
    if narrower is None:
        return "floor" if kept == min(worth) else "free"
    return "sensitive" if (_times(narrower, going) or 0.0) >= SENSITIVE else "balanced"


def _times(step: Step, going: float | None) -> float | None:
    """The price of a step in going rates."""
    return step.price / going if step.price and going else None


def _part(value: float, whole: float) -> float:
    return value / whole if whole else 0.0


def _ms(saved: float, dense_ms: float) -> str:
    ms = saved * dense_ms
    return f"{ms:.2g} ms" if abs(ms) >= 0.001 else "less than 0.001 ms"
