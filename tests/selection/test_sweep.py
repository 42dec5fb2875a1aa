"""Timing engines against a reference, on this machine: what is known is not timed again, and strangers' files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tinynet
from toolchain.device import sweep
from toolchain.device.settings import On
from toolchain.device.state_messages import State
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import MeasurementError, RunFolderError

ON = On(threads=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "LOADS", 2)
    monkeypatch.setattr(sweep, "RUNS", 2)
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
    """Stands in for a session on a processor that others slow down by a third, now and then."""

    def __init__(self, ms: float, clock: list[int], slow: Callable[[int], bool]) -> None:
        self.ms, self.clock, self.slow = ms, clock, slow

    def request(self, op: str, **_: object) -> dict[str, object]:
        self.clock[0] += 1
        ms = self.ms * (1.37 if self.slow(self.clock[0]) else 1.0)
        return {"start_s": [float(self.clock[0])], "latency_ms": [ms], "stopped": "enough", "rss_mb": None}


def test_turns_beside_a_change_of_speed_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PAUSE_S", 0.0)

    def one(slow: Callable[[int], bool]) -> tuple[float, int]:
        clock, mine, other = [0], list[float](), list[float]()
        bases = [Shared(10.0, clock, slow) for _ in range(3)]
        ratio = sweep._one_load(Shared(5.0, clock, slow), bases, mine, other)  # type: ignore[arg-type]
        return ratio, len(mine)

    assert one(lambda turn: False) == (0.5, 3)  # quiet: once each
    assert one(lambda turn: True) == (0.5, 3)  # slow all the time is quiet too
    found = [one(lambda turn, start=start: (turn + start) // 5 % 2 == 0) for start in range(5)]  # type: ignore[misc]
    assert {ratio for ratio, _ in found} == {0.5}
    assert 12 in {pairs for _, pairs in found}


def timing(steady: bool) -> Timing:
    return Timing("x", {}, "", 1.0, 0.0, steady, [], [], 1)


def test_unsteady_timings_are_left_out_and_too_many_refused() -> None:
    assert len(sweep.steady([timing(True)] * 9 + [timing(False)])) == 9
    with pytest.raises(MeasurementError, match="3 of 10"):
        sweep.steady([timing(True)] * 7 + [timing(False)] * 3)
