"""The picture that whole detections are timed on, and how its boxes are chosen: as a bundle does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.device.bundle import MAX_DETECTIONS, MIN_SCORE, NMS_IOU
from toolchain.device.session import AgentSession
from toolchain.errors import UsageError
from toolchain.imaging import PAD_VALUE
from toolchain.stage import file_sha256


@dataclass(frozen=True)
class Picture:
    """One picture of a camera's size.

    Attributes:
        file: (height, width, 3) uint8 RGB as .npy; None: seeded random pixels, in which an engine finds next to nothing, so that
            the time of the suppression is its least.
        height, width: of the random one, pixels; as a Full-HD camera gives it.
    """

    file: Path | None = None
    height: int = 1080
    width: int = 1920

    def __post_init__(self) -> None:
        if not (1 <= self.height <= 1 << 14 and 1 <= self.width <= 1 << 14):
            raise UsageError("not a picture's size", got=f"{self.height} by {self.width}", fix="1 to 16384 pixels a side")

    def put(self, session: AgentSession) -> dict[str, Any]:
        """Bring it to the device; what the agent must know to time whole detections."""
        place = {"picture": None if self.file is None else session.put(self.file), "height": self.height, "width": self.width}
        return {**place, "pad_value": PAD_VALUE, "min_score": MIN_SCORE, "iou": NMS_IOU, "max_detections": MAX_DETECTIONS}

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON: the same for the same picture."""
        chosen = {"min_score": MIN_SCORE, "iou": NMS_IOU, "max_detections": MAX_DETECTIONS, "resize": "numpy, bilinear"}
        if self.file is not None:
            return {"sha256": file_sha256(self.file), **chosen}
        return {"pixels": "random", "height": self.height, "width": self.width, **chosen}


RANDOM = Picture()
