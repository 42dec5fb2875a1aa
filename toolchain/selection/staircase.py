"""The staircase of a device: what each width of a group is worth in time, and which widths buy nothing.

Kernels work in blocks of channels, so between two steps a wider layer takes no longer. The narrower widths of a step give up
something for nothing: they are dropped, group by group, before the solver sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from toolchain.device.sweep import Timing
from toolchain.pruning.depth import Removal, emptied
from toolchain.selection.cost import Cost

Options = Mapping[str, Sequence[int]]
NOTHING = 1e-6  # of the dense network's cost: less than any measurement tells
PICTURES = 6  # groups whose stairs are kept for the page
TREADS = 8  # widths of a group that are timed to see its steps


@dataclass(frozen=True)
class Point:
    """A timed engine that differs from the chosen one in one group's width alone.

    Attributes:
        saved: latency against that group at full width, as a share of the dense engine's; the chosen plan's is the model's.
        error: standard error of `saved`.
    """

    width: int
    saved: float
    error: float


@dataclass(frozen=True)
class Stairs:
    """What the widths of one group save, the other groups as chosen.

    Attributes:
        widths: those the group may have, rising.
        saved: by the model, at each of them, as a share of the dense engine's latency; 0 at full width.
        dropped: widths that buy nothing.
    """

    group: str
    kept: int
    widths: list[int]
    saved: list[float]
    dropped: list[int]
    points: list[Point]


def useful(options: Options, costs: Sequence[Cost]) -> dict[str, list[int]]:
    """The widths worth choosing: one is dropped when a wider one exceeds it in none of the costs, whatever the other groups have.

    Costs are sums over pairs that grow with every width, and over what single widths leave of a block: so a wider one that costs
    no more beside the widest others costs no more beside any. No channels at all, where a Bottleneck may go, stay a choice.

    Args:
        options: group -> widths it may have, rising; a wider one never loses more.
        costs: of everything that is limited.
    """
    found = {group: list(widths) for group, widths in options.items()}
    if not costs:
        return found
    whole = {group: max(widths) for group, widths in options.items()}
    nothing = [NOTHING * cost.at(whole) for cost in costs]
    for group, widths in options.items():
        some = [width for width in widths if width]
        if not some:
            continue
        columns = [[cost.at({**whole, group: width}) for width in some] for cost in costs]
        kept = [
            any(c[i + 1] - c[i] > least for c, least in zip(columns, nothing, strict=True)) for i in range(len(some) - 1)
        ]  # fmt: skip
        found[group] = [w for w in widths if not w] + [w for w, keep in zip(some, [*kept, True], strict=True) if keep]
    return found


def moved(plan: Mapping[str, int], group: str, width: int, removals: Iterable[Removal]) -> dict[str, int]:
    """The plan with one group at another width; without any channels its whole Bottleneck goes, and what goes with that."""
    return {**plan, **(dict.fromkeys(emptied(removals, group), 0) if width == 0 else {group: width})}


def stairs(
    options: Options, cost: Cost, plan: Mapping[str, int], removals: Iterable[Removal] = (), timings: Sequence[Timing] = (),
    most: int = PICTURES,
) -> list[Stairs]:  # fmt: skip
    """The stairs of the groups whose width matters most at a plan, the steepest first; not of Bottlenecks that are gone.

    Args:
        cost: latency as a share of the dense engine's.
        timings: of the plan and of plans that differ from it in one group give measured points.
    """
    worth, removals, found = useful(options, [cost]), list(removals), []
    for group, widths in options.items():
        if plan[group] == 0:
            continue
        at = [cost.at(moved(plan, group, width, removals)) for width in widths]
        saved = [at[-1] - one for one in at]
        dropped = [width for width in widths if width not in worth[group]]
        points = _points(group, plan, saved[list(widths).index(plan[group])], timings)
        found.append(Stairs(group, plan[group], list(widths), saved, dropped, points))
    return sorted(found, key=lambda one: -max(one.saved))[:most]


def near(
    options: Options, cost: Cost, plan: Mapping[str, int], removals: Iterable[Removal], groups: int, most: int = TREADS
) -> list[dict[str, int]]:
    """Plans to time around one so that its steps are seen: the groups that matter most, each alone at some of its widths."""
    found: list[dict[str, int]] = []
    for one in stairs(options, cost, plan, removals, most=groups):
        widths = [width for width in one.widths if width and width != one.kept]
        every = max(1, -(-len(widths) // most))
        found += [{**plan, one.group: width} for width in widths[::every]]
    return found


def _points(group: str, plan: Mapping[str, int], saved: float, timings: Sequence[Timing]) -> list[Point]:
    """Differences to the chosen plan as measured, which is put where the model has it."""
    chosen = next((timing for timing in timings if timing.about["widths"] == plan), None)
    if chosen is None:
        return []
    found = []
    for timing in timings:
        widths = timing.about["widths"]
        if {g for g, width in widths.items() if width != plan[g]} == {group}:
            error = ((timing.ratio * timing.error) ** 2 + (chosen.ratio * chosen.error) ** 2) ** 0.5
            found.append(Point(widths[group], saved + chosen.ratio - timing.ratio, error))
    return sorted(found, key=lambda point: point.width)


def summary(
    options: Options, cost: Cost, plan: Mapping[str, int], removals: Iterable[Removal], timings: Sequence[Timing] = ()
) -> dict[str, object]:
    """What `select.json` keeps: the block, which widths each group lost, and the stairs worth a picture."""
    worth = useful(options, [cost])
    dropped = {g: [w for w in widths if w not in worth[g]] for g, widths in options.items()}
    return {
        **cost.counting._asdict(), "widths": sum(map(len, options.values())),
        "dropped": {g: ws for g, ws in dropped.items() if ws},
        "stairs": [asdict(one) for one in stairs(options, cost, plan, removals, timings)],
    }  # fmt: skip
