"""A test runner that is killed leaves nothing of the lab behind: no process, no mount, no namespace, no group of processes."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.arm import can_make_arm
from tests.lab.box import PROJECT, Box
from tests.lab.device import descendants, process_name
from tests.lab.network import can_make_networks

RUNNER = """
import subprocess, sys, time
from dataclasses import replace
from pathlib import Path
from tests.lab.arm import arm_making
from tests.lab.box import Making
from tests.lab.network import Network, boxes

folder, core = Path(sys.argv[1]), sys.argv[2]
making = replace(arm_making(folder, core) if core else Making(), memory="256M")
with Network(folder / "net", 2, boxes(making)) as network, network.entered():
    busy = subprocess.Popen(["ssh", "-F", str(network.config), "dev", "echo up; sleep 300"], stdout=subprocess.PIPE)
    busy.stdout.readline()
    network[1].freeze()
    print("up", flush=True)
    time.sleep(300)
"""


def groups() -> set[str]:
    return {path for pattern in ("edge-lab-*", "*/edge-lab-*") for path in glob.glob(f"/sys/fs/cgroup/{pattern}")}


@pytest.mark.parametrize("core", ["", "cortex-a72"])
def test_killed_runner(tmp_path: Path, core: str) -> None:
    can_make_networks()
    if core:
        can_make_arm()
    command = [sys.executable, "-c", RUNNER, str(tmp_path), core]
    before = Path("/proc/self/mountinfo").read_text()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as runner:
        try:
            assert runner.stdout is not None
            assert runner.stdout.readline() == b"up\n"
            started = {pid: name for pid in descendants(runner.pid) if (name := process_name(pid)) and name != "ssh"}
            made = {path for path in groups() if int(path.rpartition("-")[2]) in started}
            assert {"python", "box.sh", "unshare", "sshd"} <= set(started.values()), "wire and boxes are up"
            assert made
        finally:
            os.kill(runner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (any(process_name(pid) == name for pid, name in started.items()) or made & groups()):
        time.sleep(0.05)
    assert not {pid: name for pid, name in started.items() if process_name(pid) == name}
    assert not made & groups()
    assert Path("/proc/self/mountinfo").read_text() == before


def test_ended_devices(make_box: Callable[..., Box], make_arm: Callable[..., Box]) -> None:
    for make in (make_box, make_arm):
        device = make()
        with subprocess.Popen(["ssh", "-F", str(device.config), "dev", "echo up; sleep 300"], stdout=subprocess.PIPE) as busy:
            assert busy.stdout is not None
            busy.stdout.readline()
            there = device.processes()
            device.freeze()
            device.end()
        assert "sshd" in there.values()
        assert not [pid for pid, name in there.items() if process_name(pid) == name]
