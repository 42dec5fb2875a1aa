"""A benchmark waits until the board that it resumes on has cooled: on a board played from files, through real agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.device.paces import short
from tests.device.test_stability import state
from tests.lab.fake import boards
from toolchain import errors, requests
from toolchain.device import cool_down, stop
from toolchain.device.bench import bench
from toolchain.device.conditions import Conditions
from toolchain.device.cool_down import COLD_LOOKS, HOTTEST
from toolchain.device.settings import On
from toolchain.device.state_messages import State

ONE = On(threads=1)
CPU, GPU = "cpu-thermal:thermal_zone0", "gpu-thermal:thermal_zone1"


class Heat:
    """The played board's temperatures; each pause between two looks sets the next ones."""

    def __init__(self, root: Path) -> None:
        self.root = boards.plant("orin-nano", root)
        self.later: list[float] = []
        self.pauses = 0

    def set(self, cpu_c: float) -> None:
        for zone in (0, 3):  # cpu and tj
            (self.root / f"sys/class/thermal/thermal_zone{zone}/temp").write_text(f"{round(1000 * cpu_c)}\n")

    def sleep(self, seconds: float) -> None:
        assert seconds <= cool_down.LOOK_EVERY_S
        self.pauses += 1
        if self.later:
            self.set(self.later.pop(0))


@pytest.fixture
def heat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heat:
    found = Heat(tmp_path / "board")
    monkeypatch.setenv("EDGE_DEVICE_ROOT", str(found.root))
    monkeypatch.setattr(stop, "sleep", found.sleep)
    return found


def sessions(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "sessions.json").read_text())
    return found


def test_more_rounds_begin_as_cool_as_the_first(heat: Heat, engines: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not bench(engines, out, ONE, short(1, cool_down_s=60.0)).flags
    assert heat.pauses == 0
    heat.set(58.0)
    heat.later = [55.0, 51.0, 47.5, 47.4, 45.0]  # it began at 45.5
    bench(engines, out, ONE, short(2, cool_down_s=60.0))
    assert heat.pauses == 4
    first, second = sessions(out)
    assert second["state_before"]["temperature_c"][CPU] == 47.4
    assert second["cool_down"]["reference_c"] == first["state_before"]["temperature_c"]
    assert second["cool_down"]["away"] == []
    assert second["cool_down"]["flag"] is None


def test_a_board_that_stays_hot_is_refused_or_flagged(heat: Heat, engines: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    bench(engines, out, ONE, short(1))
    heat.set(58.0)
    pace = short(2, cool_down_s=0.05)
    with pytest.raises(errors.MeasurementError, match=rf"{CPU} is at 58\.0 C, the start is at 45\.5 C"):
        bench(engines, out, ONE, pace)
    assert len(sessions(out)) == 1
    kept = bench(engines, out, ONE, pace, conditions=Conditions(keep_unstable=True))
    assert kept.rounds == 2
    (flag,) = [flag for flag in kept.flags if "started at another temperature" in flag]
    assert CPU in flag
    assert GPU not in flag


def test_nothing_is_waited_for_unless_it_was_asked_for(heat: Heat, engines: dict[str, Path], tmp_path: Path) -> None:
    bench(engines, tmp_path / "out", ONE, short(1))
    heat.set(58.0)
    bench(engines, tmp_path / "out", ONE, short(2))
    assert heat.pauses == 0
    assert [one["cool_down"] for one in sessions(tmp_path / "out")] == [{}, {}]


def test_start_temperature_is_that_of_the_hottest_zone(heat: Heat, engines: dict[str, Path], tmp_path: Path) -> None:
    heat.set(61.0)
    heat.later = [60.0, 56.0, 51.9]
    bench(engines, tmp_path / "out", ONE, short(1, cool_down_s=60.0), conditions=Conditions(start_temperature_c=50.0))
    (one,) = sessions(tmp_path / "out")
    assert one["cool_down"]["reference_c"] == {HOTTEST: 50.0}
    assert one["state_before"]["temperature_c"][CPU] == 51.9
    heat.pauses = 0
    with pytest.raises(errors.MeasurementError, match=r"is at 51\.9 C, the start is at 30\.0 C"):  # no wait at all: only a look
        bench(engines, tmp_path / "b", ONE, short(1), conditions=Conditions(start_temperature_c=30.0))
    assert heat.pauses == 0


def test_a_board_that_is_only_too_cold_is_not_waited_for_long(heat: Heat, engines: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(errors.MeasurementError, match=r"is at 45\.5 C, the start is at 70\.0 C"):
        bench(engines, tmp_path / "o", ONE, short(1, cool_down_s=3600.0), conditions=Conditions(start_temperature_c=70.0))
    assert heat.pauses == COLD_LOOKS - 1


@pytest.mark.parametrize("asked", [{}, {"start_temperature_c": 40.0}])
def test_without_a_sensor_nothing_is_waited_for_and_a_flag_says_so(
    engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, float]
) -> None:
    monkeypatch.setenv("EDGE_DEVICE_ROOT", str(boards.plant("x86", tmp_path / "board")))
    result = bench(engines, tmp_path / "out", ONE, short(1, cool_down_s=3600.0), conditions=Conditions(**asked))
    assert any(flag.startswith("no temperature can be read (") for flag in result.flags)


def looks(*temperatures: dict[str, float]) -> Callable[[], State]:
    rest = iter(temperatures)
    return lambda: state(temperature_c=next(rest))


def test_zones_that_came_or_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "sleep", lambda seconds: None)
    went = cool_down.cool_down(looks({"cpu": 44.0, "new": 90.0}), {"cpu": 45.0, "gone": 30.0}, 60.0, "dev")
    assert (went.away, went.flag, went.waited_s) == ((), None, 0.0)
    went = cool_down.cool_down(looks({"new": 90.0}), {"gone": 30.0}, 60.0, "dev")
    assert "answers now" in (went.flag or "")


def test_what_the_reader_sees_while_it_cools(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(stop, "sleep", lambda seconds: None)
    monkeypatch.setattr("toolchain.progress.Task.advance", lambda self, step=1, note="": shown.append(f"{self.title}: {note}"))
    cool_down.cool_down(looks({"cpu": 60.0, "gpu": 50.0}, {"cpu": 46.0, "gpu": 46.0}), {"cpu": 45.0, "gpu": 45.0}, 60.0, "dev")
    assert shown == ["dev cools down, at most: cpu is at 60.0 C, the start is at 45.0 C"]


def test_flags_of_the_command() -> None:
    usual: dict[str, Any] = {
        "rounds": None, "runs": None, "end_to_end": False, "energy": None, "power_mode": None, "pin_clocks": False,
        "keep_unstable": False, "accuracy": False, "data": None, "cool_down": None, "start_temperature": None, "rate_hz": None,
        "export_times": False,
    }  # fmt: skip

    def seconds(profile: str, **changes: Any) -> float:
        found: float = requests.bench_request(profile=profile, **{**usual, **changes})["pace"].cool_down_s
        return found

    assert [seconds(name) for name in ("quick", "search", "report")] == [0, 0, 300]
    assert seconds("search", start_temperature=45.0) == 300
    assert seconds("search", start_temperature=45.0, cool_down=0.0) == 0
    assert seconds("report", cool_down=20.0) == 20
    with pytest.raises(errors.UsageError, match="temperature"):
        requests.bench_request(profile="quick", **{**usual, "start_temperature": 300.0})
