"""Take away what the agent has left on a device: its own folder, and nothing else."""

from __future__ import annotations

from typing import Any

from toolchain.device.lock import hold
from toolchain.device.messages import Count, Message, Text, check
from toolchain.device.remote import connect
from toolchain.device.settings import HERE, On

CLEAN_S = 300.0


class Removed(Message):
    files: Count
    bytes: Count


class Cleaned(Message):
    """What went: by kind, with what was left there because it is not the agent's."""

    folder: Text
    removed: dict[Text, Removed]
    left: list[Text]

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON, with the sum."""
        return {**self.model_dump(), "bytes": sum(one.bytes for one in self.removed.values())}


def clean(on: On = HERE) -> Cleaned:
    """Remove the agent's folder from a device. Deployed models are not in it.

    Raises:
        DeviceBusyError: someone is at work there.
        DeviceError and its kinds.
    """
    with connect(on.host, python=on.python) as device, device.session() as session:
        hold(session, wait_s=on.wait_s)
        return check(Cleaned, session.request("clean", timeout_s=CLEAN_S))
