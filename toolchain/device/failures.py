"""From what a device reports, or how its process ended, to the error the user sees."""

from __future__ import annotations

import re
import signal

from toolchain import errors
from toolchain.device.channel import Ended
from toolchain.device.messages import Failure, Hello, check
from toolchain.errors import ConnectionLostError, DeviceError, ProtocolError, RuntimeMissingError

KINDS: dict[str, tuple[type[errors.ToolchainError], str, str]] = {
    "runtime_missing": (
        RuntimeMissingError,
        "something the engine needs is not installed there",
        "toolchain doctor HOST --install, or there: pip install numpy onnxruntime",
    ),
    "no_pip": (
        RuntimeMissingError,
        "nothing was installed: Python there has no pip and cannot get one",
        "there: sudo apt-get install python3-venv python3-pip",
    ),
    "no_index": (
        RuntimeMissingError,
        "nothing was installed: pip reaches no package index",
        "connect the device, set its clock, or name a mirror or a folder of wheels in its pip.conf",
    ),
    "no_wheel": (
        RuntimeMissingError,
        "nothing was installed: there is no wheel for that Python and processor",
        "name another Python with --python, or install the runtime from the maker of the board",
    ),
    "pip": (RuntimeMissingError, "nothing was installed: pip failed, or what it brought does not run", ""),
    "provider": (errors.ProviderError, "the provider asked for cannot be used", "ask for one of the providers listed"),
    "out_of_memory": (errors.OutOfMemoryError, "out of memory on the device", "close other programs, or take a smaller model"),
    "disk_full": (errors.DiskFullError, "no space left on the device", "free some space there and try again"),
    "upload": (ProtocolError, "a file did not arrive whole", "try again; check the link if it happens twice"),
    "engine": (DeviceError, "the device cannot use this engine", "check the runtime version and the export"),
    "no_cuda": (
        DeviceError,
        "no usable CUDA driver there",
        "on a Jetson it comes with JetPack; elsewhere install NVIDIA's driver; in a container: --runtime nvidia or --gpus all",
    ),
    "old_runtime": (RuntimeMissingError, "the runtime there is too old", "a newer JetPack, or --runtime onnxruntime"),
    "foreign_plan": (DeviceError, "this engine was not built there as it is", "give the ONNX graph: it is built on the device"),
    "parse": (errors.ModelError, "TensorRT cannot read the graph", "export it anew; docs/tensorrt.md says what TensorRT refuses"),
    "unsupported_op": (
        errors.ModelError,
        "TensorRT has no such operator",
        "replace the node that is named, or --runtime onnxruntime",
    ),
    "calibration": (errors.QuantizationError, "TensorRT cannot calibrate with this", "pictures or a cache of this very graph"),
    "engine_build": (DeviceError, "TensorRT did not build the engine", "toolchain selftest HOST shows what works there"),
    "deploy": (errors.DeployError, "nothing was put into service", ""),
    "smoke": (errors.DeployError, "the bundle fails its trial there", "build it on that device: toolchain build --host"),
    "busy": (errors.DeviceBusyError, "somebody else is at work there", "wait for them and try again"),
    "sensor": (DeviceError, "a power sensor cannot be read", "see toolchain doctor for what is readable"),
    "data": (errors.DataError, "the pictures do not fit the engine", "prepare them for the engine's input size"),
    "bad_request": (ProtocolError, "the agent does not understand the request", ""),
    "internal": (DeviceError, "the agent failed", ""),
}


def reported(host: str, doing: str, data: object) -> errors.ToolchainError:
    """The error for a failure that the agent reported."""
    report = check(Failure, data)
    kind, what, fix = KINDS.get(report.kind, KINDS["internal"])
    return kind(f"{host}, {doing}: {what}", got=report.text, fix=fix.replace("HOST", host))


def _other_kill(stderr: str, hello: Hello | None) -> bool:
    """Whether the kernel's count, printed by the wrapper after the death, says that it was not short of memory."""
    counted = re.findall(r"^oom_kill (\d{1,18})$", stderr, re.MULTILINE)
    return bool(counted) and hello is not None and hello.oom_kills is not None and int(counted[-1]) <= hello.oom_kills


def ended(host: str, doing: str, end: Ended, noise: bytes, hello: Hello | None = None) -> DeviceError:
    """The error for a process that ended before it answered.

    Args:
        hello: what it said at its start, if it came so far.
    """
    where = f"{host}, {doing}"
    tail = end.stderr.strip()[-1500:]
    number = end.signal if end.signal is not None else (end.status - 128 if end.status and end.status > 128 else None)
    if end.link_lost is not None:
        return ConnectionLostError(
            f"{where}: the link was cut", got=end.link_lost, fix="run the same command: what was measured is kept"
        )
    if number == signal.SIGKILL and _other_kill(end.stderr, hello):
        got = "signal 9; the kernel counts no process killed for want of memory since the agent began"
        return DeviceError(f"{where}: the process was killed by someone", got=got, fix="find out who or what kills there")
    if number == signal.SIGKILL:
        fix = "most likely the system was out of memory: close other programs, or take a smaller model"
        return errors.OutOfMemoryError(f"{where}: the process was killed", got="signal 9", fix=fix)
    if number == signal.SIGILL:
        return DeviceError(f"{where}: illegal instruction", got=tail or None, fix="install a runtime built for that processor")
    if number is not None:
        return DeviceError(f"{where}: the process was ended by signal {number}", got=tail or None)
    if end.status in (126, 127):
        return RuntimeMissingError(
            f"{where}: no usable Python there", got=tail or None, fix="install Python 3, or name it with --python"
        )
    got = tail or (f"on stdout: {noise[-300:]!r}" if noise else "no output")
    return ProtocolError(f"{where}: the process ended with status {end.status} before it answered", got=got)
