"""Whether a bundle was built for a machine like this one: asked before anything is sent there or loaded."""

from __future__ import annotations

from typing import Any

from toolchain.device.manifest import Conversion, Manifest
from toolchain.device.precision import FIRST_STRONG, major, precision_of
from toolchain.device.state_messages import Probe
from toolchain.errors import DeployError, ProviderError, RuntimeMissingError

BOUND_TO = ("compatible", "l4t", "gpus", "cpu_model")  # what a compiled engine depends on; a portable one (ONNX) does not


def refuse_unfit(manifest: Manifest, probe: Probe, host: str) -> None:
    """Refuse a bundle that was built for another kind of machine. One whose engine is built on each device is not: it is built
    anew.

    Raises:
        RuntimeMissingError: its runtime or numpy is missing, or the runtime has another version.
        ProviderError: its provider is not there.
        DeployError: another architecture, or, for an engine compiled for one kind of device, another device.
    """
    rebuild, own = f"build it there: toolchain build {manifest.source} --host {host}", manifest.conversion
    if own is None and manifest.device.get("arch") != probe.arch:
        got = f"built for {manifest.device.get('arch')}, {host} is {probe.arch}"
        raise DeployError("the bundle is for another architecture", got=got, fix=rebuild)
    used, there = manifest.runtime, probe.runtimes.get(manifest.runtime.name)
    for name, missing in ((used.name, there is None), ("numpy", probe.numpy is None)):
        if missing:
            why = probe.unreadable.get(f"runtimes.{name}", probe.unreadable.get(name))
            fix = f"pip install {name} there, or name the Python that has it with --python"
            raise RuntimeMissingError(f"{host}: {name} is not installed there", got=why, fix=fix)
    assert there is not None
    if own is not None:
        _refuse_weak_typing(own, there.version, host, rebuild)
    elif there.version != used.version:
        got = f"built and tried with {used.version}, {host} has {there.version}"
        raise RuntimeMissingError(f"another version of {used.name}", got=got, fix=f"{rebuild}; or install {used.version} there")
    if used.provider.split(":")[0] not in there.providers:
        got = f"{used.provider}; there are {', '.join(there.providers)}"
        raise ProviderError(f"{host}: the bundle's provider is not there", got=got, fix=rebuild)
    if own is None and manifest.engine != manifest.source:
        now = probe.model_dump()
        for key in BOUND_TO:
            if _kind(manifest.device.get(key)) != _kind(now[key]):
                got = f"{key} {_kind(manifest.device.get(key))}, {host} has {_kind(now[key])}"
                raise DeployError("the engine was compiled for another device", got=got, fix=rebuild)


def _refuse_weak_typing(own: Conversion, version: str, host: str, fix: str) -> None:
    """TensorRT 11 has no flags that choose precisions."""
    if precision_of(own.provider) != "graph" and major(version) >= FIRST_STRONG:
        got = f"built by flags of {own.provider}, {host} has TensorRT {version}, where the graph itself must say its types"
        raise DeployError("the bundle's engine cannot be built there", got=got, fix=fix)


def _kind(value: Any) -> Any:
    """Two devices of one kind are equal: serial numbers are left out."""
    return [one["name"] if isinstance(one, dict) else one for one in value] if isinstance(value, list) else value
