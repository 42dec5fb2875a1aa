"""Engines in several runtimes: each of them in each that a device has, or that was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain import progress
from toolchain.device.forms import for_runtime
from toolchain.device.recover import recover
from toolchain.device.runtimes import COMPARED, refusal, runtimes_there
from toolchain.device.settings import On
from toolchain.errors import ExportError, UsageError

ALL = "all"


@dataclass(frozen=True)
class Spread:
    """Engines times runtimes.

    Attributes:
        files: label -> what is loaded.
        ons: label -> the runtime and provider that load it.
        left_out: what was not compared, with the reason; only where all runtimes were asked for.
    """

    files: dict[str, Path]
    ons: dict[str, On]
    left_out: tuple[str, ...] = ()


def spread(engines: Mapping[str, Path], runtimes: Sequence[str], on: On, out: Path, *, imgsz: int | None = None) -> Spread:
    """Every engine in every runtime asked for.

    Args:
        engines: label -> graph.
        runtimes: names; with "all", every one the device has, and what cannot run there is left out, with the reason.

    Returns:
        labels are the engine's where there is one runtime, else LABEL.RUNTIME, or LABEL.RUNTIME-PROVIDER for one that is not the
        runtime's usual.

    Raises:
        UsageError: a runtime twice, "all" beside others, or nothing is left.
        ExportError: a graph cannot have the form that a runtime named needs.
        DeviceError and its kinds.
    """
    everything = ALL in runtimes
    if len(set(runtimes)) < len(runtimes) or (everything and len(runtimes) > 1):
        raise UsageError("runtimes: each once, or all", got=", ".join(runtimes))
    ons = recover(lambda: runtimes_there(on), on) if everything else _named(runtimes, on)
    found, left_out = Spread({}, {}), []
    for label, engine in engines.items():
        for each in ons:
            name = label if len(ons) == 1 else f"{label}.{_suffix(each)}"
            try:
                file = for_runtime(engine, each, out / label)
                why = recover(lambda file=file, each=each: refusal(file, each, imgsz=imgsz), each) if everything else None  # type: ignore[misc]
            except ExportError as error:
                if not everything:
                    raise
                why = error.what
            if why is None:
                found.files[name], found.ons[name] = file, each
            else:
                left_out.append(f"not compared: {name}: {why}")
                progress.note(f"  {left_out[-1]}")
    if not found.files:
        raise UsageError("no runtime there can run any of the engines", got="; ".join(left_out))
    return replace(found, left_out=tuple(left_out))


def _named(runtimes: Sequence[str], on: On) -> list[On]:
    """One `On` a runtime, with its usual provider where there are several; one alone keeps the provider asked for."""
    if list(runtimes) == [on.runtime]:
        return [on]
    return [replace(on, runtime=name, provider="") for name in runtimes]


def _suffix(on: On) -> str:
    usual = COMPARED[on.runtime][0] == on.provider
    return on.runtime if usual else f"{on.runtime}-{re.sub(r'[^A-Za-z0-9]+', '-', on.provider).strip('-')}"
