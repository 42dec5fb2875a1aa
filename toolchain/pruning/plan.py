"""The plan of a cut: which channels every group keeps. JSON that replays on the original weights, without pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain.errors import AlignmentError, NothingPrunedError, PlanError
from toolchain.pruning.criteria import GroupScores, top_channels
from toolchain.pruning.depth import check_depth, renamed
from toolchain.pruning.groups import Group, Network
from toolchain.stage import write_bytes


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupPlan(Strict):
    """One group: `kept` holds one rising index list per part (two for the halves of a C2f).

    An empty list: the Bottleneck that makes the channels is gone.
    """

    name: str
    channels: int = Field(gt=0)
    kept: list[list[int]]
    layers: list[str]
    frozen: str | None = None

    @property
    def width(self) -> int:
        return len(self.kept[0])


class Amounts(Strict):
    """Shares of the dense network that are pruned away."""

    channels: float
    macs: float
    params: float


class PruningPlan(Strict):
    """Everything a replay needs, and what was asked beside what was reached."""

    version: Literal[1] = 1
    model_sha256: str
    imgsz: int
    criterion: str
    strategy: str
    asked_ratio: float
    align: int
    reached: Amounts
    groups: list[GroupPlan]
    narrow: list[str] = Field(default_factory=list)  # groups thinner than the alignment: they keep their width

    @property
    def widths(self) -> dict[str, int]:
        """group -> channels kept, of the groups that are cut."""
        return {g.name: g.width for g in self.groups if g.frozen is None}

    @property
    def gone(self) -> list[str]:
        """Module paths of the Bottlenecks that are removed whole."""
        return sorted({g.name.rpartition(".")[0] for g in self.groups if not g.width})

    def save(self, path: Path) -> None:
        write_bytes(path, (self.model_dump_json(indent=1) + "\n").encode())

    @staticmethod
    def load(path: Path) -> PruningPlan:
        """Raises: PlanError naming the file and the key."""
        try:
            return PruningPlan.model_validate(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise PlanError("plan not found", got=path, fix="the plan.json that `toolchain prune` wrote") from error
        except (ValueError, ValidationError) as error:
            raise PlanError(
                "not a pruning plan", got=f"{path}: {error}", fix="the plan.json that `toolchain prune` wrote"
            ) from error


def make_plan(
    network: Network,
    widths: Mapping[str, int],
    scores: GroupScores,
    *,
    model_sha256: str,
    imgsz: int,
    criterion: str,
    strategy: str,
    asked_ratio: float,
    align: int,
    uncut_ok: bool = False,
) -> PruningPlan:
    """Widths and scores -> the channels that stay.

    Raises:
        NothingPrunedError: every group keeps all its channels, and that is not `uncut_ok`; says why for each.
        AlignmentError: a cut width is not a multiple of the alignment.
        PlanError: a group without channels that is not a whole Bottleneck.
    """
    check_depth(network.removals, widths)
    plans = [_group_plan(group, widths, scores) for group in network.groups]
    free = [p for p in plans if p.frozen is None]
    if not uncut_ok and all(p.width == p.channels for p in free):
        raise NothingPrunedError(
            "no channel would be pruned", got=_why_nothing(free, asked_ratio, align), fix="a larger --ratio or a smaller --align"
        )
    wrong = [f"{p.name}: {p.width}" for p in free if p.width % align and p.channels >= align]
    if wrong:
        raise AlignmentError(
            f"widths that are not multiples of {align}", got=wrong, fix="a smaller --align, or a --guard that lets them narrow"
        )
    dense, kept = {g.name: g.channels for g in network.free}, {p.name: p.width for p in free}
    return PruningPlan(
        model_sha256=model_sha256, imgsz=imgsz, criterion=criterion, strategy=strategy, asked_ratio=asked_ratio, align=align,
        reached=Amounts(
            channels=1 - sum(kept.values()) / sum(dense.values()),
            macs=1 - network.macs(kept) / network.macs({}),
            params=1 - network.params(kept) / network.params({}),
        ),
        groups=plans, narrow=[p.name for p in free if p.channels < align],
    )  # fmt: skip


def bare_plan(network: Network, widths: Mapping[str, int], scores: GroupScores, imgsz: int) -> PruningPlan:
    """A plan to try a cut by, not to keep: it says nothing of where it comes from, and any width will do."""
    return make_plan(
        network, widths, scores, model_sha256="", imgsz=imgsz, criterion="", strategy="", asked_ratio=0, align=1, uncut_ok=True
    )


def _group_plan(group: Group, widths: Mapping[str, int], scores: GroupScores) -> GroupPlan:
    width = group.channels if group.frozen else widths[group.name]
    kept = [
        list(range(group.channels)) if width == group.channels else top_channels(s, width) for s in scores.get(group.name, [])
    ]
    return GroupPlan(
        name=group.name, channels=group.channels, kept=kept or [list(range(group.channels)) for _ in group.parts],
        layers=group.layers("out"), frozen=group.frozen,
    )  # fmt: skip


def _why_nothing(free: list[GroupPlan], ratio: float, align: int) -> str:
    thin = sum(p.channels < 2 * align for p in free)
    return (
        f"ratio {ratio:g}, alignment {align}, {len(free)} groups of which {thin} are thinner than two blocks of {align} channels"
    )


def check_fits(plan: PruningPlan, network: Network, model_sha256: str) -> None:
    """Raises: PlanError when the plan was made for other weights or another network."""
    if plan.model_sha256 != model_sha256:
        raise PlanError(
            "the plan was made for other weights",
            got=f"{plan.model_sha256[:12]} in the plan, {model_sha256[:12]} given",
            fix="give the model the plan was made from",
        )
    expected = {g.name: (g.channels, len(g.parts)) for g in network.groups}
    found = {g.name: (g.channels, len(g.kept)) for g in plan.groups}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))
        raise PlanError("the plan's groups are not the network's", got=odd[:6])
    frozen = {g.name for g in network.groups if g.frozen is not None}
    may_go = {name for removal in network.removals for name in removal.groups}
    for group in plan.groups:
        if group.name in frozen and group.width != group.channels:
            raise PlanError(
                "the plan cuts a layer that must keep its channels", got=f"{group.name}: {group.width}/{group.channels}"
            )
        for kept in group.kept:
            inside = all(0 <= index < group.channels for index in kept) and (kept or group.name in may_go)
            if len(kept) != group.width or sorted(set(kept)) != kept or not inside:
                raise PlanError("kept channels must be rising indices inside the group, as many in each half", got=group.name)
    check_depth(network.removals, plan.widths)


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """Two cuts in a row as one plan on the weights of the first.

    Raises:
        PlanError: the second plan is not of the network the first one leaves.
    """
    after = {g.name: g for g in second.groups}
    names = {g.name: renamed(g.name, first.gone) for g in first.groups if g.width}
    left = {names[g.name]: (g.width, len(g.kept)) for g in first.groups if g.width}
    taken = {g.name: (g.channels, len(g.kept)) for g in second.groups}
    if left != taken:
        raise PlanError("the plans do not follow each other", got=sorted(set(left.items()) ^ set(taken.items()))[:6])
    groups = []
    for group in first.groups:
        if name := names.get(group.name):
            kept = [[one[i] for i in two] for one, two in zip(group.kept, after[name].kept, strict=True)]
            group = group.model_copy(update={"kept": kept})
        groups.append(group)
    shares = {
        key: 1 - (1 - getattr(first.reached, key)) * (1 - getattr(second.reached, key)) for key in ("channels", "macs", "params")
    }
    asked = 1 - (1 - first.asked_ratio) * (1 - second.asked_ratio)
    return first.model_copy(update={"groups": groups, "reached": Amounts(**shares), "asked_ratio": asked})
