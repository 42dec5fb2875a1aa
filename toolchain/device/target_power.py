"""Where a device's power can be read: the `[power]` part of a target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, computed_field, model_validator

from toolchain.device.target_parts import Part, WordList, Words

Scope = Literal["soc_rail", "module", "board_pmic_rails", "cpu_package", "gpu_board", "dc_input", "ac_wall"]
Kind = Literal["hwmon", "iio", "ina", "rapl", "vcgencmd_pmic", "nvml_energy"]
Role = Literal["total", "+", "info"]

KINDS: dict[Kind, str] = {  # what is read, with its unit
    "hwmon": "hwmon chips, rails by in*_label: in*_input mV x curr*_input mA",
    "iio": "iio folders of JetPack 4, rails by rail_name_*: in_power*_input mW",
    "ina": "hwmon chips of one channel, rail by in*_label or label: power*_input uW",
    "rapl": "powercap zones, rails by name: energy_uj, a counter in uJ",
    "vcgencmd_pmic": "vcgencmd pmic_read_adc, rails by name: V x A",
    "nvml_energy": "NVML total energy of the GPU: a counter in mJ",
}
LOCATED_BY: dict[Kind, str] = {"hwmon": "chips", "ina": "chips", "iio": "paths"}


class PowerSource(Part):
    """One way to read power.

    Attributes:
        kind: of reading; see KINDS for files and units.
        scope: what the total covers; figures of different scope are never compared.
        rails: NAME -> "total" (the total by itself), "+" (summed into the total) or "info" (recorded, never summed; may be
            missing on the device).
        chips: hwmon and ina: accepted contents of hwmon*/name.
        paths: iio: globs of the folders that hold the rails' files.
        update_ms: the sensor's refresh: a number, "read" (the driver tells it) or "measure".
        max_hz: fastest polling while a window runs.
        requires: what reading needs: "root" or "group NAME".
        excludes: what a reading does not see.
        error_percent, error_w: largest error of the sensor itself, shunt included, as its maker or a calibration states it: so
            much of the reading, plus so many watts. None: nobody says.
        negative_ok: readings below zero happen and are averaged as they are.
    """

    kind: Kind
    scope: Scope
    rails: dict[Words, Role] = Field(min_length=1)
    chips: WordList
    paths: WordList
    update_ms: Annotated[float, Field(gt=0)] | Literal["read", "measure"]
    max_hz: float = Field(gt=0, le=100)
    requires: str | None = Field(default=None, pattern=r"^(root|group [a-z][a-z0-9_-]*)$")
    excludes: WordList
    error_percent: float | None = Field(default=None, gt=0, le=50)
    error_w: float | None = Field(default=None, gt=0)
    negative_ok: bool = False
    source: Words

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reads(self) -> str:
        """What is read, with its unit."""
        return KINDS[self.kind]

    @model_validator(mode="after")
    def _consistent(self) -> PowerSource:
        for field in ("chips", "paths"):
            needed = LOCATED_BY.get(self.kind) == field
            if needed != bool(getattr(self, field)):
                raise ValueError(f'kind "{self.kind}" {"needs" if needed else "has no"} {field}')
        totals, parts = len(self.rails_of("total")), len(self.rails_of("+"))
        if totals > 1 or (totals and parts):
            raise ValueError('rails would be counted twice: one rail is "total", or the total is the sum of those marked "+"')
        return self

    def rails_of(self, role: Role) -> list[str]:
        """Names of the rails with this role."""
        return [name for name, its in self.rails.items() if its == role]

    @property
    def has_total(self) -> bool:
        """Whether it gives the device's total; a source of "info" rails alone is recorded beside the one that does."""
        return any(role != "info" for role in self.rails.values())


class Power(Part):
    """Sources in order: the first that can be read and has a total wins. Without any, the reason why.

    Attributes:
        reason, detail: why no built-in reading counts as this device's total; an external meter is then the only way.
    """

    source: list[PowerSource] = Field(default_factory=list)
    reason: Literal["no_sensor", "scope_excludes_accelerator", "unknown_rail_map"] | None = None
    detail: Words | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Power:
        if any(source.has_total for source in self.source):
            if self.reason or self.detail:
                raise ValueError("reason and detail are for devices without a [[power.source]] that has a total")
        elif not (self.reason and self.detail):
            raise ValueError("give a [[power.source]] with a total, or reason and detail why there is none")
        return self
