"""What a device says about the state it is in, and what it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from toolchain.device.messages import Count, Message, Text


class Clock(Message):
    """One clock, MHz; None where the device does not tell.

    Attributes:
        cur_mhz: what the kernel steers by.
        measured_mhz: what runs (cpuinfo_cur_freq); over-current dips show only here.
        source: folder or file it was read from.
    """

    min_mhz: FiniteFloat | None
    max_mhz: FiniteFloat | None
    cur_mhz: FiniteFloat | None
    measured_mhz: FiniteFloat | None
    governor: Text | None
    source: Text

    @property
    def pinned(self) -> bool:
        """Held at one frequency."""
        return self.min_mhz is not None and self.min_mhz == self.max_mhz


class Throttle(Message):
    """One sign that the device slowed itself down.

    Attributes:
        kind: "live": above 0 means now; "count": only grows, what happened between two readings.
        fatal: a measurement in which it happened is invalid; else it is noted.
    """

    kind: Literal["live", "count"]
    value: int
    fatal: bool
    source: Text


class PowerMode(Message):
    name: Text
    id: Count
    source: Text


class Fan(Message):
    pwm: Count | None
    mode: int | None
    rpm: Count | None


class Busy(Message):
    """A process that is not ours; 100 % is one core."""

    pid: Count
    name: Text
    cpu_percent: FiniteFloat


class Holder(Message):
    """A process that is not ours and holds an accelerator."""

    pid: Count
    name: Text
    device: Text


class State(Message):
    """What may change during a measurement; None with a reason in `unreadable`.

    Attributes:
        clocks: by unit and name, such as "cpu policy0", "gpu 17000000.gpu", "memory emc", "npu fdab0000.npu".
        temperature_c: by type and zone. A zone that does not answer is in `unreadable` as "temperature_c.ZONE", never 0.
        throttle: by name; see Throttle.
        cooling: state of every cooling device, fans among them.
        turbo: whether the processor may run above its base clock.
        supply_ma: what a Raspberry Pi 5's supply agreed to give.
        pcie_links: of accelerators on PCIe, as "8.0 GT/s PCIe x1".
        disk_free_bytes: where the agent's folder is.
        busy: others that took most of the processor while it looked.
        disturbing: running programs known to disturb, such as jtop or a desktop.
        agents: other agents of this toolchain.
        accelerator_users: others that hold an accelerator.
    """

    time_unix: FiniteFloat | None
    monotonic_s: FiniteFloat | None
    boot_id: Text | None
    power_mode: PowerMode | None
    governor: Text | None
    turbo: bool | None
    clocks: dict[Text, Clock] | None
    temperature_c: dict[Text, FiniteFloat] | None
    throttle: dict[Text, Throttle] | None
    cooling: dict[Text, int] | None
    fans: dict[Text, Fan] | None
    supply_ma: Count | None
    on_battery: bool | None
    pcie_links: dict[Text, Text] | None
    load_average: list[FiniteFloat] | None
    memory_free_bytes: Count | None
    swap_free_bytes: Count | None
    swap_total_bytes: Count | None
    disk_free_bytes: Count | None
    busy: list[Busy] = Field(max_length=100)
    disturbing: list[Text]
    agents: Count
    accelerator_users: list[Holder] | None
    unreadable: dict[Text, Text]


class RuntimeInfo(Message):
    version: Text
    providers: list[Text]
    precisions: list[Text]


class Gpu(Message):
    name: Text
    uuid: Text | None


class Probe(Message):
    """What a machine is; None with a reason in `unreadable`.

    Attributes:
        executable: path of the Python that runs there.
        board: the device tree's model.
        compatible: the device tree's compatible texts.
        l4t: NVIDIA's release, such as "36.4.3".
        nvpmodel_conf: file the power modes come from.
        boot_control: NVIDIA's TNSPEC and COMPATIBLE_SPEC.
        dmi: sys_vendor, product_name, board_name of a PC.
        virtual: what says that it is a virtual machine; None when nothing does.
        emulated: what says that its processor is emulated, so that no timing is a board's; None when nothing does.
        devfreq: devices with a clock of their own.
        accelerators: device files and names of accelerators, such as "hailo0".
        gpus: as nvidia-smi gives them; a Jetson's stub is named with "(nvgpu)".
        power_modes: name -> number of nvpmodel's modes.
        packages: versions of NVIDIA's, Hailo's and CUDA's software.
    """

    python: Text | None
    executable: Text | None = None
    numpy: Text | None
    arch: Text | None
    kernel: Text | None
    hostname: Text | None
    board: Text | None
    compatible: list[Text] | None
    l4t: Text | None
    nvpmodel_conf: Text | None
    power_modes: dict[Text, Count] | None
    boot_control: dict[Text, Text] | None
    dmi: dict[Text, Text] | None
    virtual: Text | None
    emulated: Text | None
    devfreq: list[Text] | None
    accelerators: list[Text] | None
    gpus: list[Gpu] | None
    packages: dict[Text, Text] | None
    cpu_model: Text | None
    cpu_flags: list[Text] | None
    cores: Count | None
    memory_total_bytes: Count | None
    disk_free_bytes: Count | None
    runtimes: dict[Text, RuntimeInfo | None]
    state: State
    unreadable: dict[Text, Text]
