"""From the widths of groups to the convolutions an engine really runs: the two halves of a C2f are one convolution there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolchain.pruning.groups import Network

FIRST, SECOND = ".cv0.conv", ".cv1.conv"


@dataclass(frozen=True)
class EngineConv:
    """A convolution of the stock network at full width.

    Attributes:
        pixels: of the output.
        reads, writes: group -> channels of the conv per channel of the group.
    """

    inputs: int
    outputs: int
    macs_per_pair: int
    pixels: int
    depthwise: bool
    reads: Mapping[str, int]
    writes: Mapping[str, int]


def engine_convs(network: Network) -> dict[str, EngineConv]:
    """Every convolution by its module path in the stock network."""
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
            conv.inputs, outputs, conv.macs_per_pair, pixels=pixels, depthwise=conv.depthwise, reads=reads, writes=writes
        )
    return found


def engine_sizes(network: Network, widths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every convolution of the stock network.

    Args:
        widths: group -> channels kept (missing: all).
    """
    lost = {g.name: g.channels - widths.get(g.name, g.channels) for g in network.groups}
    return {
        name: (
            conv.inputs - sum(k * lost[g] for g, k in conv.reads.items()),
            conv.outputs - sum(k * lost[g] for g, k in conv.writes.items()),
        )
        for name, conv in engine_convs(network).items()
    }
