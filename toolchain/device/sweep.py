"""Many engines against one reference on one device: the raw material of a latency model.

The reference and one engine at a time are loaded, each in a process of its own, and take turns; every timing is a ratio to the
reference in the same minute, so a machine that drifts between engines does not spoil the set.

One and the same engine is up to 6 % faster in one load than in another: by which pages its memory got, measured on x86. So the
engine is loaded several times, the reference is loaded in several processes, each load of the engine meets other ones of those
where memory holds so many, and the spread between loads is the error. One line a timing, written when it is known: a sweep that
was stopped goes on with the engines that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.device.conversion import place
from toolchain.device.engine_messages import BenchAnswer
from toolchain.device.lock import hold
from toolchain.device.messages import check
from toolchain.device.probe import PROBE_S
from toolchain.device.remote import Device, connect
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.device.state_messages import State
from toolchain.device.turns import REMEMBERED, Calm, Turns, compared, one_load, undisturbed
from toolchain.errors import MeasurementError, RunFolderError
from toolchain.stage import append_line, file_sha256, read_lines

LOADS, MOST_LOADS = 3, 8  # of an engine
REFERENCES = 3  # processes of the reference that one load of an engine meets
ERROR_AIM = 0.008  # standard error of a ratio, relative: well within the ±2 % a budget must be met by
ERROR_LIMIT = 0.02  # above it a timing is noise
WARMUP = {"warmup_runs": 8, "warmup_s": 0.2}


@dataclass(frozen=True)
class Timing:
    """One engine beside the reference.

    Attributes:
        label: of the engine.
        about: whatever the caller wants to find beside the timing, such as its plan.
        ratio: engine / reference, see `compared`; below 1 is faster.
        error: standard error of `ratio`, relative, from the spread between loads.
        steady: False when `error` stayed above the limit, or all the time was disturbed: not to be fitted on.
        engine_ms, reference_ms: medians of every turn, load after load.
    """

    label: str
    about: dict[str, Any]
    sha256: str
    ratio: float
    error: float
    steady: bool
    engine_ms: list[float]
    reference_ms: list[float]
    size_bytes: int


@dataclass(frozen=True)
class Candidate:
    """An engine to be timed; `make` writes its file and is called only when it is."""

    label: str
    make: Callable[[], Path]
    about: dict[str, Any] = field(default_factory=dict)


def sweep(engines: Iterable[Candidate], reference: Path, out: Path, *, on: On, identity: str | None = None) -> list[Timing]:
    """Time every engine that `out` does not hold yet.

    Args:
        engines: those already in `out`, by label, are not timed again.
        reference: engine that everything is divided by; the same one for all lines of `out`.
        out: JSON lines.
        identity: what makes lines of `out` belong together; default: the reference's hash.

    Returns:
        all timings of these labels, in order.

    Raises:
        RunFolderError: `out` was made with another reference.
        DeviceError and its kinds: the timings before are kept.
    """
    identity = identity or file_sha256(reference)
    known = load(out, identity)
    wanted = list(engines)
    missing = [one for one in wanted if one.label not in known]
    if missing:
        with progress.task(f"Timing engines on {on.host}", total=len(wanted), unit="engines") as task:
            task.advance(len(wanted) - len(missing))
            for timing in measure(missing, reference, on, earlier(out, on.host)):
                known[timing.label] = timing
                append(out, timing, identity, on)
                task.advance(note=f"{timing.ratio:.3f}")
    return [known[one.label] for one in wanted]


def earlier(out: Path, host: str) -> list[float]:
    """What the reference's undisturbed turns took beside the last engines timed on a host, ms."""
    return [undisturbed(line["reference_ms"]) for line in read_lines(out) if line["on"]["host"] == host][-REMEMBERED:]


def measure(engines: Iterable[Candidate], reference: Path, on: On, earlier_ms: Sequence[float] = ()) -> Iterator[Timing]:
    """One timing an engine, in order; engines are taken and made one by one.

    Args:
        earlier_ms: of `earlier`, so that a disturbance that has begun before is seen.
    """
    with connect(on.host, python=on.python) as device, ExitStack() as stack:
        bases = _references(device, stack, reference, on)
        calm = Calm.of(bases, earlier_ms)
        for one in engines:
            path = one.make()
            with device.session() as agent:
                yield _compare(one, path, agent, bases, on, calm)


def _references(device: Device, stack: ExitStack, reference: Path, on: On) -> list[AgentSession]:
    """The reference in as many processes as an engine is loaded times three, or in three where memory holds no more.

    What three loads have in common is an error of every timing of the sweep that no repetition shows; nine have less of it.
    """
    first = stack.enter_context(device.session())
    hold(first, wait_s=on.wait_s)
    rss_mb = _load(first, reference, on).rss_mb
    free_bytes = check(State, first.request("state", timeout_s=PROBE_S)).memory_free_bytes
    wanted = REFERENCES * LOADS
    roomy = rss_mb is not None and free_bytes is not None and free_bytes >= 2 * wanted * rss_mb * 1e6
    bases = [first, *(stack.enter_context(device.session()) for _ in range(1, wanted if roomy else REFERENCES))]
    for base in bases[1:]:
        _load(base, reference, on)
    return bases


def _load(agent: AgentSession, path: Path, on: On) -> BenchAnswer:
    fields: dict[str, Any] = {**on.engine_fields(), **WARMUP, "imgsz": None}
    return check(BenchAnswer, agent.request("bench", timeout_s=300.0, path=place(agent, path, fields, on.calibration), **fields))


def _compare(one: Candidate, path: Path, agent: AgentSession, bases: Sequence[AgentSession], on: On, calm: Calm) -> Timing:
    """Loads until the ratio is known well enough, or so many that the machine must be called unsteady."""
    turns, at = Turns(), cycle(bases)
    error, quiet = float("inf"), False
    while len(turns.loads) < LOADS or (not (quiet and error <= ERROR_AIM) and len(turns.loads) < MOST_LOADS):
        _load(agent, path, on)
        one_load(agent, list(islice(at, REFERENCES)), turns)
        ratio, error = compared(turns)
        quiet = calm.reached(turns)
    calm.keep(turns)
    return Timing(
        one.label, one.about, file_sha256(path), ratio, error, quiet and error <= ERROR_LIMIT, turns.engine_ms,
        turns.reference_ms, path.stat().st_size,
    )  # fmt: skip


def load(path: Path, identity: str) -> dict[str, Timing]:
    """The timings of a file by label; a line torn by a kill is passed over.

    Raises:
        RunFolderError: the file was made with another reference.
    """
    found: dict[str, Timing] = {}
    for data in read_lines(path):
        if data.pop("identity") != identity:
            raise RunFolderError("timings against another reference engine", got=str(path), fix="another --out")
        data.pop("on")
        found[data["label"]] = Timing(**data)
    return found


def append(path: Path, timing: Timing, identity: str, on: On) -> None:
    """One more line, on the disk when this returns."""
    append_line(path, {**asdict(timing), "identity": identity, "on": asdict(on)}, allow_nan=False)


def steady(timings: Iterable[Timing]) -> list[Timing]:
    """Those that may be fitted on.

    Raises:
        MeasurementError: more than a fifth were unsteady; the machine is too busy.
    """
    every = list(timings)
    good = [timing for timing in every if timing.steady]
    if len(good) < 0.8 * len(every):
        raise MeasurementError(
            "the device is too unsteady to learn its latencies", got=f"{len(every) - len(good)} of {len(every)} timings",
            fix="stop other work there; `toolchain doctor` says what runs",
        )  # fmt: skip
    return good
