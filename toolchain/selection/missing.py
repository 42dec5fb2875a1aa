"""What the detector loses when a Bottleneck is missing altogether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolchain.pruning.depth import Removal
from toolchain.selection.value import Loss


def with_missing(loss: Loss, removals: Sequence[Removal], rises: Mapping[str, float]) -> Loss:
    """The same losses, with those of width 0 as they were measured.

    A Bottleneck was measured with all it takes along, so that its own part is what it costs beyond the next one's. The whole part
    is that of its hidden channels; its outputs, which go with them, cost nothing more.

    Args:
        loss: group -> width -> predicted loss.
        removals: the network's.
        rises: hidden group -> rise of the loss without the Bottleneck and what it takes along.
    """
    found = {group: dict(curve) for group, curve in loss.items()}
    hidden = {removal.block: removal.hidden for removal in removals}
    for removal in removals:
        taken = rises[hidden[removal.takes]] if removal.takes else 0.0
        found[removal.hidden][0] = max(rises[removal.hidden] - taken, 0.0)
        found |= {group: {**found[group], 0: 0.0} for group in removal.groups[1:]}
    return found
