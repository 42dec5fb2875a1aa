"""Install what an engine needs on a device, when the user asks for it: into an environment in the agent's own folder there."""

from __future__ import annotations

from toolchain import progress
from toolchain.device.messages import Count, Message, Path_, Text, check
from toolchain.device.session import AgentSession
from toolchain.device.settings import USUAL
from toolchain.device.state_messages import Probe
from toolchain.device.target import Target
from toolchain.errors import UsageError

SILENCE_S = 180.0  # without a line and without a byte more on the device's disk
BY_PIP = (USUAL, "openvino", "ncnn")  # other runtimes come with the board's own system


class Line(Message):
    text: Text


class Grown(Message):
    bytes: Count


class Installed(Message):
    python: Path_


def missing(target: Target | None, probe: Probe, asked: str | None = None) -> list[str]:
    """Names of the packages to install; none where numpy and the runtimes are there or do not come by pip.

    The environment is made anew, so what it may hold already is named again.

    Args:
        asked: the runtime; None: the usual one and the target's default.

    Raises:
        UsageError: the one asked for does not come by pip.
    """
    if asked is not None and asked not in BY_PIP:
        fix = "toolchain doctor HOST says what the board lacks"
        raise UsageError("pip cannot install that runtime", got=f"{asked}; it can: {', '.join(BY_PIP)}", fix=fix)
    wanted = (asked,) if asked else (USUAL, target.default_runtime if target else USUAL)
    bare = probe.numpy is None
    lacking = [name for name in wanted if name in BY_PIP and (bare or not probe.runtimes.get(name))]
    if not bare and not lacking:
        return []
    return ["numpy", *(name for name in BY_PIP if name in lacking or _by_pip(name, probe))]


def _by_pip(name: str, probe: Probe) -> bool:
    """Whether it runs and may be pip's; ONNX Runtime with CUDA is the board's own build, which pip's must not cover."""
    found = probe.runtimes.get(name)
    if probe.numpy is None or found is None:
        return False
    return name != USUAL or "CUDAExecutionProvider" not in found.providers


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
