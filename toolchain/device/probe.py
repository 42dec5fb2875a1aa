"""What a host is, asked of the agent there."""

from __future__ import annotations

from typing import Any

from toolchain.device.messages import check
from toolchain.device.remote import connect
from toolchain.device.state_messages import Probe

PROBE_S = 60.0


def probe(host: str = "local", *, python: str | None = None) -> dict[str, Any]:
    """Checked answer of the agent: CPU, memory, runtimes and their versions.

    Raises:
        DeviceError and its kinds.
    """
    with connect(host, python=python) as device, device.session() as session:
        return check(Probe, session.request("probe", timeout_s=PROBE_S)).model_dump()
