"""Tables of a target apart from its power: how it is recognised, its software, modes, sensors and clocks."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Words = Annotated[str, Field(min_length=1)]
WordList = Annotated[list[Words], Field(default_factory=list)]
L4t = Annotated[str, Field(pattern=r"^\d+(\.\d+){1,2}$")]
Megahertz = Annotated[float, Field(gt=0)]
Unit = Literal["cpu", "cpu-little", "gpu", "memory", "npu", "dla"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8", "fp4"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MatchRule(Part):
    """How the device is recognised. Every key given must hold; of a list, one entry is enough, except for `flags`.

    Attributes:
        compatible, model: parts of the device tree's texts.
        soc: part of one of the device tree's compatible texts.
        mem_gib: lowest and highest memory, GiB rounded, both included.
        cpu_model: parts of the processor's name.
        flags: processor features, all of them.
        accelerators: parts of the names of accelerators found.
        gpus: parts of the names that nvidia-smi gives.
    """

    compatible: WordList
    soc: Words | None = None
    model: WordList
    mem_gib: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    cpu_model: WordList
    flags: WordList
    accelerators: WordList
    gpus: WordList

    @model_validator(mode="after")
    def _consistent(self) -> MatchRule:
        if not (self.compatible or self.soc or self.model or self.cpu_model or self.accelerators or self.gpus):
            raise ValueError("names nothing that tells one device from another: give compatible, soc, model, cpu_model, ...")
        if self.mem_gib and self.mem_gib[0] > self.mem_gib[1]:
            raise ValueError("mem_gib is lowest, highest")
        return self


class Published(Part):
    """A latency that somebody else measured there at batch 1.

    Attributes:
        network: with the side of its picture, such as "YOLOv8n, 640 px". Figures of one network and precision are compared.
        source: who, and what was timed.
    """

    runtime: Name
    network: Words
    precision: Precision
    latency_ms: Annotated[float, Field(gt=0)]
    source: Words


class Stack(Part):
    """One release of the device's software, with the versions that come with it or that it can take.

    Attributes:
        name: of the release, such as "JetPack 6.2".
        l4t: its first and last version of L4T (Jetson); "38.2" stands for all 38.2.x.
        versions: of python, cuda, cudnn and the runtimes, as far as known; of onnxruntime, the last wheel that Python takes.
    """

    name: Words
    l4t: Annotated[list[L4t], Field(min_length=2, max_length=2)] | None = None
    versions: dict[Name, Words]
    source: Words

    def covers(self, l4t: str) -> bool:
        """Whether this version of L4T belongs to the release."""
        if self.l4t is None:
            return False
        found, (first, last) = _numbers(l4t), (_numbers(bound) for bound in self.l4t)
        return first <= found[: len(first)] and found[: len(last)] <= last


class Mode(Part):
    """Power modes and the pin of the clocks. Modes go by name: their numbers change between releases.

    Attributes:
        tool: that sets the mode; None where the device has no modes.
        names: known, over all releases; with or without a leading MODE_ is the same.
        default: the one a fresh device starts in.
        prefer: for measuring, best first.
        reboot: those known to need a reboot.
        pin: what holds the clocks still.
        verify: what must hold once pinned.
    """

    tool: Literal["nvpmodel"] | None = None
    names: WordList
    default: Words | None = None
    prefer: WordList
    reboot: WordList
    pin: Literal["jetson_clocks", "governor", "nvidia-smi"]
    verify: list[Literal["cpu_min_eq_max", "gpu_min_eq_max", "npu_min_eq_max", "governor_performance"]] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Mode:
        if (self.tool is None) != (not self.names):
            raise ValueError("names of modes need a tool that sets them, and a tool needs names")
        for field, given in (
            ("default", [self.default] if self.default else []),
            ("prefer", self.prefer),
            ("reboot", self.reboot),
        ):
            if unknown := [name for name in given if name not in self.names]:
                raise ValueError(f"{field} has {', '.join(unknown)}, which names does not list")
        return self


class Throttle(Part):
    """One sign that the device slowed itself down.

    Attributes:
        kind: "cooling": a cooling device with cur_state above 0; "counter": a file whose number grew; "flags": a file or
            program whose set bits say so.
        type: cooling: glob of cooling_device*/type.
        hwmon, files: counter and flags: content of hwmon*/name, and globs of files in that folder.
        paths: counter and flags: globs of files instead.
        program: flags: what answers, where no file does.
        bits: flags: number of the bit -> meaning; without it, any value but 0 is a sign.
        sticky: numbers of those bits that stay set until the next boot.
        fatal: a measurement in which it happened is invalid; else it is noted.
    """

    kind: Literal["cooling", "counter", "flags"]
    type: Words | None = None
    hwmon: Words | None = None
    files: WordList
    paths: WordList
    program: Literal["vcgencmd get_throttled", "nvidia-smi clocks_throttle_reasons"] | None = None
    bits: dict[Annotated[str, Field(pattern=r"^\d{1,2}$")], Words] = {}
    sticky: list[Annotated[int, Field(ge=0, le=63)]] = []
    fatal: bool
    source: Words

    @model_validator(mode="after")
    def _consistent(self) -> Throttle:
        if (self.kind == "cooling") != (self.type is not None):
            raise ValueError('"type" belongs to kind "cooling", which needs it')
        if (self.hwmon is None) != (not self.files):
            raise ValueError("hwmon and files go together")
        if self.kind != "cooling" and not (self.hwmon or self.paths or self.program):
            raise ValueError(f'kind "{self.kind}" needs hwmon and files, paths or program')
        if self.kind != "flags" and (self.program or self.bits or self.sticky):
            raise ValueError('program, bits and sticky belong to kind "flags"')
        if unknown := [bit for bit in self.sticky if str(bit) not in self.bits]:
            raise ValueError(f"sticky has {unknown}, which bits does not name")
        return self


class Sensors(Part):
    """What tells the device's state.

    Attributes:
        gpu_devfreq, npu_devfreq, memory_devfreq: names under /sys/class/devfreq, the first that exists is the unit's.
        thermal: types of the thermal zones to expect, or hwmon names of the processor's temperature.
        thermal_ignore: parts of the types of zones that mean nothing.
        throttle: signs that the device slowed itself down.
    """

    gpu_devfreq: WordList
    npu_devfreq: WordList
    memory_devfreq: WordList
    thermal: WordList
    thermal_ignore: WordList
    throttle: list[Throttle] = []


class ClockFile(Part):
    """A clock that is neither cpufreq's nor devfreq's: a file in Hz."""

    unit: Unit
    paths: list[Words] = Field(min_length=1)
    requires: Literal["root"] | None = None
    source: Words


class Clocks(Part):
    """Highest clocks, and files of clocks that need them.

    Attributes:
        max_mhz: unit -> highest clock in the device's fastest mode.
    """

    max_mhz: dict[Unit, Megahertz] = {}
    file: list[ClockFile] = []


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
