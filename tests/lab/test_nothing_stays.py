"""A test runner that is killed leaves nothing of the lab behind: no process, no mount, no namespace, no group of processes."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.box import PROJECT, can_make_boxes
from tests.lab.device import descendants, process_name
from tests.lab.network import can_make_networks

RUNNER = """
import subprocess, sys, time
from pathlib import Path
from tests.lab.box import Making
from tests.lab.network import Network

folder = Path(sys.argv[1])
with Network(folder / "net", 2, Making(memory="256M")) as network:
    busy = subprocess.Popen(["ssh", "-F", str(network.config), "dev", "echo up; sleep 300"], stdout=subprocess.PIPE)
    busy.stdout.readline()
    network[1].freeze()
    print("up", flush=True)
    time.sleep(300)
"""


def groups() -> set[str]:
    return {path for pattern in ("edge-lab-*", "*/edge-lab-*") for path in glob.glob(f"/sys/fs/cgroup/{pattern}")}


def test_killed_runner(tmp_path: Path) -> None:
    can_make_boxes("B")
    can_make_networks()
    command = [sys.executable, "-c", RUNNER, str(tmp_path)]
    before = Path("/proc/self/mountinfo").read_text()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as runner:
        try:
            assert runner.stdout is not None
            assert runner.stdout.readline() == b"up\n"
            started = {pid: name for pid in descendants(runner.pid) if (name := process_name(pid)) and name != "ssh"}
            made = {path for path in groups() if int(path.rpartition("-")[2]) in started}
            assert {"sshd", "sleep", "python", "unshare", "box.sh"} <= set(started.values()), "wire, boxes and a session are up"
            assert made
        finally:
            os.kill(runner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (any(process_name(pid) == name for pid, name in started.items()) or made & groups()):
        time.sleep(0.05)
    assert not {pid: name for pid, name in started.items() if process_name(pid) == name}
    assert not made & groups()
    assert Path("/proc/self/mountinfo").read_text() == before
