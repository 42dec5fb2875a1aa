"""Under which conditions a benchmark runs, and what becomes of one whose conditions do not hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Conditions:
    """What the device is put into for the measurement, and taken out of afterwards.

    Attributes:
        power_mode: name of a power mode to run in; None leaves the mode as it is.
        pin_clocks: hold the clocks at one frequency.
        keep_unstable: measure and record also where the device is not the one named, or where its state moved; marked so.
    """

    power_mode: str | None = None
    pin_clocks: bool = False
    keep_unstable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


AS_IT_IS = Conditions()
