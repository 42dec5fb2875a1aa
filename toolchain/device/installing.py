"""Install what an engine needs on a device, when the user asks for it: into an environment in the agent's own folder there."""

from __future__ import annotations

from toolchain import progress
from toolchain.device.messages import Count, Message, Path_, Text, check
from toolchain.device.session import AgentSession
from toolchain.device.state_messages import Probe
from toolchain.device.target import Target

SILENCE_S = 180.0  # without a line and without a byte more on the device's disk
USUAL = "onnxruntime"  # what commands run where no --runtime is given
BY_PIP = (USUAL, "ncnn", "openvino")  # other runtimes come with the board's own system


class Line(Message):
    text: Text


class Grown(Message):
    bytes: Count


class Installed(Message):
    python: Path_


def missing(target: Target | None, probe: Probe) -> list[str]:
    """Names of the packages to install: numpy, the usual runtime and, where pip has it, the target's default one; none where they
    are there.
    """
    wanted = [name for name in dict.fromkeys((USUAL, target.default_runtime if target else USUAL)) if name in BY_PIP]
    if probe.numpy is not None and all(probe.runtimes.get(name) for name in wanted):
        return []
    return ["numpy", *wanted]


def install(session: AgentSession, packages: list[str]) -> str:
    """Make the environment anew with these packages in it; what pip says is shown. The device must be ours.

    Returns:
        path of its Python on the device.

    Raises:
        RuntimeMissingError: no pip, no package index, no wheel; DiskFullError; nothing is left of the try then.
        DeviceError and its other kinds.
    """

    def show(event: str, data: object) -> None:
        if event == "line":
            progress.note(f"  {check(Line, data).text}")
        else:
            progress.note(f"  {check(Grown, data).bytes / 1e6:.0f} MB on the disk")

    progress.note(f"  {session.host}: installing {', '.join(packages)} into the agent's own folder")
    answer = session.request("install", timeout_s=SILENCE_S, on_event=show, packages=packages)
    return check(Installed, answer).python
