"""Under which conditions a benchmark runs, and what becomes of one whose conditions do not hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from toolchain.errors import UsageError


@dataclass(frozen=True)
class Conditions:
    """What the device is put into for the measurement, and taken out of afterwards.

    Attributes:
        power_mode: name of a power mode to run in; None leaves the mode as it is.
        pin_clocks: hold the clocks at one frequency.
        start_temperature_c: temperature of the hottest zone to begin at; None: that of each zone when the folder's first
            connection began. How long that is waited for is the pace's.
        keep_unstable: measure and record also where the device is not the one named, or where its state moved; marked so.
    """

    power_mode: str | None = None
    pin_clocks: bool = False
    keep_unstable: bool = False
    start_temperature_c: float | None = None

    def __post_init__(self) -> None:
        if self.start_temperature_c is not None and not -40 <= self.start_temperature_c <= 120:
            raise UsageError("start temperature is out of range", got=self.start_temperature_c, fix="-40 to 120 degrees Celsius")

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


AS_IT_IS = Conditions()
