"""Examine a host: what it is, what it runs, the state it is in, and what would make a measurement there untrustworthy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from toolchain import progress
from toolchain.device import clock_offset, installing, lock, match, modes
from toolchain.device.ailments import Finding, findings
from toolchain.device.clock_offset import ClockOffset
from toolchain.device.host import parse_host
from toolchain.device.match import Match
from toolchain.device.messages import check
from toolchain.device.modes import Healed
from toolchain.device.power_messages import PowerProbe
from toolchain.device.remote import connect
from toolchain.device.session import AgentSession
from toolchain.device.state_messages import Probe, State
from toolchain.device.target import Target, load_target
from toolchain.errors import DeviceBusyError

PROBE_S = 60.0
POWER_S = 0.3  # of reading each source
OWN = "host-cpu"


@dataclass(frozen=True)
class PowerReading:
    """One of the target's power sources, and whether it can be read.

    Attributes:
        last: of each rail, W or J as `unit` says; empty when not readable.
        detail, fix: why not, and what mends it; empty when readable.
    """

    kind: str
    scope: str
    readable: bool
    unit: str = ""
    last: dict[str, float | None] = field(default_factory=dict)
    refresh_s: float | None = None
    detail: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Examination:
    """All that was found.

    Attributes:
        target: the one named, else the one that fits best; None where none fits.
        named: whether the target was named.
        mismatches: what the machine has that the named target does not describe.
        no_runtime: why the target's runtime cannot run there; None when it can.
        release: the target's software release that is installed, such as "JetPack 6.2".
        power: the target's sources in order.
        no_power: why no source gives the device's total.
        healed: what an unclean end had left of a power mode and was put back now.
        busy: who has the device; None when nobody.
        installed: the Python there into whose environment what was missing was installed now; None when nothing was.
    """

    host: str
    target: str | None
    named: bool
    match: Match
    mismatches: list[str]
    no_runtime: str | None
    release: str | None
    probe: Probe
    state: State
    clock: ClockOffset
    power: list[PowerReading]
    no_power: str | None
    healed: Healed | None
    busy: str | None
    findings: list[Finding] = field(default_factory=list)
    installed: str | None = None

    @property
    def fit(self) -> bool:
        """Whether a measurement there can be trusted now."""
        return not any(finding.severity == "unfit" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("probe", "state", "match", "healed")}
        return {
            **plain, "fit": self.fit, "match": self.match.to_json(), "probe": self.probe.model_dump(exclude={"state"}),
            "state": self.state.model_dump(), "healed": self.healed.model_dump() if self.healed else None,
        }  # fmt: skip


def examine(
    host: str = "local", target: str | None = None, *, python: str | None = None, install: bool = False,
    runtime: str | None = None,
) -> Examination:  # fmt: skip
    """Look at a host without changing it; only a power mode that an unclean end left behind is put back.

    Args:
        target: what it ought to be, a name or a TOML file; None: the target that fits is taken.
        install: before, put numpy and the runtime, where they are missing, into an environment in the agent's own folder there.

        runtime: to install; None: the target's.

    Raises:
        UnknownNameError, ConfigError: the target.
        UsageError: a runtime that pip cannot install.
        DeviceError and its kinds: the host cannot be asked, or nothing could be installed.
    """
    asked = load_target(target) if target is not None else None
    installed = _install(host, asked, python, runtime) if install else None
    if installed is not None:
        python = installed if parse_host(host).local else None  # over SSH it is now the one taken by itself
    with connect(host, python=python) as device, device.session() as session:
        busy = _busy(session)
        healed = modes.heal(session) if busy is None else None
        probe = check(Probe, session.request("probe", timeout_s=PROBE_S))
        found = match.match(probe)
        taken = asked or _fitting(found, probe, own=device.name == "local")
        state = _state(session, taken)
        clock = clock_offset.measure(session)
        power = _power(session, taken) if taken is not None and busy is None else []
    exam = Examination(
        host=device.name,
        target=taken.name if taken else None,
        named=asked is not None,
        match=found,
        mismatches=match.check(asked, probe) if asked else [],
        no_runtime=match.lacks_runtime(taken, probe) if taken else None,
        release=_release(taken, probe),
        probe=probe,
        state=state,
        clock=clock,
        power=power,
        no_power=_no_power(taken, power, busy),
        healed=healed,
        busy=busy,
        installed=installed,
    )
    exam.findings.extend(findings(exam, taken))
    return exam


def _install(host: str, asked: Target | None, python: str | None, runtime: str | None) -> str | None:
    """What is missing for the target, or of the runtime; None when nothing was."""
    with connect(host, python=python) as device, device.session() as session:
        lock.hold(session)
        probe = check(Probe, session.request("probe", timeout_s=PROBE_S))
        target = asked or _fitting(match.match(probe), probe, own=device.name == "local")
        packages = installing.missing(target, probe, runtime)
        if packages:
            return installing.install(session, packages)
        progress.note(f"  {device.name}: nothing to install for {probe.executable}")
    return None


def _fitting(found: Match, probe: Probe, *, own: bool) -> Target | None:
    """The target that fits best; this machine itself, where no board fits, is `host-cpu`."""
    if found.best:
        return load_target(found.best)
    here = load_target(OWN)
    return here if own and not match.check(here, probe) else None


def _busy(session: AgentSession) -> str | None:
    """Who has the device; where nobody has, it is ours for the examination."""
    try:
        lock.hold(session)
    except DeviceBusyError as error:
        return str(error.got)
    return None


def _state(session: AgentSession, target: Target | None) -> State:
    sensors = target.sensors.model_dump() if target and target.sensors else None
    clocks = target.clocks.model_dump() if target and target.clocks else None
    return check(State, session.request("state", timeout_s=PROBE_S, sensors=sensors, clocks=clocks))


def _power(session: AgentSession, target: Target) -> list[PowerReading]:
    sources = target.power.source
    if not sources:
        return []
    asked = [source.model_dump() for source in sources]
    answers = check(PowerProbe, session.request("power_probe", timeout_s=PROBE_S, sources=asked, seconds=POWER_S)).sources
    readings = []
    for source, answer in zip(sources, answers, strict=False):
        if answer.readable:
            reading = PowerReading(source.kind, source.scope, True, answer.unit, dict(answer.last), answer.refresh_s)
        else:
            reading = PowerReading(source.kind, source.scope, False, detail=f"{answer.reason}: {answer.detail}", fix=answer.fix)
        readings.append(reading)
    return readings


def _no_power(target: Target | None, power: list[PowerReading], busy: str | None) -> str | None:
    """Why energy would be "not measured"; None when it would be."""
    if target is None:
        return "no target: which rails make the total of an unknown board is not known"
    if target.power.reason is not None:
        return f"{target.power.reason}: {target.power.detail}"
    if busy is not None:
        return "not tried while the device is in use"
    totals = [reading for reading, source in zip(power, target.power.source, strict=False) if source.has_total]
    if any(reading.readable for reading in totals):
        return None
    return "; ".join(dict.fromkeys(reading.detail for reading in totals)) or "no source answered"


def _release(target: Target | None, probe: Probe) -> str | None:
    if target is None or probe.l4t is None:
        return None
    return next((stack.name for stack in target.stack if stack.covers(probe.l4t)), None)
