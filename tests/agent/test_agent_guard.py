"""An agent that nobody needs any more ends, whatever it is busy with; and the lock that goes with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolchain.agent import guard, lock
from toolchain.device.messages import MARKER

PROGRAM = """
import json, os, subprocess, sys, time
from toolchain.agent import guard, lock, main, wire

main.OPS["busy"] = (None, None)
link = wire.take_over_stdio()
watch = guard.Guard(link, sys.argv[1])
watch.at_end(lambda: open(sys.argv[2], "a").write("put back\\n"))
link.send({"pid": os.getpid()})
memory = {}
while True:
    request = link.receive()
    if request is None:
        break
    job = main.Job(request, link, memory, ".", sys.argv[3], watch)
    if request["op"] == "busy":
        child = subprocess.Popen(["sleep", "300"])
        link.send({"ok": {"child": child.pid}})
        os.waitpid(child.pid, 0)  # one long call into C, as into a runtime
    link.send({"ok": lock.lock(job)})
watch.finish()
"""
RUN = "ab" * 8


class Agent:
    def __init__(self, folder: Path, run: str = RUN, root: str | None = None) -> None:
        self.notes = folder / "notes"
        words = [sys.executable, "-c", PROGRAM, run, str(self.notes), root or str(folder)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.hear()["pid"]

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline().replace(MARKER, b"")))

    def say(self, op: str = "lock", **fields: Any) -> None:
        assert self.process.stdin is not None
        asked = {"id": 1, "op": op, "owner": f"{self.pid}", "who": f"agent {self.pid}", "wait_s": 0.0, "lease_s": 0.0}
        self.process.stdin.write(json.dumps({**asked, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def lock(self, **fields: Any) -> dict[str, Any]:
        self.say(**fields)
        return dict(self.hear()["ok"])

    def ended(self) -> int:
        return self.process.wait(15)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Any]:
    started: list[Agent] = []

    def start(**more: Any) -> Agent:
        started.append(Agent(tmp_path, **more))
        return started[-1]

    yield start
    for agent in started:
        agent.process.kill()
        agent.process.wait(10)
        for stream in (agent.process.stdin, agent.process.stdout):
            stream.close()


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_closed_link_ends_a_busy_agent_and_its_children(agents: Any) -> None:
    agent = agents()
    agent.say("busy")
    child = agent.hear()["ok"]["child"]
    agent.process.stdin.close()
    agent.ended()
    assert agent.notes.read_text() == "put back\n"
    assert gone(child)


def test_what_must_be_put_back_is_put_back_once(agents: Any) -> None:
    agent = agents()
    agent.process.stdin.close()
    assert agent.ended() == 0
    assert agent.notes.read_text() == "put back\n"


def test_a_hook_that_hangs_does_not_keep_the_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = """
import os, sys, time
from toolchain.agent import guard, wire
guard.END_S, guard.GRACE_S = 0.3, 0.1
watch = guard.Guard(wire.take_over_stdio())
watch.at_end(lambda: time.sleep(300))
time.sleep(300)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(15) != 0


def test_a_new_link_ends_what_the_old_one_left(agents: Any) -> None:
    first, second, other = agents(), agents(), agents(run="cd" * 8)
    second.say("busy")
    second.hear()
    guard.end_run(RUN)
    assert (first.ended(), second.ended()) == (3, 3)
    assert other.process.poll() is None
    guard.end_run(RUN)  # nobody left
    guard.end_run("../x")
    guard.end_run(None)


def test_one_at_a_time(agents: Any) -> None:
    first, second, third = agents(), agents(), agents(root="/elsewhere")
    assert first.lock() == {"held": True, "holder": None}
    assert first.lock() == {"held": True, "holder": None}, "ours already"
    refused = second.lock()
    assert not refused["held"]
    assert refused["holder"]["who"] == f"agent {first.pid}"
    assert refused["holder"]["held_s"] >= 0
    assert third.lock()["held"], "another device"
    assert second.lock(owner=f"{first.pid}")["held"], "another session of the same owner"


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_the_lock_goes_with_its_holder(agents: Any, how: str) -> None:
    first, second = agents(), agents()
    first.lock()
    second.say(wait_s=60.0)
    assert second.hear()["data"]["who"] == f"agent {first.pid}"
    if how == "killed":
        os.kill(first.pid, signal.SIGKILL)
    else:
        first.process.stdin.close()
    assert second.hear() == {"ok": {"held": True, "holder": None}}


def test_waiting_has_an_end(agents: Any) -> None:
    first, second = agents(), agents()
    first.lock()
    second.say(wait_s=0.2)
    assert second.hear()["event"] == "busy"
    assert not second.hear()["ok"]["held"]


def test_a_frozen_holder_is_named_by_its_process(agents: Any) -> None:
    first, second = agents(), agents()
    first.lock()
    os.kill(first.pid, signal.SIGSTOP)
    assert second.lock()["holder"]["who"] == f"process {first.pid} of user {os.geteuid()}"


def test_a_silent_host_loses_the_device_and_its_other_agents(agents: Any) -> None:
    first, second = agents(), agents()
    first.lock(lease_s=0.8)
    for _ in range(8):  # empty lines are signs of life
        first.process.stdin.write(b"\n")
        first.process.stdin.flush()
        time.sleep(0.2)
    assert first.process.poll() is None
    assert (first.ended(), second.ended()) == (3, 3)


def test_name_of_the_lock() -> None:
    assert lock.name_of("/tmp/x") == lock.name_of("/tmp/./x/") != lock.name_of("/")
    assert lock.name_of("/").startswith("\0")
