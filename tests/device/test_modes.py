"""Power modes on boards played from files, by real agents: set, looked at, refused, put back after every kind of end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.fake import boards
from tests.lab.sshd import Sshd
from toolchain import errors
from toolchain.device.conditions import AS_IT_IS
from toolchain.device.messages import check
from toolchain.device.modes import heal, names, power_mode, resolve
from toolchain.device.prepared import prepared
from toolchain.device.remote import connect
from toolchain.device.settings import HERE
from toolchain.device.state_messages import State
from toolchain.device.target import load_target

CPU, GPU = "sys/devices/system/cpu/cpufreq/policy4", "sys/class/devfreq/17000000.gpu"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `local` that board."""

    def make(name: str) -> Path:
        monkeypatch.setenv("EDGE_DEVICE_ROOT", str(tmp_path / name))
        monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))
        return boards.plant(name, tmp_path / name)

    return make


def text(root: Path, name: str) -> str:
    return (root / name).read_text().strip()


def mode(root: Path) -> int:
    return int(text(root, f"{boards.STATE}/nvpmodel"))


def left(cache: Path) -> list[str]:
    """What the agent's cache holds beside the agent itself."""
    return sorted(
        str(path.relative_to(cache)) for path in cache.rglob("*") if not str(path.relative_to(cache)).startswith("agent")
    )


def soon(holds: Callable[[], bool], within_s: float = 20.0) -> bool:
    until = time.monotonic() + within_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


def test_mode_by_name_and_pin(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    before = text(root, f"{CPU}/scaling_max_freq"), text(root, f"{CPU}/scaling_min_freq"), text(root, f"{GPU}/min_freq")
    with connect("local") as device:
        with power_mode(device, None, "maxn_super", pin=True) as found, device.session() as session:
            assert (found.before, found.now, mode(root)) == ("15W", "MAXN_SUPER", 2)
            state = check(State, session.request("state", timeout_s=60))
            assert state.power_mode is not None
            assert state.power_mode.name == "MAXN_SUPER"
            assert state.clocks is not None
            assert all(clock.pinned for clock in state.clocks.values())
            assert state.clocks["cpu policy4"].min_mhz == 1728.0
        assert mode(root) == 0
    assert (text(root, f"{CPU}/scaling_max_freq"), text(root, f"{CPU}/scaling_min_freq"), text(root, f"{GPU}/min_freq")) == before
    assert left(tmp_path / "cache") == []


def test_pin_of_the_mode_it_is_in(board: Callable[[str], Path]) -> None:
    root = board("agx-orin")
    with connect("local") as device, power_mode(device, None, None, pin=True) as found:
        assert (found.before, found.now) == ("MODE_30W", "MODE_30W")
        assert text(root, f"{CPU}/scaling_min_freq") == "2201600"
    assert text(root, f"{CPU}/scaling_min_freq") == "729600"


def test_clocks_that_somebody_held_are_held_again(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    subprocess.run([root / "usr/bin/jetson_clocks"], check=True, env={**os.environ, "EDGE_DEVICE_ROOT": str(root)})
    with connect("local") as device, power_mode(device, None, "25W"):
        assert text(root, f"{CPU}/scaling_min_freq") == "729600"  # a new mode releases them
    assert text(root, f"{CPU}/scaling_min_freq") == text(root, f"{CPU}/scaling_max_freq") == "1510400"


def test_names(board: Callable[[str], Path]) -> None:
    board("agx-orin")
    with connect("local") as device, device.session() as session:
        found = names(session)
    assert (found.tool, found.current) == ("nvpmodel", "MODE_30W")
    assert resolve("30w", found.names) == "MODE_30W"
    assert resolve("MODE_MAXN", found.names) == "MAXN"
    with pytest.raises(errors.UnknownNameError, match="did you mean MODE_30W"):
        resolve("MODE_31W", found.names)


def test_unknown_mode_changes_nothing(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    with connect("local") as device, pytest.raises(errors.UnknownNameError, match="MAXN_SUPER"), power_mode(device, None, "MAXN"):
        pytest.fail("entered")
    assert mode(root) == 0
    with connect("local") as device, pytest.raises(errors.UsageError), power_mode(device, None, None):
        pytest.fail("entered")
    assert left(tmp_path / "cache") == []


def test_reboot_is_reported_and_never_answered(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    with (
        connect("local") as device,
        pytest.raises(errors.PowerModeError, match="asks for a reboot"),
        power_mode(device, None, "7W"),
    ):
        pytest.fail("entered")
    assert not (root / boards.STATE / "answered").exists()
    assert mode(root) == 0
    assert left(tmp_path / "cache") == []


def test_mode_that_is_not_taken(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    boards.put(root, f"{boards.STATE}/nvpmodel.modes", "0 15W live 1510400 624750000\n2 MAXN_SUPER stuck 1728000 1020000000")
    with connect("local") as device, pytest.raises(errors.PowerModeError, match="still 15W after MAXN_SUPER"):  # noqa: SIM117
        with power_mode(device, None, "MAXN_SUPER", pin=True):
            pytest.fail("entered")


def test_pin_that_does_not_hold_is_refused_and_the_mode_put_back(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    boards.put(root, f"{boards.STATE}/unpinnable", "")
    with connect("local") as device, pytest.raises(errors.PowerModeError, match="not held after jetson_clocks"):  # noqa: SIM117
        with power_mode(device, None, "25W", pin=True):
            pytest.fail("entered")
    assert mode(root) == 0
    assert left(tmp_path / "cache") == []


def test_governor_and_devfreq(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("rk3588")
    npu = "sys/class/devfreq/fdab0000.npu/governor"
    with connect("local") as device, power_mode(device, None, "performance", pin=True) as found:
        assert (found.before, found.now) == ("ondemand", "performance")
        assert text(root, f"{CPU}/scaling_governor") == "performance"
        assert text(root, npu) == "performance"
    assert text(root, f"{CPU}/scaling_governor") == "ondemand"
    assert text(root, npu) == "simple_ondemand"
    assert left(tmp_path / "cache") == []


def test_graphics_card(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("card")
    with connect("local") as device, power_mode(device, load_target("nvidia-dgpu"), None, pin=True):
        assert text(root, f"{boards.STATE}/locked") == "2115,2115"
    assert not (root / boards.STATE / "locked").exists()
    assert left(tmp_path / "cache") == []


def test_no_modes_at_all(board: Callable[[str], Path]) -> None:
    board("x86")
    with (
        connect("local") as device,
        pytest.raises(errors.PowerModeError, match="no power modes"),
        power_mode(device, None, "MAXN"),
    ):
        pytest.fail("entered")


def test_failure_in_the_block(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    with connect("local") as device, pytest.raises(errors.DeviceError, match="in the middle"), power_mode(device, None, "25W"):
        raise errors.DeviceError("in the middle")
    assert mode(root) == 0
    assert left(tmp_path / "cache") == []


def test_not_put_back_is_an_error_with_the_command(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    with connect("local") as device:
        with pytest.raises(errors.PowerModeError, match=r"sudo nvpmodel -m 0"), power_mode(device, None, "25W"):
            boards.put(root, f"{boards.STATE}/refuse", "")
        (root / boards.STATE / "refuse").unlink()
        assert mode(root) == 1
        with device.session() as session:
            healed = heal(session)
            assert healed is not None
            assert (healed.asked, healed.problems) == ("25W", [])
            assert heal(session) is None
    assert mode(root) == 0
    assert left(tmp_path / "cache") == []


def test_killed_agent(board: Callable[[str], Path], tmp_path: Path) -> None:
    root = board("orin-nano")
    with connect("local") as device, device.session() as session:
        session.request("set_mode", timeout_s=60, name="MAXN_SUPER", pin="jetson_clocks", who="test")
        assert mode(root) == 2
        assert session.hello is not None
        os.kill(session.hello.pid, signal.SIGKILL)
        assert soon(lambda: left(tmp_path / "cache") == [])
    assert mode(root) == 0
    assert text(root, f"{CPU}/scaling_min_freq") == "729600"


HOST = """
import sys, time
from toolchain.device.modes import power_mode
from toolchain.device.remote import connect
with connect(sys.argv[1]) as device, power_mode(device, None, "MAXN_SUPER", pin=True):
    print("in", flush=True)
    time.sleep(120)
"""


def test_cut_link(board: Callable[[str], Path], dev: Sshd, tmp_path: Path) -> None:
    root = board("orin-nano")
    with connect("dev") as device, pytest.raises(errors.DeviceError), power_mode(device, None, "25W", pin=True):  # noqa: PT012
        assert mode(root) == 1
        dev.cut()
    assert soon(lambda: left(tmp_path / "cache") == [])
    assert mode(root) == 0


@pytest.mark.parametrize("where", ["local", "dev"])
def test_killed_host(board: Callable[[str], Path], dev: Sshd, tmp_path: Path, where: str) -> None:
    root = board("orin-nano")
    with subprocess.Popen([sys.executable, "-c", HOST, where], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"in\n"
        assert mode(root) == 2
        host.kill()
    assert soon(lambda: left(tmp_path / "cache") == [])
    assert mode(root) == 0
    assert text(root, f"{GPU}/min_freq") == "306000000"


def test_frozen_host(board: Callable[[str], Path], dev: Sshd, tmp_path: Path) -> None:
    root = board("orin-nano")
    short = "import toolchain.device.modes as m\nm.LEASE_S, m.BEAT_S = 1.5, 0.2"
    with subprocess.Popen([sys.executable, "-c", short + HOST, "dev"], stdout=subprocess.PIPE) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == b"in\n"
            assert not soon(lambda: mode(root) != 2, 3.0)  # it is heard, so the mode stays
            host.send_signal(signal.SIGSTOP)
            assert soon(lambda: left(tmp_path / "cache") == [])
        finally:
            host.kill()
    assert mode(root) == 0


def test_benchmark_without_a_mode_puts_back_what_was_left(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    with connect("local") as device:
        with device.session() as session:
            session.request("set_mode", timeout_s=60, name="25W", who="ann@desk")
            boards.put(root, f"{boards.STATE}/refuse", "")
            session.request("restore_mode", timeout_s=60)
        with pytest.raises(errors.PowerModeError, match="what ann@desk left cannot be put back"):  # noqa: SIM117
            with power_mode(device, None, "MAXN_SUPER"):
                pytest.fail("entered")
        (root / boards.STATE / "refuse").unlink()
        with prepared(device, HERE, None, AS_IT_IS):
            assert mode(root) == 0


def test_second_session_is_told(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    with connect("local") as device, power_mode(device, None, "25W"), device.session() as session:
        assert heal(session) is None  # a living session holds it
        answer = session.request("restore_mode", timeout_s=60)
        assert answer["problems"]
        assert mode(root) == 1


def test_after_a_power_cut_the_mode_is_put_back_and_clocks_are_not(board: Callable[[str], Path]) -> None:
    root = board("orin-nano")
    with connect("local") as device:
        with device.session() as session:
            session.request("set_mode", timeout_s=60, name="25W", pin="jetson_clocks", who="me")
            boards.put(root, f"{boards.STATE}/refuse", "")  # leaves all as a power cut does
            assert session.request("restore_mode", timeout_s=60)["problems"]
        (root / boards.STATE / "refuse").unlink()
        boards.put(root, "proc/sys/kernel/random/boot_id", boards.BOOT_ID.replace("1", "2"))
        boards.put(root, f"{CPU}/scaling_min_freq", 1)
        with power_mode(device, None, "MAXN_SUPER") as found:
            assert found.before == "15W"
        assert mode(root) == 0
