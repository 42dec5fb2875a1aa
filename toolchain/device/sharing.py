"""Many engines shared out among several devices of one model: each divides by its own runs of the reference, so ratios compare.

That they do is not taken for granted: what the devices say they are must be equal, and all of them time the first engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from toolchain import progress
from toolchain.device.fleet import Outcome, failed, run_on
from toolchain.device.probe import probe
from toolchain.device.recover import recover
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing, append, earlier, load, measure
from toolchain.errors import MeasurementError, UsageError
from toolchain.stage import file_sha256

T = TypeVar("T")
MODEL = ("arch", "cpu_model", "cpu_flags", "cores", "board")  # of a probe: equal for devices of one model
AGREEMENT = 0.02  # most that the devices' ratios of one engine may differ, relative


def sweep_shared(
    engines: Iterable[Candidate], reference: Path, out: Path, *, on: On, hosts: Sequence[str], identity: str | None = None
) -> list[Timing]:
    """Time every engine that `out` does not hold yet, each on one of the hosts.

    Args:
        engines, reference, out, identity: as for `sweep`; engines are made in a thread of each host.
        on: how engines run; `hosts` take the place of its host.
        hosts: a single engine is timed on the first.

    Returns:
        all timings of these labels, in order. A host that fails leaves its engines to the others.

    Raises:
        UsageError: the hosts are not devices of one model, or two names of one.
        MeasurementError: they do not agree on the ratio of one engine.
        DeviceError: every host has failed; the timings before are kept.
    """
    identity = identity or file_sha256(reference)
    known, wanted, lock = load(out, identity), list(engines), threading.Lock()
    left = deque(one for one in wanted if one.label not in known)

    def keep(timing: Timing, place: On) -> None:
        with lock:
            known[timing.label] = timing
            append(out, timing, identity, place)
            bar.advance(note=f"{timing.ratio:.3f} on {place.host}")

    def work(host: str) -> None:
        place = replace(on, host=host)
        recover(lambda: _share(left, reference, place, keep, earlier(out, host)), place)

    with progress.task("Timing engines", total=len(wanted), unit="engines") as bar:
        bar.advance(len(wanted) - len(left))
        if len(left) == 1:
            hosts = hosts[:1]  # nothing to share out
        elif left:
            hosts = _check_agreement(left[0], reference, on, list(check_model(hosts, on)))
        while left:
            hosts = _working(run_on(hosts, work))
    return [known[one.label] for one in wanted]


def _share(left: deque[Candidate], reference: Path, on: On, keep: Any, earlier_ms: Sequence[float]) -> None:
    """Time engines from `left` until it is empty; one that was begun and not ended goes back."""
    taken: list[Candidate] = []

    def take() -> Iterator[Candidate]:
        while True:
            try:
                taken[:] = [left.popleft()]
            except IndexError:
                return
            yield taken[0]

    try:
        for timing in measure(take(), reference, on, earlier_ms):
            taken.clear()
            keep(timing, on)
    except BaseException:
        left.extendleft(taken)
        raise


def check_model(hosts: Sequence[str], on: On) -> Mapping[str, Mapping[str, Any]]:
    """host -> what it says it is, of those that answer.

    Raises:
        UsageError: they are not devices of one model, or two names of one.
        DeviceError: none answers.
    """
    outcomes = run_on(hosts, lambda host: probe(host, python=on.python))
    working = _working(outcomes)
    found = {one.host: one.value for one in outcomes if one.value is not None and one.host in working}
    first = next(iter(found))
    seen: dict[Any, str] = {}
    for host in found:
        machine = (found[host]["state"]["boot_id"], found[host]["hostname"])
        if machine[0] is not None and seen.setdefault(machine, host) != host:
            raise UsageError("two names of one device", got=f"{seen[machine]} and {host}", fix="name each device once")
        mine, other = _about(found[first], on), _about(found[host], on)
        unlike = [f"{key}: {mine[key]!r} on {first}, {other[key]!r} on {host}" for key in mine if mine[key] != other[key]]
        if unlike:
            fix = "hosts of one model, set up alike"
            raise UsageError("devices that differ cannot share a measurement", got="; ".join(unlike), fix=fix)
    return found


def _about(probed: Mapping[str, Any], on: On) -> dict[str, Any]:
    runtime, mode = probed["runtimes"].get(on.runtime) or {}, probed["state"]["power_mode"] or {}
    return {**{key: probed[key] for key in MODEL}, on.runtime: runtime.get("version"), "power mode": mode.get("name")}


def _check_agreement(engine: Candidate, reference: Path, on: On, hosts: Sequence[str]) -> list[str]:
    """The hosts that could time an engine.

    Raises:
        MeasurementError: their ratios differ.
    """
    if len(hosts) < 2:
        return list(hosts)
    outcomes = run_on(hosts, lambda host: next(measure([engine], reference, replace(on, host=host))))
    ratios = {one.host: one.value.ratio for one in outcomes if one.value is not None}
    if ratios and max(ratios.values()) > (1 + AGREEMENT) * min(ratios.values()):
        raise MeasurementError(
            f"devices of one model differ by more than {AGREEMENT:.0%} on the same engine", got=ratios,
            fix="`toolchain doctor` on each: cooling, clocks, other work; or leave one out",
        )  # fmt: skip
    return _working(outcomes)


def _working(outcomes: Sequence[Outcome[T]]) -> list[str]:
    """Hosts that did not fail; the others are named. Raises: the error of all, if none is left."""
    working = [one.host for one in outcomes if one.error is None]
    error = failed(outcomes)
    if error is not None and not working:
        raise error
    for one in outcomes:
        if one.error is not None:
            progress.note(f"  {one.host} is left out: {one.error}")
    return working
