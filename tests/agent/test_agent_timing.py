"""Warm-up and passes of the agent, on a clock that the test turns; memory from files."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolchain.agent import memory, timing
from toolchain.agent.wire import AgentError


class Clock:
    """Time that passes only by work."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Job:
    root = "/"

    def __init__(self, **request: Any) -> None:
        self.request, self.memory = request, {}

    def need(self, name: str, kind: Any) -> Any:
        return self.request[name]


def worker(clock: Clock, seconds: Callable[[int], float]) -> Callable[..., None]:
    """Work whose n-th run takes seconds(n)."""
    count = itertools.count()

    def work(*_: object) -> None:
        clock.now += seconds(next(count))

    return work


def warm(seconds: Callable[[int], float], runs: int = 50, least_s: float = 5.0, cap_s: float = 60.0) -> tuple[Any, ...]:
    clock = Clock()
    return timing.warm_up(worker(clock, seconds), runs, least_s, cap_s, clock=clock)


def test_warm_up_takes_both_least_runs_and_least_time() -> None:
    runs, seconds, stopped, change = warm(lambda n: 0.01)
    assert (stopped, change) == ("steady", pytest.approx(0, abs=1e-9))
    assert seconds == pytest.approx(5, abs=0.02)
    assert runs == pytest.approx(500, abs=2)
    runs, seconds, stopped, _ = warm(lambda n: 0.4)
    assert (runs, stopped) == (50, "steady")
    assert seconds == pytest.approx(20)


def test_warm_up_goes_on_until_the_latency_stands_still() -> None:
    _, seconds, stopped, change = warm(lambda n: 0.01 if n > 1500 else 0.02 - n / 150000)  # faster until 22 s have passed
    assert stopped == "steady"
    assert 24 < seconds < 32
    assert abs(change) <= timing.STEADY


def test_warm_up_is_given_up_at_its_cap_and_says_by_how_much_it_still_changed() -> None:
    _, seconds, stopped, change = warm(lambda n: 0.01 * 1.001**n, cap_s=12.0)  # slower and slower, as a board that heats up
    assert stopped == "cap"
    assert seconds == pytest.approx(12, abs=0.1)
    assert change > timing.STEADY


def test_warm_up_without_a_cap_waits_for_nothing_more() -> None:
    assert warm(lambda n: 0.01 * 1.01**n, runs=20, least_s=0.0, cap_s=0.0)[::2] == (20, "asked")


def test_a_very_slow_engine_is_told_of_while_it_warms_up() -> None:
    clock, told = Clock(), []
    timing.warm_up(worker(clock, lambda n: 3.0), 4, 0.0, 0.0, told.append, clock)
    assert told == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("asked", "samples", "stopped"),
    [
        ({"runs": 5}, 5, "enough"),
        ({"runs": 5, "seconds": 1.0}, 10, "enough"),
        ({"runs": 20, "seconds": 1.0}, 20, "enough"),
        ({"runs": 20, "seconds": 1.0, "cap_s": 1.5}, 15, "cap"),
        ({"runs": 20, "seconds": 0.0, "cap_s": 0.01}, 1, "cap"),
    ],
)
def test_length_of_a_pass(asked: dict[str, Any], samples: int, stopped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    starts, ends, _, why = timing.one_pass(Job(**asked), worker(clock, lambda n: 0.1))
    assert (len(starts), len(ends), why) == (samples, samples, stopped)
    assert timing.milliseconds(starts, ends) == pytest.approx([100.0] * samples)


def test_runs_that_lead_in_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    starts, ends, _, _ = timing.one_pass(Job(runs=4, lead_runs=3), worker(clock, lambda n: 1.0 if n < 3 else 0.1))
    assert timing.milliseconds(starts, ends) == pytest.approx([100.0] * 4)


def test_a_pass_holds_no_more_samples_than_an_answer_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MAX_RUNS", 7)
    starts, *_, why = timing.one_pass(Job(runs=100, seconds=0.0), lambda clock: None)
    assert (len(starts), why) == (7, "full")


def test_go_needs_an_engine() -> None:
    with pytest.raises(AgentError, match="bench comes first"):
        timing.go(Job(runs=1))


def test_input_is_not_all_zero() -> None:
    inputs = [{"name": "images", "shape": [1, 3, 8, 8], "type": "float32"}]
    array = timing.engines.random_input(SimpleNamespace(inputs=inputs), None)
    assert np.unique(array).size > 50
    assert 0 <= array.min() < array.max() <= 1


CLIENTS = """CLIENT                        PROCESS      PID        SIZE
user                        gnome-shell     1234      45120K
user                     some python 3     4711     204800K
user                     some python 3     4711       1024K
total                                              249920K
"""


def test_gpu_memory_of_a_jetson() -> None:
    assert memory.nvmap_mb(CLIENTS, 4711) == pytest.approx(205824 * 1024 / 1e6)
    assert memory.nvmap_mb(CLIENTS, 471) is None


def test_gpu_memory_by_nvidia_smi() -> None:
    assert memory.smi_mb("4711, 512\n12, 3\n4711, 100\n", 4711) == pytest.approx(612 * 1048576 / 1e6)
    assert memory.smi_mb("4711, [N/A]\n", 4711) is None


def test_gpu_memory_that_cannot_be_told_is_never_zero(tmp_path: Path) -> None:
    assert memory.gpu_mb(str(tmp_path)) == (None, "no NVIDIA driver here")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36")
    value, reason = memory.gpu_mb(str(tmp_path))
    assert value is None
    assert "clients" in str(reason)
    clients = tmp_path / memory.NVMAP.lstrip("/")
    clients.parent.mkdir(parents=True)
    clients.write_text(CLIENTS)
    assert memory.gpu_mb(str(tmp_path), 4711) == (pytest.approx(210.76, abs=0.1), None)
    value, reason = memory.gpu_mb(str(tmp_path), 1)
    assert value is None
    assert "lists no memory of this process" in str(reason)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_own_memory() -> None:
    assert 10 < (memory.memory_mb() or 0) < 100_000


def frames(monkeypatch: pytest.MonkeyPatch, each: Callable[[int], float], **asked: Any) -> dict[str, Any]:
    """A pass at a rate; a sleep takes 1 ms longer than it was asked for."""
    clock = Clock()

    def sleep(duration: float) -> None:
        clock.now += duration + 0.001

    monkeypatch.setattr(timing.time, "perf_counter", clock)
    monkeypatch.setattr(timing.time, "sleep", sleep)
    job = Job(**{"rate_hz": 10.0, "runs": 5, **asked})
    job.memory.update(engine=SimpleNamespace(run=worker(clock, each)), array=None)
    found: dict[str, Any] = timing.paced(job)
    return found


def test_frames_begin_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    found = frames(monkeypatch, lambda n: 0.02)
    assert found["due_s"] == pytest.approx([1000.0, 1000.1, 1000.2, 1000.3, 1000.4])
    assert found["start_s"] == pytest.approx([1000.0, 1000.101, 1000.201, 1000.301, 1000.401])
    assert found["latency_ms"] == pytest.approx([20.0] * 5)  # the sleep is no part of it
    assert found["stopped"] == "enough"


def test_a_slow_frame_lets_the_next_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    found = frames(monkeypatch, lambda n: 0.25 if n == 1 else 0.02)
    assert found["due_s"] == pytest.approx([1000.0, 1000.1, 1000.4, 1000.5, 1000.6])
    assert found["latency_ms"][1] == pytest.approx(250.0)


def test_frames_that_lead_in_keep_the_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    found = frames(monkeypatch, lambda n: 0.02, runs=2, lead_runs=3, seconds=0.35)
    assert found["due_s"] == pytest.approx([1000.3, 1000.4, 1000.5, 1000.6])
