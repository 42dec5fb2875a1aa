"""The device made ready for a measurement, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from toolchain.device.conditions import Conditions
from toolchain.device.lock import hold
from toolchain.device.machine import Device
from toolchain.device.modes import heal, power_mode, tell
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.device.target import Target


@contextmanager
def prepared(device: Device, on: On, target: Target | None, conditions: Conditions) -> Iterator[AgentSession]:
    """A session that watches the device, while the device is ours and in the mode asked for.

    Raises:
        DeviceBusyError: somebody else measures there.
        PowerModeError, UnknownNameError: the mode or the clocks asked for cannot be had, or not be put back.
    """
    asked = conditions.power_mode is not None or conditions.pin_clocks
    with device.session() as watcher:
        hold(watcher, wait_s=on.wait_s)
        if not asked and (left := heal(watcher)):  # what a power cut in another benchmark left; power_mode looks by itself
            tell(device.name, left)
        with power_mode(device, target, conditions.power_mode, conditions.pin_clocks) if asked else nullcontext():
            yield watcher
