"""Which target a machine is, from what it says of itself, with the evidence in plain words.

Fields of the probe that are used: arch, compatible, board (the device tree's model), memory_total_bytes, cpu_model, cpu_flags,
accelerators, gpus; and for the description alone l4t, nvpmodel_conf, boot_control, dmi, devfreq.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from toolchain.device.state_messages import Probe
from toolchain.device.target import Target, list_targets, load_target
from toolchain.device.target_parts import MatchRule

STUB = "(nvgpu)"  # how a Jetson's nvidia-smi names its own GPU
GIB = 1 << 30


@dataclass(frozen=True)
class Fit:
    """A target that the machine can be, and why."""

    target: str
    evidence: list[str]


@dataclass(frozen=True)
class Match:
    """Targets that fit, the one with the most evidence first; and what the machine is, whether one fits or not.

    Attributes:
        near: targets whose chip or board fits but not everything, with what does not.
    """

    fits: list[Fit]
    near: list[Fit]
    device: list[str]

    @property
    def best(self) -> str | None:
        """Name of the first; None where none fits, which is a normal answer."""
        return self.fits[0].target if self.fits else None

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {"best": self.best, **asdict(self)}


@dataclass(frozen=True)
class Finding:
    """One key of [match] held against the machine."""

    holds: bool
    text: str


def match(probe: Probe, targets: Iterable[Target] | None = None) -> Match:
    """The targets, all shipped ones by default, whose [match] this machine fulfils.

    A key the machine cannot answer counts as not fulfilled. Targets without [match] are only ever named by hand.
    """
    fits, near = [], []
    for target in targets if targets is not None else map(load_target, list_targets()):
        if target.match is None:
            continue
        found = findings(target, probe)
        if all(finding.holds for finding in found):
            added = bool(target.match.accelerators or target.match.gpus)  # a board with an accelerator is more than the board
            fits.append((-len(found), not added, target.name, [finding.text for finding in found]))
        elif any(finding.holds for finding in found[1:]):  # the architecture alone is no likeness
            missing = [finding.text for finding in found if not finding.holds]
            near.append((len(missing), False, target.name, missing))
    return Match(_ranked(fits), _ranked(near), description(probe))


def _ranked(found: list[tuple[int, bool, str, list[str]]]) -> list[Fit]:
    return [Fit(name, texts) for *_, name, texts in sorted(found)]


def check(target: Target, probe: Probe) -> list[str]:
    """What the machine has that the target does not describe, in plain words; empty when it fits."""
    return [finding.text for finding in findings(target, probe) if not finding.holds]


def lacks_runtime(target: Target, probe: Probe) -> str | None:
    """Why the target's default runtime cannot run there; None when it can."""
    if probe.runtimes.get(target.default_runtime):
        return None
    return f"runtime {target.default_runtime}: {probe.unreadable.get(f'runtimes.{target.default_runtime}', 'not there')}"


def findings(target: Target, probe: Probe) -> list[Finding]:
    """Architecture first, then every key of [match]."""
    wanted = " or ".join(target.arch)
    found = [Finding(probe.arch in target.arch, _said("architecture", probe.arch, wanted, probe.arch in target.arch))]
    return found + (list(_rule(target.match, probe)) if target.match else [])


def _rule(rule: MatchRule, probe: Probe) -> Iterable[Finding]:
    compatible = probe.compatible or []
    if rule.compatible:
        yield _part_of("device tree", compatible, rule.compatible)
    if rule.soc:
        yield _part_of("chip", compatible, [rule.soc])
    if rule.model:
        yield _part_of("model", [probe.board] if probe.board else [], rule.model)
    if rule.cpu_model:
        yield _part_of("processor", [probe.cpu_model] if probe.cpu_model else [], rule.cpu_model)
    if rule.flags:
        missing = [flag for flag in rule.flags if flag not in (probe.cpu_flags or [])]
        yield Finding(
            not missing, f"processor has {', '.join(rule.flags)}" if not missing else f"processor lacks {', '.join(missing)}"
        )
    if rule.accelerators:
        yield _part_of("accelerator", probe.accelerators or [], rule.accelerators)
    if rule.gpus:
        yield _part_of("GPU", [gpu.name for gpu in probe.gpus or [] if STUB not in gpu.name], rule.gpus)
    if rule.mem_gib:
        yield _memory(rule.mem_gib, probe.memory_total_bytes)


def _part_of(what: str, texts: list[str], parts: list[str]) -> Finding:
    """Whether one of the parts stands in one of the texts."""
    for text in texts:
        if any(part in text for part in parts):
            return Finding(True, f"{what}: {text}")
    return Finding(False, _said(what, ", ".join(texts) or None, " or ".join(parts), False))


def _memory(bounds: list[int], total_bytes: int | None) -> Finding:
    lowest, highest = bounds
    found = None if total_bytes is None else round(total_bytes / GIB)
    holds = found is not None and lowest <= found <= highest
    return Finding(holds, _said("memory", None if found is None else f"{found} GiB", f"{lowest} to {highest} GiB", holds))


def _said(what: str, found: str | None, wanted: str, holds: bool) -> str:
    return f"{what}: {found}" if holds else f"{what}: {found or 'unknown'}, not {wanted}"


def description(probe: Probe) -> list[str]:
    """What the machine says of itself, as far as it can."""
    dmi = probe.dmi or {}
    boot = probe.boot_control or {}
    stub = [gpu.name for gpu in probe.gpus or []]
    lines = {
        "board": probe.board or " ".join(dmi[key] for key in ("sys_vendor", "product_name") if dmi.get(key)),
        "device tree": ", ".join(probe.compatible or []),
        "processor": probe.cpu_model,
        "memory": probe.memory_total_bytes and f"{probe.memory_total_bytes / GIB:.1f} GiB",
        "L4T": probe.l4t,
        "power modes": probe.nvpmodel_conf,
        "boot specification": boot.get("TNSPEC"),
        "accelerators": ", ".join(probe.accelerators or []),
        "GPUs": ", ".join(stub),
    }
    return [f"{name}: {text}" for name, text in lines.items() if text]
