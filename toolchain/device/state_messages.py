"""What a device says about itself: what it is, and the state it is in."""

from __future__ import annotations

from pydantic import FiniteFloat

from toolchain.device.messages import Count, Message, Text


class State(Message):
    """What may change during a measurement; None with a reason in `unreadable`."""

    time_unix: FiniteFloat | None
    boot_id: Text | None
    load_average: list[FiniteFloat] | None
    memory_free_bytes: Count | None
    governor: Text | None
    clock_mhz: dict[Text, FiniteFloat] | None
    temperature_c: dict[Text, FiniteFloat] | None
    throttle_counts: dict[Text, int] | None
    unreadable: dict[Text, Text]


class RuntimeInfo(Message):
    version: Text
    providers: list[Text]
    precisions: list[Text]


class Probe(Message):
    """What a machine is; None with a reason in `unreadable`."""

    python: Text | None
    numpy: Text | None
    arch: Text | None
    kernel: Text | None
    hostname: Text | None
    board: Text | None
    cpu_model: Text | None
    cpu_flags: list[Text] | None
    cores: Count | None
    memory_total_bytes: Count | None
    disk_free_bytes: Count | None
    runtimes: dict[Text, RuntimeInfo | None]
    state: State
    unreadable: dict[Text, Text]
