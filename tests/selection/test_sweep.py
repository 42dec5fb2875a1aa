"""Timing engines against a reference, on this machine: what is known is not timed again, and strangers' files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tinynet
from toolchain.device import sweep, turns
from toolchain.device.settings import On
from toolchain.device.state_messages import State
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import MeasurementError, RunFolderError

ON = On(threads=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "LOADS", 2)
    monkeypatch.setattr(turns, "RUNS", 2)
    monkeypatch.setattr(sweep, "MOST_LOADS", 2)


def candidates(folder: Path, *seeds: int) -> list[Candidate]:
    return [
        Candidate(f"e{seed}", lambda seed=seed: tinynet.save_detector(folder / "c.onnx", seed=seed), {"seed": seed})  # type: ignore[misc]
        for seed in seeds
    ]


def test_only_what_is_missing_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, out = tinynet.save_detector(tmp_path / "r.onnx"), tmp_path / "t.jsonl"
    first = sweep.sweep(candidates(tmp_path, 1), reference, out, on=ON)
    with out.open("a") as stream:
        stream.write('{"label": "torn')  # what a kill leaves
    both = sweep.sweep(candidates(tmp_path, 1, 2), reference, out, on=ON)
    assert both[0] == first[0]
    assert [one.about for one in both] == [{"seed": 1}, {"seed": 2}]
    assert all(6 <= len(one.engine_ms) == len(one.reference_ms) <= 24 and one.ratio > 0 for one in both)
    monkeypatch.setattr(sweep, "connect", None)  # the device is not asked again
    assert sweep.sweep(candidates(tmp_path, 1, 2), reference, out, on=ON) == both


def test_timings_against_another_reference_are_not_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    sweep.sweep(candidates(tmp_path, 1), tinynet.save_detector(tmp_path / "r.onnx"), out, on=ON)
    with pytest.raises(RunFolderError, match="another reference"):
        sweep.sweep(candidates(tmp_path, 1), tinynet.save_detector(tmp_path / "r.onnx", seed=9), out, on=ON)


@pytest.mark.parametrize(("free", "processes"), [(None, 3), (10e6, 3), (64e9, 6)])
def test_as_many_references_as_memory_holds(
    free: float | None, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    load, check = sweep._load, sweep.check
    monkeypatch.setattr(sweep, "_load", lambda agent, *rest: (loads.append(agent), load(agent, *rest))[1])

    def says(message: type, data: object) -> object:
        found = check(message, data)  # type: ignore[type-var]
        return found.model_copy(update={"memory_free_bytes": free}) if message is State else found

    monkeypatch.setattr(sweep, "check", says)
    sweep.sweep(candidates(tmp_path, 1), tinynet.save_detector(tmp_path / "r.onnx"), tmp_path / "t.jsonl", on=ON)
    assert len(loads) == processes + 2
    assert len(set(loads)) == processes + 1  # the engine's process is loaded twice


class Shared:
    """Stands in for a session on a processor that others slow down, now and then, and one engine more than another.

    The first inferences of a request find cold caches, which costs every engine as much.
    """

    COLD_MS = (2.0, 0.5, 0.3, 0.1)

    def __init__(self, ms: float, slowed: float, clock: list[int], slow: Callable[[int], bool]) -> None:
        self.ms, self.slowed, self.clock, self.slow = ms, slowed, clock, slow

    def request(self, op: str, *, runs: int = 6, lead_runs: int = 0, **_: object) -> dict[str, object]:
        latencies = []
        for run in range(lead_runs + runs):
            self.clock[0] += 1
            cold_ms = self.COLD_MS[run] if run < len(self.COLD_MS) else 0.0
            latencies.append(cold_ms + self.ms * (self.slowed if self.slow(self.clock[0]) else 1.0))
        latencies = latencies[lead_runs:]
        starts = [float(i) for i in range(runs)]
        return {"start_s": starts, "latency_ms": latencies, "stopped": "enough", "rss_mb": None}


def timed(slow: Callable[[int], bool], calm: turns.Calm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Timing:
    """An engine of 5 ms, 7 where it is disturbed, beside a reference of 10, there 16."""
    monkeypatch.setattr(turns, "PAUSE_S", 0.0)
    monkeypatch.setattr(turns, "RUNS", 6)
    monkeypatch.setattr(sweep, "LOADS", 3)
    monkeypatch.setattr(sweep, "MOST_LOADS", 8)
    monkeypatch.setattr(sweep, "_load", lambda *_: None)
    clock = [0]
    agent, bases = Shared(5.0, 1.4, clock, slow), [Shared(10.0, 1.6, clock, slow) for _ in range(9)]
    path = tinynet.save_detector(tmp_path / "e.onnx")
    return sweep._compare(Candidate("e", lambda: path), path, agent, bases, ON, calm)  # type: ignore[arg-type]


def test_what_others_do_on_the_processor_is_no_part_of_a_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = timed(lambda run: False, turns.Calm([10.0]), tmp_path, monkeypatch)
    assert (quiet.ratio, quiet.steady, len(quiet.engine_ms)) == (0.5, True, 9)  # once beside each reference
    for start in range(0, 400, 40):
        for length in (30, 90, 200):  # from single turns to whole loads

            def slow(run: int, start: int = start, length: int = length) -> bool:
                return (run + start) // length % 3 > 0  # two thirds of the time

            found = timed(slow, turns.Calm([10.0]), tmp_path, monkeypatch)
            assert found.ratio == pytest.approx(0.5, rel=0.01) or not found.steady, (start, length)
            assert found.steady or length > 30


def test_a_time_disturbed_throughout_is_no_measurement_until_it_is_how_things_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = turns.Calm([10.0])
    found = [timed(lambda run: True, calm, tmp_path, monkeypatch).steady for _ in range(6)]
    assert found == [False] * 5 + [True]
    assert timed(lambda run: False, calm, tmp_path, monkeypatch).steady


def timing(steady: bool) -> Timing:
    return Timing("x", {}, "", 1.0, 0.0, steady, [], [], 1)


def test_unsteady_timings_are_left_out_and_too_many_refused() -> None:
    assert len(sweep.steady([timing(True)] * 9 + [timing(False)])) == 9
    with pytest.raises(MeasurementError, match="3 of 10"):
        sweep.steady([timing(True)] * 7 + [timing(False)] * 3)


def test_a_disturbance_that_began_before_is_seen_by_what_the_store_has(tmp_path: Path) -> None:
    reference, out = tinynet.save_detector(tmp_path / "r.onnx"), tmp_path / "t.jsonl"
    (first,) = sweep.sweep(candidates(tmp_path, 1), reference, out, on=ON)
    assert sweep.earlier(out, "local") == [turns.undisturbed(first.reference_ms)]
    assert sweep.earlier(out, "another") == []
    lines = out.read_text().replace(f'"reference_ms": {list(first.reference_ms)}', '"reference_ms": [1e-9]')
    out.write_text(lines)  # as if the processor had been idle then
    assert not sweep.sweep(candidates(tmp_path, 1, 2), reference, out, on=ON)[1].steady
