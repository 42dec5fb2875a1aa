"""What a device has to run engines with, and whether it really can run one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain.device.conversion import place
from toolchain.device.engine_messages import BuildAnswer
from toolchain.device.installing import BY_PIP
from toolchain.device.lock import hold
from toolchain.device.messages import check
from toolchain.device.probe import probe
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.device.target import load_target
from toolchain.errors import ConnectionLostError, DeviceBusyError, DeviceError, RemoteTimeoutError, RuntimeMissingError
from toolchain.export.ncnn import program as pnnx

COMPARED = {  # runtime -> its providers worth comparing, the usual one first; others are asked for by name
    "onnxruntime": ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"),
    "openvino": ("CPU", "GPU"),
    "ncnn": ("cpu",),
    "tensorrt": ("gpu:precision=fp16",),
}
LOAD_S = 600.0


def runtimes_there(on: On) -> list[On]:
    """`on` with each runtime and provider that the device says it has, ONNX Runtime first.

    Raises:
        RuntimeMissingError: it has none.
        DeviceError and its kinds.
    """
    found = probe(on.host, python=on.python)
    there = [
        replace(on, runtime=runtime, provider=provider)
        for runtime, providers in COMPARED.items()
        for provider in providers
        if provider.split(":")[0] in (found["runtimes"].get(runtime) or {}).get("providers", ())
    ]
    if not there:
        reasons = "; ".join(text for key, text in found["unreadable"].items() if key.startswith("runtimes."))
        fix = f"toolchain doctor {on.host} --install"
        raise RuntimeMissingError(f"{on.host}: no runtime there can run an engine", got=reasons, fix=fix)
    return there


def check_there(on: On) -> dict[str, Any]:
    """Before long work: the device answers and has the runtime, and this machine has what makes its engines.

    Returns:
        what the device says it is.

    Raises:
        RuntimeMissingError: the runtime is not there; the usual one may be.
        UsageError: pnnx is not installed here.
        DeviceError and its kinds.
    """
    found = probe(on.host, python=on.python)
    if not found["runtimes"].get(on.runtime):
        why = found["unreadable"].get(f"runtimes.{on.runtime}", "not there")
        whose = f", the default of {on.target}" if on.target and on.runtime == load_target(on.target).default_runtime else ""
        others = [name for name in COMPARED if found["runtimes"].get(name)]
        fix = "it comes with the board's system"
        if on.runtime in BY_PIP:
            fix = f"toolchain doctor {on.host} --install --runtime {on.runtime}"
        fix += f"; or --runtime {others[0]}, which is there" if others else ""
        raise RuntimeMissingError(f"{on.host}: no {on.runtime} there{whose}", got=str(why).splitlines()[0], fix=fix)
    if on.runtime == "ncnn":
        pnnx()
    return found


def refusal(engine: Path, on: On, *, imgsz: int | None = None) -> str | None:
    """Load an engine and run it once, in a process of its own: why it cannot run so; None where it did.

    Raises:
        DeviceError and its kinds, where the device or the link is at fault.
    """
    with connect(on.host, python=on.python) as device, device.session() as session:
        hold(session, wait_s=on.wait_s)
        fields: dict[str, Any] = {**on.engine_fields(), "imgsz": imgsz}
        try:
            check(
                BuildAnswer,
                session.request("build", timeout_s=LOAD_S, path=place(session, engine, fields, on.calibration), **fields),
            )
        except (ConnectionLostError, RemoteTimeoutError, DeviceBusyError):
            raise
        except DeviceError as error:
            return str(error.got or error.what).splitlines()[0]
    return None
