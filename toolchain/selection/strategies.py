"""Strategies: how many channels every group keeps. One function each; `STRATEGIES` at the end is the registry.

Inside a group the channels with the highest scores stay, so a strategy only chooses widths. Widths are multiples of the
alignment; the halves of a C2f are one group and stay equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from toolchain.errors import ConfigError, UnknownNameError
from toolchain.pruning.criteria import GroupScores, lamp_of, loss_curve
from toolchain.pruning.groups import Group, Network, Widths

DEPTH_STEP = 0.05  # the depth-aware rule: ratio = base · (1 − 0.05 · depth)


@dataclass(frozen=True)
class Ask:
    """What is asked of a strategy.

    Attributes:
        ratio: pruned share, in [0, 1): of channels, or of multiply-adds for `flops`.
        align: widths are multiples of this.
        layers: own ratio of some groups, by name.
        floor: least kept share of any group.
        keep_at_least: group -> least kept share (from sensitivity).
    """

    ratio: float = 0.0
    align: int = 8
    layers: Mapping[str, float] = field(default_factory=dict)
    floor: float = 0.1
    keep_at_least: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {"ratio": self.ratio, **self.layers}.items():
            if not 0 <= value < 1:
                raise ConfigError(f"pruning ratio of {name!r} outside [0, 1)", got=value, fix="0.3 removes 30 %")
        if self.align < 1:
            raise ConfigError("alignment below 1", got=self.align)


def allowed_widths(group: Group, ask: Ask) -> list[int]:
    """Widths the group may keep, rising: multiples of the alignment down to its floor; the dense width if none fits."""
    least = max(ask.floor, ask.keep_at_least.get(group.name, 0.0)) * group.channels
    widths = [w for w in range(ask.align, group.channels + 1, ask.align) if w >= least - 1e-9]
    return widths or [group.channels]


def nearest_width(group: Group, kept: float, ask: Ask) -> int:
    """The allowed width nearest to `kept` channels; the larger of two equally near."""
    return min(allowed_widths(group, ask), key=lambda w: (abs(w - kept), -w))


def uniform(network: Network, scores: GroupScores, ask: Ask) -> Widths:
    """The same ratio for every group."""
    return {g.name: nearest_width(g, g.channels * (1 - ask.ratio), ask) for g in network.free}


def per_layer(network: Network, scores: GroupScores, ask: Ask) -> Widths:
    """Own ratios for the groups named; `ratio` for the rest."""
    return {g.name: nearest_width(g, g.channels * (1 - ask.layers.get(g.name, ask.ratio)), ask) for g in network.free}


def depth_aware(network: Network, scores: GroupScores, ask: Ask) -> Widths:
    """ratio · (1 − 0.05 · depth), depth being the index of the group's top-level module; never below 0."""
    return {
        g.name: nearest_width(g, g.channels * (1 - max(ask.ratio * (1 - DEPTH_STEP * g.depth), 0.0)), ask) for g in network.free
    }


def global_rank(network: Network, scores: GroupScores, ask: Ask) -> Widths:
    """Blocks of channels ranked by raw saliency over the whole network, until the share of channels is gone."""
    total = sum(g.channels for g in network.free)

    def removed(widths: Widths) -> float:
        return 1 - sum(widths.values()) / total

    return _greedy(network, scores, ask, cost=lambda widths, group, smaller: float(widths[group.name] - smaller), removed=removed)


def lamp(network: Network, scores: GroupScores, ask: Ask) -> Widths:
    """`global` on the scores normalised inside each group: u² / Σ of the squares not below it (arXiv 2010.07611)."""
    return global_rank(network, {name: [lamp_of(part) for part in parts] for name, parts in scores.items()}, ask)


def flops(network: Network, scores: GroupScores, ask: Ask) -> Widths:
    """Blocks ranked by saliency per multiply-add freed at the present widths, until the share of multiply-adds is gone."""
    dense = network.macs({})

    def freed(widths: Widths, group: Group, smaller: int) -> float:
        return float(network.macs(widths) - network.macs({**widths, group.name: smaller}))

    return _greedy(network, scores, ask, cost=freed, removed=lambda widths: 1 - network.macs(widths) / dense)


def _greedy(
    network: Network,
    scores: GroupScores,
    ask: Ask,
    *,
    cost: Callable[[Widths, Group, int], float],
    removed: Callable[[Widths], float],
) -> Widths:
    """Take the cheapest block (saliency lost ÷ cost freed) again and again.

    A block's saliency only rises as its group narrows while the cost it frees only falls, so a popped ratio that has grown since
    it was pushed is pushed back: the order is exact.
    """
    losses = {g.name: loss_curve(scores[g.name]) for g in network.free}
    options = {g.name: allowed_widths(g, ask) for g in network.free}
    widths = {g.name: max(options[g.name]) for g in network.free}

    def entry(group: Group) -> tuple[float, str, int] | None:
        smaller = [w for w in options[group.name] if w < widths[group.name]]
        if not smaller:
            return None
        lost = losses[group.name][smaller[-1]] - losses[group.name][widths[group.name]]
        return lost / max(cost(widths, group, smaller[-1]), 1e-12), group.name, smaller[-1]

    groups = {g.name: g for g in network.free}
    heap = [e for g in network.free if (e := entry(g))]
    heapq.heapify(heap)
    while heap and removed(widths) < ask.ratio - 1e-9:
        _, name, _ = heapq.heappop(heap)
        now = entry(groups[name])
        if now is None:
            continue
        if heap and now > heap[0]:
            heapq.heappush(heap, now)
            continue
        widths[name] = now[2]
        if after := entry(groups[name]):
            heapq.heappush(heap, after)
    return widths


Strategy = Callable[[Network, GroupScores, Ask], Widths]
STRATEGIES: dict[str, Strategy] = {
    "uniform": uniform, "per-layer": per_layer, "depth-aware": depth_aware, "global": global_rank, "lamp": lamp, "flops": flops,
}  # fmt: skip


BY_BUDGET = ("latency", "table")  # chosen by the solver: latency by the model of whole engines, or by the sum of single layers


def check_strategy(strategy: str) -> None:
    """Raises: UnknownNameError for one that a budget cannot be met with."""
    known = (*BY_BUDGET, *(name for name in STRATEGIES if name != "per-layer"))
    if strategy not in known:
        raise UnknownNameError("strategy for a budget", strategy, known)


def check_ask(network: Network, ask: Ask, strategy: str) -> None:
    """What can be known before anything is scored.

    Raises:
        UnknownNameError: no such strategy or group.
        ConfigError: ratios of single groups without `per-layer`, or of a group that cannot be pruned.
    """
    if strategy not in STRATEGIES:
        raise UnknownNameError("strategy", strategy, STRATEGIES)
    if ask.layers and strategy != "per-layer":
        raise ConfigError("ratios of single layers need the per-layer strategy", got=strategy, fix="--strategy per-layer")
    for name in (*ask.layers, *ask.keep_at_least):
        group = network.group(name)
        if group.frozen and name in ask.layers:
            raise ConfigError(f"layer {name} cannot be pruned", got=group.frozen)


def choose(network: Network, scores: GroupScores, ask: Ask, strategy: str) -> Widths:
    """Widths of every free group.

    Raises:
        UsageError: what `check_ask` refuses.
    """
    check_ask(network, ask, strategy)
    return STRATEGIES[strategy](network, scores, ask)
