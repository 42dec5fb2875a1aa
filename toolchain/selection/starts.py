"""What a selection may start from: a detector at a picture size, with all that is known of it before anything is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.groups import Network
from toolchain.pruning.sensitivity import Loaded
from toolchain.selection.timed import Timed
from toolchain.selection.value import Loss


@dataclass(frozen=True)
class Start:
    """A detector at a picture size.

    Attributes:
        at: the network, and the training pictures on which losses are measured.
        share: latency of the uncut engine, as a share of the first start's.
        options: group -> widths it may have.
        loss: group -> width -> predicted rise of the detection loss.
    """

    model: Path
    imgsz: int
    at: Loaded
    timed: Timed
    options: Mapping[str, Sequence[int]]
    scores: GroupScores
    loss: Loss
    share: float = 1.0

    @property
    def network(self) -> Network:
        """Its groups."""
        return self.at.network

    @property
    def key(self) -> str:
        """What a measured loss depends on, but for the plan."""
        return hashlib.sha256(f"{self.at.loaded.sha256} {self.imgsz} {self.at.subset.sha256}".encode()).hexdigest()[:16]

    @property
    def whole(self) -> dict[str, int]:
        """The uncut plan."""
        return {group: max(widths) for group, widths in self.options.items()}
