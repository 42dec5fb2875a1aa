"""Plans between a device and this machine: fetched with the JSON that says where they are at home, and brought back there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.device.messages import Count, Message, Path_, Sha256, check
from toolchain.device.session import AgentSession
from toolchain.errors import ConnectionLostError, ProtocolError, UsageError

SUFFIX = ".plan"
COPY_S = 300.0


class Output(Message):
    """A file that the device holds ready."""

    path: Path_
    sha256: Sha256
    size: Count


class Fetched(Message):
    about: Output
    engine: Output | None = None


class Adopted(Message):
    path: Path_


def about_of(plan: Path) -> Path:
    """The JSON that belongs to a plan."""
    return plan.with_suffix(".json")


def fetch(session: AgentSession, remote: str, runtime: str, plan: Path, *, sha256: str, whole: bool = True) -> None:
    """A plan that was built there, and its JSON beside it; both appear whole and checked.

    Args:
        remote: where it is kept on the device.
        plan: file to write.
        sha256: what the device said of it when it was built.
        whole: False: only the JSON.

    Raises:
        ProtocolError: the device has another plan now.
        DeviceError and its kinds.
    """
    parts = ["about", "engine"] if whole else ["about"]
    found = check(Fetched, session.request("fetch", timeout_s=COPY_S, runtime=runtime, path=remote, parts=parts))
    if whole and (found.engine is None or found.engine.sha256 != sha256):
        raise ProtocolError("the device has another plan than the one it built", got=found.engine, fix="build it again")
    for output, local in ((found.about, about_of(plan)), (found.engine, plan)):
        if output is not None and not session.get(output.path, local, size=output.size, sha256=output.sha256):
            raise ConnectionLostError(f"{session.host} no longer has the plan it built", fix="give the same command again")


def bring(session: AgentSession, plan: Path, fields: Mapping[str, Any]) -> str:
    """A plan back to a device, which keeps it only where it is at home.

    Returns:
        its path there.

    Raises:
        UsageError: nothing says where it was built.
        DeviceError: it was built on another kind of device, or was changed.
    """
    if not about_of(plan).is_file():
        fix = "give the bundle's folder, or the ONNX graph: it is built on the device"
        raise UsageError("a plan without the file that says where it was built", got=plan, fix=fix)
    path, about = session.put(plan), session.put(about_of(plan))
    return check(Adopted, session.request("adopt", timeout_s=COPY_S, runtime=fields["runtime"], path=path, about=about)).path
