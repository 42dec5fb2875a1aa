"""Whole Bottlenecks that may go: a Bottleneck without hidden channels is gone.

With a shortcut, y + f(y) becomes y. Without one its outputs go with it, and so do the Bottlenecks behind it in the chain, which
would have nothing to read: such a chain is shortened from its end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from toolchain.errors import PlanError
from toolchain.yolo.blocks import SplitC2f

if TYPE_CHECKING:
    from toolchain.pruning.groups import Group


@dataclass(frozen=True)
class Removal:
    """A Bottleneck of a C2f that may be removed.

    Attributes:
        block: its module path.
        groups: the groups without channels exactly when it is gone: its hidden channels, and its outputs if it has no shortcut.
        reader: with a shortcut: the convolution that loses a block of inputs, as wide as `source`; else None.
        source: group whose channels it reads.
        takes: the Bottleneck (module path) that goes when this one goes, or None.
    """

    block: str
    groups: tuple[str, ...]
    reader: str | None
    source: str
    takes: str | None

    @property
    def hidden(self) -> str:
        """The group between its two convolutions."""
        return self.groups[0]


def removable(network: nn.Module, groups: Iterable[Group]) -> tuple[Removal, ...]:
    """Every Bottleneck that may go, in the network's order.

    Args:
        network: in its prunable form.
        groups: all of its groups.
    """
    groups = list(groups)
    makes = {layer: group for group in groups for layer in group.layers("out")}
    feeds = {layer: group for group in groups for layer in group.layers("in")}
    found: list[Removal] = []
    for path, module in network.named_modules():
        if isinstance(module, SplitC2f):
            found += _of_chain(path, module, makes, feeds)
    return tuple(found)


def _of_chain(path: str, block: SplitC2f, makes: Mapping[str, Group], feeds: Mapping[str, Group]) -> list[Removal]:
    """From the last to the first: without a shortcut, one that stays keeps all before it."""
    found: list[Removal] = []
    behind: Removal | None = None
    for index in reversed(range(len(block.m))):
        last = index == len(block.m) - 1
        behind = _removal(path, index, block.m[index], makes, feeds, behind, last=last)
        found += [behind] if behind else []
    return found[::-1]


def _removal(
    path: str, index: int, bottleneck: Any, makes: Mapping[str, Group], feeds: Mapping[str, Group], behind: Removal | None, *,
    last: bool,
) -> Removal | None:  # fmt: skip
    if type(bottleneck).__name__ != "Bottleneck":  # a subclass may compute something else
        return None
    name = f"{path}.m.{index}"
    hidden, outputs, source = makes[f"{name}.cv1.conv"], makes[f"{name}.cv2.conv"], feeds[f"{name}.cv1.conv"]
    if source.frozen or hidden is outputs or not _inside(hidden, name):
        return None
    if bottleneck.add:
        return Removal(name, (hidden.name,), f"{path}.cv2.conv", source.name, None)
    if _inside(outputs, name) and (last or behind):
        return Removal(name, (hidden.name, outputs.name), None, source.name, behind.block if behind else None)
    return None


def _inside(group: Group, block: str) -> bool:
    """Whether a group may be cut and only layers of the Bottleneck make its channels."""
    return group.frozen is None and all(layer.startswith(f"{block}.") for layer in group.layers("out"))


def check_depth(removals: Iterable[Removal], widths: Mapping[str, int]) -> None:
    """Raises: PlanError when a group without channels is not part of a Bottleneck that can go, or goes alone."""
    removals = list(removals)
    empty = {group for group, width in widths.items() if width == 0}
    if odd := sorted(empty - {group for removal in removals for group in removal.groups}):
        raise PlanError("groups that cannot lose all their channels", got=odd[:5], fix="keep at least one channel in each")
    hidden = {removal.block: removal.hidden for removal in removals}
    for removal in removals:
        together = {*removal.groups, *([hidden[removal.takes]] if removal.takes and removal.hidden in empty else [])}
        if together & empty and not together <= empty:
            raise PlanError(
                f"{removal.block} can only go with all that belongs to it", got=f"not empty: {sorted(together - empty)}",
                fix="no channels in these either",
            )  # fmt: skip


def emptied(removals: Iterable[Removal], group: str) -> list[str]:
    """All groups that have no channels when `group` has none, itself included.

    Raises:
        PlanError: it cannot be empty.
    """
    of_block = {removal.block: removal for removal in removals}
    block = next((r.block for r in of_block.values() if group in r.groups), None)
    if block is None:
        raise PlanError("a group that cannot lose all its channels", got=group)
    found: list[str] = []
    while block is not None:
        found += of_block[block].groups
        block = of_block[block].takes
    return found


def renamed(path: str, gone: Collection[str]) -> str | None:
    """What a module is called once the Bottlenecks `gone` have left their lists; None for what left with them."""
    found = re.fullmatch(r"(.+\.m)\.(\d+)(\..+)?", path)
    if found is None:
        return path
    chain, index, rest = found[1], int(found[2]), found[3] or ""
    if f"{chain}.{index}" in gone:
        return None
    return f"{chain}.{index - sum(f'{chain}.{i}' in gone for i in range(index))}{rest}"
