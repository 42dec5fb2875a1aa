"""Several devices at once: what fails stays by itself, Ctrl-C reaches all, progress can be told apart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.lab.network import Network
from tests.lab.sshd import Sshd
from toolchain import errors, progress, verbs
from toolchain.device import fleet, stop
from toolchain.device.pace import pace_of
from toolchain.device.remote import connect
from toolchain.device.settings import On

SHORT = pace_of("quick", rounds=1, runs=2)


def test_outcomes_come_in_the_order_of_the_hosts() -> None:
    def work(host: str) -> str:
        time.sleep(0.1 if host == "a" else 0)
        if host == "b":
            raise errors.UnreachableError("no route", got="b", fix="plug it in")
        return host.upper()

    seen: list[str] = []
    outcomes = fleet.run_on(["a", "b", "c"], work, done=lambda outcome: seen.append(outcome.host))
    assert [(one.host, one.value) for one in outcomes] == [("a", "A"), ("b", None), ("c", "C")]
    assert seen[-1] == "a", "results are given as they come"
    assert set(seen) == {"a", "b", "c"}
    error = fleet.failed(outcomes)
    assert isinstance(error, errors.DeviceError)
    assert "1 of 3 devices" in str(error)
    assert "b: no route" in str(error)
    assert outcomes[1].to_json(None)["error"] == {
        "kind": "UnreachableError", "what": "no route", "text": "no route\n  got: b\n  try: plug it in",
    }  # fmt: skip
    assert fleet.failed([outcomes[0], outcomes[2]]) is None
    assert fleet.failed([outcomes[1]]) is outcomes[1].error


@pytest.mark.parametrize("hosts", [[], ["a", "a"], ["a", "b c"]])
def test_bad_lists_of_hosts(hosts: list[str]) -> None:
    with pytest.raises(errors.UsageError):
        fleet.run_on(hosts, str)


def test_a_bug_is_raised_when_the_others_are_done() -> None:
    done: list[str] = []
    with pytest.raises(ZeroDivisionError):
        fleet.run_on(["a", "b"], lambda host: 1 / (host == "a"), done=lambda outcome: done.append(outcome.host))
    assert sorted(done) == ["a", "b"]


@pytest.mark.parametrize(
    ("host", "name"), [("pi5", "pi5"), ("me@10.0.0.2:22", "me@10.0.0.2+22"), ("[fe80::1%eth0]:22", "%5bfe80++1%25eth0%5d+22")]
)
def test_every_host_has_its_folder(tmp_path: Path, host: str, name: str) -> None:
    assert fleet.folder_of(tmp_path, host) == tmp_path / name
    assert (tmp_path / name).is_dir()


def interrupt_when(ready: Callable[[], bool]) -> None:
    """Ctrl-C for the main thread."""

    def watch() -> None:
        while not ready():
            time.sleep(0.02)
        assert threading.main_thread().ident is not None
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_ctrl_c_ends_every_worker_and_keeps_what_is_done(dev: Sshd) -> None:
    """Also those that wait for a device: over ssh, on this machine, or asleep."""
    waiting: list[str] = []
    ended: list[str] = []
    done: list[str] = []

    def work(host: str) -> str:
        if host == "a":
            return host
        try:
            if host == "asleep":
                waiting.append(host)
                stop.sleep(60)
                return host
            with connect(host, python=sys.executable) as device, device.session() as session:
                waiting.append(host)
                session.message("test", 60.0)
                return host
        finally:
            ended.append(host)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup has it ignored
    interrupt_when(lambda: len(waiting) == 3 and done == ["a"])
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fleet.run_on(["a", "asleep", "local", "dev"], work, done=lambda outcome: done.append(outcome.host))
    assert sorted(ended) == ["asleep", "dev", "local"]
    assert done == ["a"]
    assert time.monotonic() - started < 30
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fleet")]


def test_waiting_is_as_ever_where_nobody_can_be_told_to_stop() -> None:
    assert stop.wait(lambda seconds: seconds, 3.0) == 3.0
    with pytest.raises(TimeoutError):
        stop.result(never(), 0.0)


def never() -> Any:
    import concurrent.futures

    return concurrent.futures.Future()


def test_a_wait_in_slices_ends_in_time() -> None:
    found: list[Any] = []

    def work() -> None:
        stop.obey(threading.Event())
        slices: list[float] = []
        found.append(stop.wait(lambda seconds: slices.append(seconds) or time.sleep(seconds), 0.5))
        found.append(sum(slices))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] is None
    assert found[1] == pytest.approx(0.5, abs=0.1)


class Terminal:
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_threads_share_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first may leave first; the last one takes the display away; each line says whose it is."""
    console = Console(file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    first, second = threading.Event(), threading.Event()
    titles: list[str] = []

    def work(host: str, mine: threading.Event) -> None:
        with progress.speaker(host), progress.task("Timing", total=2) as task:
            titles.append(task.title)
            task.advance()
            mine.wait(10)

    threads = [threading.Thread(target=work, args=pair) for pair in (("pi", first), ("nano", second))]
    for thread in threads:
        thread.start()
    while len(titles) < 2:
        time.sleep(0.01)
    display = progress._live
    assert display is not None
    assert {task.description for task in display.tasks} == {"pi: Timing", "nano: Timing"}
    first.set()
    threads[0].join()
    assert progress._live is display
    assert display.live.is_started
    second.set()
    threads[1].join()
    assert progress._live is None
    assert not display.live.is_started
    console.file.close()


def test_a_line_that_names_the_host_already_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.speaker("pi"):
        assert progress._spoken("Timing on pi") == "Timing on pi"
        assert progress._spoken("  back again") == "pi: back again"
    assert progress._spoken("alone") == "alone"


def test_text_of_a_device_is_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(stderr=True, width=200)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    with progress.speaker("[fe80::1]:22"), progress.task("Timing [/bold]", total=2) as task:
        task.advance(note="[/x]")
        progress.note("held by [/dev/video0]")
    said = capsys.readouterr().err
    assert "[fe80::1]:22: Timing [/bold]: 1/2" in said
    assert "[/x]" in said
    assert "[fe80::1]:22: held by [/dev/video0]" in said


def samples(out: Path) -> dict[str, Any]:
    """Everything measured so far."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "samples").glob("*.json"))}


def test_a_dead_board_costs_only_its_own_result(
    make_net: Callable[..., Network], engines: dict[str, Path], tmp_path: Path
) -> None:
    """Three boards, the second without power; then it is back, and the same call measures only what is missing."""
    net = make_net(3)
    net[1].cut()
    on = On(threads=1, python=sys.executable, patience_s=0.0)
    found, error = verbs.bench_fleet(engines, tmp_path / "out", ["dev1", "dev2", "dev3"], on=on, pace=SHORT)
    assert "1 of 3 devices gave no result" in str(error)
    assert "dev2" in str(error)
    assert [bool(one["result"]) for one in found["devices"]] == [True, False, True]
    assert json.loads((tmp_path / "out" / "fleet.json").read_text()) == json.loads(json.dumps(found))
    before = {host: samples(tmp_path / "out" / host) for host in ("dev1", "dev3")}
    assert [len(one["rounds"]) for one in before["dev1"].values()] == [1, 1, 1]
    net[1].heal()
    found, error = verbs.bench_fleet(engines, tmp_path / "out", ["dev1", "dev2", "dev3"], on=on, pace=SHORT)
    assert error is None
    assert {host: samples(tmp_path / "out" / host) for host in ("dev1", "dev3")} == before
    assert [(row["host"], row["engine"]) for row in found["rows"]] == [
        (host, engine) for host in ("dev1", "dev2", "dev3") for engine in engines
    ]
    assert not any("the same device" in why for row in found["rows"] for why in row["why"])


def test_several_hosts_are_examined(dev: Sshd) -> None:
    came: list[str] = []
    found, error = verbs.examine(["dev", "nobody.invalid"], python=sys.executable, found=lambda exam: came.append(exam["host"]))
    assert came == ["dev"]
    assert "no such host name" in str(error)
    assert found[0]["result"]["probe"]["arch"]
    assert found[1]["result"] is None


def test_the_command(dev: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    """One JSON object, the code of a failed device, and the other's result on disk."""
    words = [sys.executable, "-m", "toolchain", "bench", *(f"{name}={path}" for name, path in engines.items()), "--json"]
    words += ["--host", "dev", "--host", "nobody.invalid", "--rounds", "1", "--runs", "2", "--profile", "quick"]
    words += ["--threads", "1", "--python", sys.executable, "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    found = json.loads(done.stdout)
    assert [one["host"] for one in found["devices"]] == ["dev", "nobody.invalid"]
    assert "no such host name" in found["devices"][1]["error"]["what"]
    assert (tmp_path / "out" / "dev" / "bench.json").is_file()
    assert "nobody.invalid" in done.stderr
