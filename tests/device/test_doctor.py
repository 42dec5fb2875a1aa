"""The doctor on boards played from files, through real agents; and each finding by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.device.test_stability import clock, sign, state
from tests.lab.fake import boards
from tests.lab.sshd import Sshd
from toolchain import errors
from toolchain.device import ailments, lock
from toolchain.device.clock_offset import ClockOffset
from toolchain.device.doctor import Examination, examine
from toolchain.device.match import Match
from toolchain.device.messages import check
from toolchain.device.modes import Healed
from toolchain.device.remote import connect
from toolchain.device.state_messages import Probe, State
from toolchain.device.target import load_target
from toolchain.report.doctor_page import doctor_page


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `local` that board."""

    def make(name: str) -> Path:
        monkeypatch.setenv("EDGE_DEVICE_ROOT", str(tmp_path / name))
        return boards.plant(name, tmp_path / name)

    return make


def page(exam: Examination) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(doctor_page(json.loads(json.dumps(exam.to_json()))))
    return console.export_text()


def shown(found: list[ailments.Finding]) -> list[str]:
    return [f"{finding.severity} {finding.what}" for finding in found]


@pytest.mark.parametrize(
    ("name", "target", "release", "facts"),
    [
        ("orin-nano", "jetson-orin-nano-8gb", "JetPack 6.2 to 6.2.2", ["VDD_IN 9.310 W", "15W (id 0", "libnvinfer10 10.3.0"]),
        ("agx-orin", "jetson-agx-orin-64gb", "JetPack 5.1", ["MODE_30W", "VDDQ_VDD2_1V8AO"]),
        ("nano-jp4", "jetson-nano", "JetPack 4.6.1", ["POM_5V_IN 1.905 W", "57000000.gpu"]),
        ("thor", "jetson-thor-t5000", "JetPack 7.0", ["VIN 19.780 W", "gpu-gpc-0"]),
        ("pi5", "raspberry-pi-5", None, ["VDD_CORE", "1500 to 2400 MHz"]),
        ("pi5-hailo", "raspberry-pi-5-hailo-8l", None, ["hailo8l", "scope_excludes_accelerator"]),
        ("n100", "intel-n100", None, ["package-0", "turbo on", "cpu policy0 and 3 more"]),
        ("rk3588", "rk3588", None, ["npu fdab0000.npu", "no_sensor"]),
    ],
)
def test_boards(board: Callable[[str], Path], name: str, target: str, release: str | None, facts: list[str]) -> None:
    board(name)
    exam = examine()
    assert exam.target == target
    assert (exam.release or "").startswith(release or "")
    text = page(exam)
    for fact in facts:
        assert fact in text
    assert "unfit the clocks are free" in shown(exam.findings)
    assert not exam.fit
    assert exam.clock.stamps == 20


def test_held_clocks_make_it_fit(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    for path in (root / "sys/devices/system/cpu/cpufreq").iterdir():
        (path / "scaling_min_freq").write_text((path / "scaling_max_freq").read_text())
    (root / "sys/class/devfreq/17000000.gpu/min_freq").write_text("624750000\n")
    exam = examine(target="jetson-orin-nano-8gb")
    assert (exam.named, exam.mismatches, exam.fit) == (True, [], True)
    assert shown(exam.findings) == ["warning the target's default runtime is missing", "note in power mode 15W"]
    assert exam.findings[1].command == "sudo nvpmodel -m 2"
    assert "held at 1510.4 MHz" in page(exam)
    assert "fit: a measurement can be trusted" in page(exam)


def test_not_the_board_that_was_named(board: Callable[[str], Path]) -> None:
    board("orin-nano")
    exam = examine(target="raspberry-pi-5")
    assert "unfit not a raspberry-pi-5" in shown(exam.findings)
    assert any(finding.command == "toolchain doctor local --target jetson-orin-nano-8gb" for finding in exam.findings)


def test_this_machine_is_the_host_cpu_where_no_board_fits(board: Callable[[str], Path]) -> None:
    board("x86")
    exam = examine()
    assert exam.target == "host-cpu"
    assert not exam.match.fits
    assert "warning no target describes this device" not in shown(exam.findings)


def test_board_that_nobody_knows(board: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    board("x86")
    monkeypatch.setattr("toolchain.device.doctor._fitting", lambda *_, **__: None)  # as for a host that is not this machine
    exam = examine()
    assert exam.target is None
    wanted = {"warning no target describes this device", "warning the clocks can be neither read nor held"}
    assert wanted | {"warning throttling cannot be noticed", "note energy would be: not measured"} <= set(shown(exam.findings))
    assert "none fits" in page(exam)


def test_throttled_board(board: Callable[[str], Path]) -> None:
    root = board("pi5")
    boards.put(root, f"{boards.STATE}/throttled", "0x50005")
    exam = examine()
    assert "unfit the device throttles: under-voltage" in shown(exam.findings)
    assert any(finding.command == "sudo reboot" for finding in exam.findings)
    assert "under-voltage since boot 1" in page(exam)


def test_device_in_use(board: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    board("orin-nano")
    with connect("local") as device, device.session() as session:
        lock.hold(session, "ann@desk: toolchain bench")
        monkeypatch.setattr(lock, "OWNER", "another process")
        exam = examine()
    assert exam.busy is not None
    assert exam.busy.startswith("ann@desk")
    assert "unfit somebody else measures here" in shown(exam.findings)
    assert exam.no_power == "not tried while the device is in use"


def test_mode_that_was_left_is_put_back(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    with connect("local") as device, device.session() as session:
        session.request("set_mode", timeout_s=60, name="25W", who="ann@desk: toolchain bench")
        boards.put(root, f"{boards.STATE}/refuse", "")
        session.request("restore_mode", timeout_s=60)
    exam = examine()
    assert "unfit a power mode was left behind" in shown(exam.findings)
    assert exam.findings[0].command == "sudo nvpmodel -m 0"
    (root / boards.STATE / "refuse").unlink()
    exam = examine()
    assert "note a power mode was left behind" in shown(exam.findings)
    assert exam.state.power_mode is not None
    assert exam.state.power_mode.name == "15W"
    assert examine().healed is None


def test_over_ssh(board: Callable[[str], Path], dev: Sshd) -> None:
    board("agx-orin")
    exam = examine("dev")
    assert (exam.host, exam.target) == ("dev", "jetson-agx-orin-64gb")
    assert abs(exam.clock.unix_s) <= exam.clock.error_s + 0.001
    assert "on dev: sudo jetson_clocks" in page(exam)


def test_command(board: Callable[[str], Path]) -> None:
    board("pi5")
    words = [sys.executable, "-c", "from toolchain.cli.main import main; main()", "doctor", "local"]
    ended = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == errors.MeasurementError.exit_code == 10
    answer = json.loads(ended.stdout)
    assert (answer["fit"], answer["target"], answer["state"]["governor"]) == (False, "raspberry-pi-5", "ondemand")
    unknown = subprocess.run([*words, "--target", "raspberry-pi-6"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "did you mean raspberry-pi-5" in unknown.stderr


PROBE: dict[str, Any] = {
    "python": "3.11.2", "numpy": "2.0", "arch": "x86_64", "kernel": "Linux", "hostname": "h", "board": None, "compatible": None,
    "l4t": None, "nvpmodel_conf": None, "power_modes": None, "boot_control": None, "dmi": None, "virtual": None, "emulated": None,
    "devfreq": [],
    "accelerators": [], "gpus": [], "packages": {}, "cpu_model": "Intel(R) N100", "cpu_flags": [], "cores": 4,
    "memory_total_bytes": 1 << 34, "disk_free_bytes": 1 << 40, "unreadable": {},
    "runtimes": {"onnxruntime": {"version": "1.22", "providers": [], "precisions": []}},
}  # fmt: skip
CALM: dict[str, Any] = {
    "governor": "performance", "clocks": {"cpu policy0": clock(700, 3400)}, "power_mode": None, "memory_free_bytes": 1 << 33,
    "disk_free_bytes": 1 << 40,
}  # fmt: skip


def exam_of(probe: dict[str, Any] | None = None, now: State | None = None, **changes: Any) -> Examination:
    now = now or state(**CALM)
    fields: dict[str, Any] = {
        "host": "dev", "target": "intel-n100", "named": False, "match": Match([], [], []), "mismatches": [], "no_runtime": None,
        "release": None, "probe": check(Probe, {**PROBE, "state": now.model_dump(), **(probe or {})}), "state": now,
        "clock": ClockOffset(0.0, 0.0, 0.001, 0.002, 20, 0.0), "power": [], "no_power": None, "healed": None, "busy": None,
    }  # fmt: skip
    return Examination(**{**fields, **changes})


def found(**changes: Any) -> list[str]:
    return shown(ailments.findings(exam_of(**changes), load_target("intel-n100")))


def test_nothing_is_wrong() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"governor": "powersave"}, "unfit the clocks are free"),
        ({"turbo": True}, "warning turbo is on"),
        ({"clocks": None, "unreadable": {"clocks": "x"}}, "warning the clocks can be neither read nor held"),
        ({"throttle": None}, "warning throttling cannot be noticed"),
        ({"throttle": {"throttled": sign("live", 1)}}, "unfit the device throttles: throttled"),
        ({"throttle": {"core_throttle": sign("count", 7)}}, "warning it has throttled since it booted: core_throttle 7"),
        ({"throttle": {"oc3": sign("count", 7, fatal=False)}}, None),
        ({"temperature_c": {"pkg": 91.0}}, "warning it is hot"),
        ({"busy": [{"pid": 7, "name": "make", "cpu_percent": 180.0}]}, "unfit others take 180 % of a core"),
        ({"busy": [{"pid": 7, "name": "sh", "cpu_percent": 30.0}]}, "warning others take 30 % of a core"),
        ({"busy": [{"pid": 7, "name": "sh", "cpu_percent": 3.0}]}, None),
        ({"disturbing": ["gnome-shell"]}, "warning gnome-shell is running"),
        ({"disturbing": ["jtop"]}, "warning jtop is running"),
        ({"disturbing": ["apt"]}, "warning apt is running"),
        ({"agents": 2}, "warning 2 other agents of this toolchain run here"),
        ({"accelerator_users": [{"pid": 3, "name": "x", "device": "/dev/nvmap"}]}, "warning x uses the accelerator"),
        ({"memory_free_bytes": 300 << 20}, "warning 300 MiB of memory free"),
        ({"memory_free_bytes": 60 << 20}, "unfit 60 MiB of memory free"),
        ({"swap_total_bytes": 1 << 30, "swap_free_bytes": 1 << 29}, "warning 512 MiB are swapped out"),
        ({"disk_free_bytes": 1 << 20}, "unfit 1 MiB of disk free"),
        ({"supply_ma": 3000}, "warning the supply is weak"),
        ({"pcie_links": {"hailo0": "5.0 GT/s PCIe x1"}}, "warning hailo0 is linked at 5.0 GT/s PCIe x1"),
        ({"pcie_links": {"hailo0": "8.0 GT/s PCIe x1"}}, None),
        ({"on_battery": True}, "warning it runs on its battery"),
    ],
)  # fmt: skip
def test_findings_of_the_state(change: dict[str, Any], finding: str | None) -> None:
    assert found(now=state(**{**CALM, **change})) == ([finding] if finding else [])


HEALED = {"asked": "25W", "who": "ann", "since_unix": 0.0}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"mismatches": ["architecture: x86_64, not aarch64"]}, "unfit not a intel-n100"),
        ({"target": None}, "warning no target describes this device"),
        ({"no_runtime": "runtime tensorrt: not there"}, "warning the target's default runtime is missing"),
        ({"probe": {"runtimes": {"onnxruntime": None}}}, "unfit the runtime is missing"),
        ({"probe": {"numpy": None}}, "unfit numpy is missing"),
        ({"probe": {"virtual": "QEMU"}}, "warning a virtual machine (QEMU)"),
        ({"probe": {"emulated": "qemu"}}, "unfit an emulated processor (qemu)"),
        ({"busy": "ann"}, "unfit somebody else measures here"),
        ({"healed": Healed(**HEALED, problems=["no"], commands=["sudo x"])}, "unfit a power mode was left behind"),
        ({"healed": Healed(**HEALED, problems=[], commands=[])}, "note a power mode was left behind"),
        ({"no_power": "permission: RAPL"}, "note energy would be: not measured"),
        ({"clock": ClockOffset(-7200.0, 0.0, 0.001, 0.002, 20, 0.0)}, "note its clock is off"),
    ],
)
def test_findings_of_the_rest(change: dict[str, Any], finding: str) -> None:
    assert found(**change) == [finding]


def test_the_worst_comes_first() -> None:
    severities = [line.split()[0] for line in found(now=state(**{**CALM, "turbo": True, "governor": "x"}), no_power="x")]
    assert severities == ["unfit", "warning", "note"]
