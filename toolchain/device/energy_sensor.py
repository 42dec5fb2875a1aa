"""Which of a target's power sources is read, and how fast: the refresh is looked for on the device, under a changing load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.device.messages import check
from toolchain.device.power_messages import LoadAnswer, PhaseBegins, PowerProbe, Readable, Reader, Sampled
from toolchain.device.session import AgentSession
from toolchain.device.target import Target
from toolchain.device.target_power import PowerSource
from toolchain.errors import ConnectionLostError, DeviceError, DiskFullError, ProtocolError, RemoteTimeoutError, UnreachableError
from toolchain.measurement.energy_result import EnergyResult, not_measured
from toolchain.measurement.energy_window import Sensor

PROBE_S = 0.3
SWING_S = (0.7, 0.6)  # load and rest: no usual refresh divides them, so the reading changes at nearly every refresh
PROBE_HZ = 100.0
SLOW_KINDS = ("vcgencmd_pmic",)  # one process a reading
NEAR = 0.1


class SamplerError(DeviceError):
    """The process that samples failed; the load and the link did not."""


@contextmanager
def sampling() -> Iterator[None]:
    """What goes wrong inside is the sampler's failure, unless it is the link's or the disk's."""
    try:
        yield
    except (ConnectionLostError, RemoteTimeoutError, UnreachableError, DiskFullError):
        raise
    except DeviceError as error:
        raise SamplerError(error.what, got=error.got, fix=error.fix) from error


@dataclass(frozen=True)
class Chosen:
    """A source that can be read, and what is known of it."""

    source: PowerSource
    reader: Reader
    refresh_s: float | None
    flags: tuple[str, ...] = ()

    @property
    def interval_s(self) -> float:
        """Time between readings in a window: half the refresh, or what the source allows."""
        return max((self.refresh_s or 0.0) / 2, 1.0 / self.source.max_hz)

    @property
    def lag_s(self) -> float:
        """How late its readings are, over time."""
        return (self.refresh_s or 0.0) if self.reader.averages else 0.0

    @property
    def total_rails(self) -> tuple[str, ...]:
        """Rails of the total."""
        return tuple(name for name, role in self.source.rails.items() if role != "info")

    def sensor(self) -> Sensor:
        """What the arithmetic needs to know."""
        steps = [self.reader.quantum.get(rail) for rail in self.total_rails]
        known = [step for step in steps if step is not None]
        quantum = sum(known) if self.reader.unit == "W" and len(known) == len(steps) else None
        return Sensor(self.refresh_s or self.interval_s, self.interval_s, quantum)

    def about(self) -> dict[str, Any]:
        """For the record."""
        return {
            "kind": self.source.kind, "paths": self.reader.paths, "unit": self.reader.unit, "settings": self.reader.settings,
            "refresh_s": self.refresh_s, "interval_s": self.interval_s, "lag_s": self.lag_s, "quantum": self.reader.quantum,
            "wrap_j": self.reader.wrap_j, "roles": dict(self.source.rails), "source": self.source.source,
            "error_percent": self.source.error_percent, "error_w": self.source.error_w,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {"source": self.source.model_dump(), "reader": self.reader.model_dump(), "refresh_s": self.refresh_s,
                "flags": list(self.flags)}  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Chosen:
        """Inverse of `to_json`."""
        fields = {name: value for name, value in data["source"].items() if name in PowerSource.model_fields}
        source, reader = PowerSource.model_validate(fields), check(Reader, data["reader"])
        return Chosen(source, reader, data["refresh_s"], tuple(data["flags"]))

    def covers(self) -> dict[str, Any]:
        """Scope, rails and what they leave out, as a result names them."""
        return {"scope": self.source.scope, "rails": self.total_rails, "excludes": tuple(self.source.excludes),
                "sensor": self.about()}  # fmt: skip


def choose(session: AgentSession, target: Target | None) -> tuple[PowerSource, Readable] | EnergyResult:
    """The target's first source that has a total and can be read, or why there is none."""
    if target is None:
        detail = "no target is named, so no rail map is known (--target NAME; toolchain doctor says which fits)"
        return not_measured("no_sensor", f"{detail}; no external meter is given")
    sources = [source for source in target.power.source if source.has_total]
    if not sources:
        return not_measured(target.power.reason or "no_sensor", f"{target.power.detail}; no external meter is given")
    asked = [source.model_dump() for source in sources]
    answer = check(PowerProbe, session.request("power_probe", timeout_s=120.0, sources=asked, seconds=PROBE_S))
    refused = []
    for source, found in zip(sources, answer.sources, strict=False):
        if isinstance(found, Readable):
            return source, found
        refused.append(found)
    if not refused:
        return not_measured("sampler_failed", "the device said nothing of its sources")
    first = next((one for one in refused if one.reason == "permission"), refused[0])
    detail = "; ".join(dict.fromkeys(one.detail for one in refused))
    return not_measured(first.reason, f"{detail}; {first.fix}" if first.fix else detail)


def phase_of(event: str, data: object) -> str:
    """Name of the phase that an event of the load announces."""
    if event != "phase":
        raise ProtocolError("an unexpected event during an energy measurement", got=event[:100])
    return check(PhaseBegins, data).phase


def look(
    sampler: AgentSession, load: AgentSession, source: PowerSource, fields: Mapping[str, Any], out: Path,
    swings: int, on_phase: Callable[[str], None],
) -> Chosen:  # fmt: skip
    """See how often the source really gives a new value while a load goes up and down.

    Args:
        fields: what the load needs: engine, runtime, ...
        out: folder for the readings it took.
    """
    hz = source.max_hz if source.kind in SLOW_KINDS else PROBE_HZ
    with sampling():
        start: dict[str, Any] = {"source": source.model_dump(), "interval_s": 1.0 / hz, "longest_s": 600.0}
        reader = check(Reader, sampler.request("power_start", timeout_s=60.0, **start))

    def begins(name: str, data: object) -> None:
        on_phase(phase_of(name, data))

    phases = [[name, seconds, name == "probe_load"] for _ in range(swings)
              for name, seconds in zip(("probe_load", "probe_rest"), SWING_S, strict=True)]  # fmt: skip
    check(LoadAnswer, load.request("energy", timeout_s=600.0, on_event=begins, phases=phases, **fields))
    with sampling():
        sampled = check(Sampled, sampler.request("power_stop", timeout_s=60.0))
        sampler.get(sampled.path, out / "refresh.jsonl", size=sampled.size, sha256=sampled.sha256)
    declared = source.update_ms if isinstance(source.update_ms, float) else reader.update_ms
    refresh_s, flags = settle(sampled.refresh_s, sampled.refresh_unknown, declared / 1000 if declared else None, 1.0 / hz)
    if reader.unit == "W" and refresh_s and 1.0 / source.max_hz > refresh_s * (1 + NEAR):  # a counter misses nothing
        flags.append(f"read every {1000 / source.max_hz:.0f} ms at most, slower than its refresh of {1000 * refresh_s:.0f} ms")
    return Chosen(source, reader, refresh_s, tuple(flags))


def settle(seen_s: float | None, unknown: str | None, declared_s: float | None, poll_s: float) -> tuple[float | None, list[str]]:
    """The refresh to go by, and what to know about it.

    Args:
        seen_s: from the changes of the reading; `poll_s` or so where every reading was new.
        declared_s: by the driver or the target.
    """
    if seen_s is None:
        why = f"the sensor's refresh could not be seen ({unknown})"
        if declared_s:
            return declared_s, [f"{why}; the declared {1000 * declared_s:.0f} ms are taken"]
        return None, [f"{why} and is not declared"]
    if declared_s is None:
        return seen_s, []
    if seen_s <= 1.5 * poll_s:  # quicker than could be seen
        return min(seen_s, declared_s), []
    times = seen_s / declared_s
    if abs(times - 1) <= NEAR or (times > 1.5 and abs(times - round(times)) <= NEAR):
        return declared_s, []  # the same, or a reading that did not change at every refresh
    return seen_s, [f"the sensor gives a new value every {1000 * seen_s:.0f} ms, {1000 * declared_s:.0f} ms are declared"]
