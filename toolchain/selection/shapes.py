"""From the widths of groups to the convolutions an engine really runs: the two halves of a C2f are one convolution there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolchain.pruning.groups import Network

FIRST, SECOND = ".cv0.conv", ".cv1.conv"


@dataclass(frozen=True)
class EngineConv:
    """A convolution of the stock network at full width.

    Attributes:
        pixels: of the output.
        reads, writes: group -> channels of the conv per channel of the group.
        skips: (hidden group of a Bottleneck, group): without the Bottleneck it reads that group once less.
        block: groups that are empty when the Bottleneck this conv is part of is gone, the hidden one first; () outside of one.
    """

    inputs: int
    outputs: int
    macs_per_pair: int
    pixels: int
    depthwise: bool
    reads: Mapping[str, int]
    writes: Mapping[str, int]
    skips: tuple[tuple[str, str], ...] = ()
    block: tuple[str, ...] = ()


def engine_convs(network: Network) -> dict[str, EngineConv]:
    """Every convolution by its module path in the stock network."""
    blocks = {f"{r.block}.{part}.conv": r.groups for r in network.removals for part in ("cv1", "cv2")}
    found: dict[str, EngineConv] = {}
    for name, conv in network.convs.items():
        reads, writes = network.removed_in.get(name, {}), network.removed_out.get(name, {})
        outputs = conv.outputs
        if name.endswith(FIRST):
            continue
        first = name.removesuffix(SECOND) + FIRST
        if name.endswith(SECOND) and first in network.convs:
            outputs += network.convs[first].outputs
            more = network.removed_out.get(first, {})
            writes = {g: writes.get(g, 0) + more.get(g, 0) for g in {**writes, **more}}
        pixels = conv.macs_per_pair // conv.params_per_pair
        found[name] = EngineConv(
            conv.inputs, outputs, conv.macs_per_pair, pixels=pixels, depthwise=conv.depthwise, reads=reads, writes=writes,
            skips=tuple((r.hidden, r.source) for r in network.removals if r.reader == name), block=blocks.get(name, ()),
        )  # fmt: skip
    return found


def engine_sizes(network: Network, widths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every convolution of the stock network, by its path in the uncut one.

    The convolutions of a Bottleneck that is gone have no inputs or no outputs.

    Args:
        widths: group -> channels kept (missing: all).
    """
    kept = {g.name: widths.get(g.name, g.channels) for g in network.groups}
    lost = {g.name: g.channels - kept[g.name] for g in network.groups}
    return {
        name: (
            conv.inputs - sum(k * lost[g] for g, k in conv.reads.items()) - sum(kept[g] for h, g in conv.skips if not kept[h]),
            conv.outputs - sum(k * lost[g] for g, k in conv.writes.items()),
        )
        for name, conv in engine_convs(network).items()
    }


def removable_options(network: Network, options: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The same widths, and 0 for the groups of every Bottleneck that may go whole.

    Args:
        options: group -> widths it may have, rising.
    """
    may_go = {group for removal in network.removals for group in removal.groups}
    return {group: [*([0] if group in may_go else []), *widths] for group, widths in options.items()}
