"""The whole of an energy measurement: turns, going on, reasons for no number, external meters, a device that lies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.device.plant_runs import FIELDS, run, short, target_for
from tests.lab.plant import Board, Plant, start_plant
from tests.lab.sense import Ina3221
from tests.lab.sshd import Sshd
from tests.lab.waveform import constant
from toolchain.device import energy, energy_run
from toolchain.device.energy_files import load_readings, load_stamps
from toolchain.device.energy_request import PROFILES, EnergyRequest, Phases
from toolchain.device.energy_run import plan_of
from toolchain.device.energy_sensor import settle
from toolchain.device.remote import connect
from toolchain.device.target import load_target
from toolchain.device.target_power import Power
from toolchain.errors import ConnectionLostError, ProtocolError, RunFolderError, UsageError
from toolchain.measurement.energy_result import EnergyResult

QUICK = EnergyRequest(repeats=2, rate_hz=20.0, phases=short(idle_s=1.2, lead_in_s=0.4, window_s=1.0, updates=8))


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """One board that draws 3 W, and 6 W more under load."""
    board = Board(tmp_path / "board", constant(6.0), sensor=Ina3221(0.1, 0.03, noise_a=0.01), rails={"VDD_IN": 1.0})
    with start_plant(tmp_path / "plant", {"b": board}) as running:
        yield running


def measured(
    plant: Plant, engines: dict[str, Path], out: Path, request: EnergyRequest = QUICK, **more: Any
) -> dict[str, EnergyResult]:
    return run(plant, "b", engines, out, request=request, target=target_for(plant.boards["b"]), **more)


def test_engines_take_turns_and_a_cut_loses_only_the_window_it_cut(
    plant: Plant, engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, order = energy_run.run_window, []

    def run_window(sampler: Any, load: Any, folder: Path, *rest: Any, **more: Any) -> None:
        order.append(str(folder.relative_to(tmp_path / "out")))
        if len(order) == 3:
            raise ConnectionLostError("cut")
        original(sampler, load, folder, *rest, **more)

    monkeypatch.setattr(energy, "run_window", run_window)
    with pytest.raises(ConnectionLostError):
        measured(plant, engines, tmp_path / "out")
    kept = (tmp_path / "out/one/0/readings.jsonl").read_bytes()
    results = measured(plant, engines, tmp_path / "out")
    assert order == ["one/0", "two/0", "two/1", "two/1", "one/1"]
    assert (tmp_path / "out/one/0/readings.jsonl").read_bytes() == kept
    assert {label: len(result.windows) for label, result in results.items()} == {"one": 2, "two": 2}
    saved = json.loads((tmp_path / "out/energy.json").read_text())
    assert EnergyResult.from_json(saved["engines"]["two"]) == results["two"]
    assert saved["request"]["phases"]["idle_s"] == 1.2
    again = measured(plant, engines, tmp_path / "out")  # nothing is left to measure
    assert (again, len(order)) == (results, 5)
    with pytest.raises(RunFolderError, match="another energy measurement"):
        measured(plant, {"one": engines["two"]}, tmp_path / "out")
    for label, result in results.items():
        if result.valid:  # a busy machine may have spoilt a window, which the result then says
            assert result.power_mean_w == pytest.approx(9.0, rel=0.05), label
    if results["one"].valid and results["two"].valid and results["two"].saving is not None:
        assert results["two"].saving.value == pytest.approx(1.0, rel=0.2)


def test_the_overhead_of_sampling_is_told(plant: Plant, engines: dict[str, Path], tmp_path: Path) -> None:
    one = {"one": engines["one"]}
    measured(plant, one, tmp_path / "out", EnergyRequest(repeats=1, rate_hz=20.0, phases=QUICK.phases))
    with connect("local", root=str(plant.boards["b"].root)) as device:
        result = energy.measure(
            device, one, tmp_path / "out", EnergyRequest(repeats=1, rate_hz=20.0, phases=QUICK.phases),
            target=target_for(plant.boards["b"]), fields=dict.fromkeys(one, FIELDS), latency_p50_ms={"one": 1e-4},
        )["one"]  # fmt: skip
    assert result.latency_overhead is not None
    assert any("the sampler disturbs the load" in flag for flag in result.flags)


def test_a_sampler_that_is_killed_leaves_no_number(
    plant: Plant, engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, pids = energy_run.run_window, []

    def run_window(sampler: Any, *rest: Any, **more: Any) -> None:
        pids.append(sampler.hello.pid)  # our own child
        original(sampler, *rest, **more)

    def kill(phase: str) -> None:
        if phase == "idle_after":
            os.kill(pids[-1], signal.SIGKILL)

    monkeypatch.setattr(energy, "run_window", run_window)
    result = measured(plant, {"one": engines["one"]}, tmp_path / "out", on_phase=kill)["one"]
    assert (result.status, result.reason, result.energy_total_mj) == ("not_measured", "sampler_failed", None)
    assert not (tmp_path / "out/one/0/window.json").exists()


@pytest.mark.ssh
def test_a_link_that_is_cut_in_mid_window(plant: Plant, lab_ssh: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    """Nothing that was measured is lost, and the same call goes on."""
    one, windows = {"one": engines["one"]}, [0]

    def cut(phase: str) -> None:
        windows[0] += phase == "window"
        if phase == "window" and windows[0] == 2:
            lab_ssh.cut()

    with pytest.raises(ConnectionLostError):
        measured(plant, one, tmp_path / "out", host="dev", on_phase=cut)
    kept = (tmp_path / "out/one/0/window.json").read_bytes()
    assert not (tmp_path / "out/one/1/window.json").exists()
    result = measured(plant, one, tmp_path / "out", host="dev", on_phase=cut)["one"]
    assert (len(result.windows), windows[0]) == (2, 3)
    assert (tmp_path / "out/one/0/window.json").read_bytes() == kept


def no_number(tmp_path: Path, engines: dict[str, Path], target: Any, root: str = "/") -> EnergyResult:
    with connect("local", root=root) as device:
        result = energy.measure(device, engines, tmp_path / "out", QUICK, target=target, fields=dict.fromkeys(engines, FIELDS))
    saved = json.loads((tmp_path / "out/energy.json").read_text())["engines"]["one"]
    assert (saved["status"], saved["energy_total_mj"]) == ("not_measured", None)
    return result["one"]


def test_without_a_target_there_is_no_rail_map(engines: dict[str, Path], tmp_path: Path) -> None:
    assert no_number(tmp_path, engines, None).reason == "no_sensor"


def test_a_target_says_itself_why_it_has_no_total(engines: dict[str, Path], tmp_path: Path) -> None:
    power = Power(reason="scope_excludes_accelerator", detail="the PMIC does not see the accelerator")
    result = no_number(tmp_path, engines, load_target("host-cpu").model_copy(update={"power": power}))
    assert result.reason == "scope_excludes_accelerator"
    assert "the PMIC does not see" in result.detail


def test_a_sensor_that_is_not_there(engines: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = no_number(tmp_path, engines, load_target("host-cpu"), str(tmp_path / "empty"))
    assert (result.reason, "none found" in result.detail) == ("no_sensor", True)


@pytest.mark.parametrize(
    ("seen", "declared", "expected"),
    [
        (0.43, 0.43, 0.43), (0.44, 0.43, 0.43), (0.86, 0.43, 0.43), (0.3, 0.43, 0.3), (0.01, 0.43, 0.01), (0.01, 0.001, 0.001),
        (0.43, None, 0.43), (None, 0.43, 0.43), (None, None, None),
    ],
)  # fmt: skip
def test_the_refresh_to_go_by(seen: float | None, declared: float | None, expected: float | None) -> None:
    found, flags = settle(seen, None if seen else "constant", declared, 0.01)
    assert found == expected
    assert bool(flags) == (seen is None or (seen, declared) == (0.3, 0.43))


def test_phases_of_the_profiles() -> None:
    plan = plan_of(EnergyRequest(), 0.43, marker=False, external=False)
    assert [(name, seconds) for name, seconds, _ in plan] == [
        ("idle_before", 30.0), ("lead_in", 5.0), ("window", 60.0), ("run_on", 1.0), ("idle_after", 30.0)
    ]  # fmt: skip
    slow = {name: seconds for name, seconds, _ in plan_of(EnergyRequest(), 3.0, marker=True, external=True)}
    assert (slow["window"], slow["run_on"]) == (306.0, 5.0)
    names = [name for name, _, _ in plan_of(EnergyRequest(), 3.0, marker=True, external=True)]
    assert names[:6] == ["marker_rest", "marker_load"] * 3
    assert PROFILES["search"].window_s < PROFILES["report"].window_s


@pytest.mark.parametrize(
    "change",
    [{"profile": "long"}, {"repeats": 0}, {"meter": "tegrastats:x"}, {"rate_hz": 0.0}, {"phases": Phases(0, 1, 1, 1, 1)},
     {"phases": Phases(1, 1, 1e9, 1, 1)}],
    ids=str,
)  # fmt: skip
def test_requests_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EnergyRequest(**change)


def test_readings_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("[1.0, 5, null]\n[2.5, -0.4, 1]\n")
    times, rails = load_readings(tmp_path / "r", ["A", "B"])
    assert times.tolist() == [1.0, 2.5]
    assert rails["A"].tolist() == [5.0, -0.4]
    assert np.isnan(rails["B"]).tolist() == [True, False]
    (tmp_path / "empty").write_text("")
    assert load_readings(tmp_path / "empty", ["A"])[0].size == 0


@pytest.mark.parametrize(
    "text",
    ["nonsense", "[1, 2, 3]", "[1]", "[null, 1]", '["1", 1]', "[1, true]", "[2, 1]\n[1, 1]", "[1, 1]\n[1, 1]", "[1, 1e999]",
     "[Infinity, 1]", "{}", "[" * 5000],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_readings_that_are_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(ProtocolError, match="power readings are damaged"):
        load_readings(tmp_path / "r", ["A"])


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 2), dtype=np.float32), np.zeros((2, 2)), np.zeros(6), np.array([[0.0, 1], [0.5, 2], [3, 4]]),
     np.full((3, 2), np.nan), np.array([["a", "b"]] * 3, dtype=object)],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_stamps_that_are_damaged(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "s.npy", array, allow_pickle=True)
    with pytest.raises(ProtocolError):
        load_stamps(tmp_path / "s.npy", 3)


def test_stamps_that_claim_to_be_huge_are_not_believed(tmp_path: Path) -> None:
    good = np.array([[0.0, 1], [1, 2], [3, 4]])
    np.save(tmp_path / "s.npy", good)
    assert load_stamps(tmp_path / "s.npy", 3).tolist() == good.tolist()
    data = (tmp_path / "s.npy").read_bytes()
    (tmp_path / "s.npy").write_bytes(data.replace(b"(3, 2)", b"(3000000000, 2)"[:6].ljust(6)))
    with pytest.raises(ProtocolError):
        load_stamps(tmp_path / "s.npy", 3)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }"
    (tmp_path / "s.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 48)
    with pytest.raises(ProtocolError):
        load_stamps(tmp_path / "s.npy", 1000000000000)
    (tmp_path / "s.npy").write_bytes(b"PK\x03\x04")
    with pytest.raises(ProtocolError):
        load_stamps(tmp_path / "s.npy", 3)
