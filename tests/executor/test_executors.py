"""Every executor keeps the contract: each task once, errors named after all others are done, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.executor.tasks import taken
from toolchain.errors import TaskError, UnknownNameError, UsageError
from toolchain.executor import registry
from toolchain.executor.processes import Processes
from toolchain.executor.registry import EXECUTORS, Scale, make_executor
from toolchain.executor.task import Executor, Task

HERE = "tests.executor.tasks"


@pytest.fixture(params=sorted(EXECUTORS))
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each that is registered, two tasks at a time where it can."""
    name = request.param
    address = request.getfixturevalue("cluster").address if name == "ray" else None
    return make_executor(Scale(name, None if name == "serial" else 2, address))


def task(key: str, function: str, **arguments: Any) -> Task:
    return Task(key, f"{HERE}:{function}", arguments)


def lines(journal: Path, word: str) -> list[str]:
    """Keys of the tasks that began (or ended), in order."""
    found = journal.read_text().splitlines() if journal.exists() else []
    return [line.split()[1] for line in found if line.startswith(word)]


def test_each_task_is_done_once_and_comes_with_its_result(executor: Executor, tmp_path: Path) -> None:
    tasks = [task(f"t{i}", "work", journal=str(tmp_path / "j"), name=f"t{i}") for i in range(7)]
    found = list(executor.run(tasks))
    assert sorted(one.key for one, _ in found) == [one.key for one in tasks]
    assert all(result["name"] == one.key for one, result in found)
    assert sorted(lines(tmp_path / "j", "end")) == [one.key for one in tasks]


def test_nothing_to_do(executor: Executor) -> None:
    assert list(executor.run([])) == []


def test_results_have_the_same_types_everywhere(executor: Executor) -> None:
    ((_, result),) = executor.run([task("t", "tuples")])
    assert result == [1, {"2": [3]}]


def test_failures_are_told_when_the_others_are_done(executor: Executor) -> None:
    tasks = [task(kind, "fail", kind=kind) for kind in ("ours", "name", "bug")]
    tasks += [task("unfit", "unfit"), task("missing", "no_such_function"), task("good", "add", a=1, b=2)]
    got, text = taken(executor, tasks)
    assert got == {"good": 3}
    parts = "5 of 6 tasks failed", "ours: ModelError on ", "the model is no good", "name: UnknownNameError", "did you mean fisher"
    for part in (*parts, "a bug", "in fail", "unfit: TypeError", "missing: AttributeError"):
        assert part in text, part


def test_files_come_along_and_what_must_be_there_is_named(executor: Executor, tmp_path: Path) -> None:
    for name in ("model.pt", "data.yaml"):
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / "work").mkdir()
    files, places = {"model": tmp_path / "model.pt"}, {"data": tmp_path / "data.yaml"}
    one = Task("t", f"{HERE}:read", files=files, places=places, work=tmp_path / "work")
    ((_, result),) = executor.run([one])
    assert result == ["model.pt", "text of model.pt", "text of data.yaml"]
    gone = Task("gone", f"{HERE}:read", files=files, places={"data": tmp_path / "nowhere.yaml"}, work=tmp_path / "work")
    with pytest.raises(TaskError, match=f"gone: DataError on {os.uname().nodename}.*\n.*nowhere.yaml"):
        list(executor.run([gone]))


def test_a_folder_is_filled_and_gone_on_with(executor: Executor, tmp_path: Path) -> None:
    for expected in (1, 2):
        ((_, result),) = executor.run([Task("t", f"{HERE}:fill", out=tmp_path)])
        assert result == expected
    with pytest.raises(TaskError, match="three is too many"):
        list(executor.run([Task("t", f"{HERE}:fill", out=tmp_path)]))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["state"]
    assert (tmp_path / "sub" / "state").read_text() == "3"


def test_two_tasks_of_one_name_are_a_mistake(executor: Executor) -> None:
    with pytest.raises(ValueError, match="two tasks of one name"):
        list(executor.run([task("t", "add", a=1, b=2)] * 2))


def test_tasks_are_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        task("t", "add", a=tmp_path)


# --- names and settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        (Scale("rey"), "did you mean ray"),
        (Scale("processes", 0), "workers below 1"),
        (Scale("serial", 2), "serial executor has no workers"),
        (Scale("processes", 2, "10.0.0.1:6379"), "Ray address without Ray"),
    ],
)
def test_settings_that_would_not_be_heeded_are_refused(scale: Scale, text: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=text):
        make_executor(scale)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "edge-toolchain\[ray\]"'):
        make_executor(Scale("ray"))


def test_ray_is_not_imported_unless_asked_for() -> None:
    code = "import sys, toolchain.cli, toolchain.verbs, toolchain.executor.registry as r; r.make_executor(r.Scale('processes'));"
    subprocess.run([sys.executable, "-c", code + "sys.exit('ray' in sys.modules)"], check=True)


# --- processes -------------------------------------------------------------------------------------------------------------


def test_a_task_whose_process_died_is_done_by_another(tmp_path: Path) -> None:
    journal = str(tmp_path / "j")
    tasks = [task("fatal", "die_once", journal=journal, name="fatal")]
    tasks += [task(f"t{i}", "work", journal=journal, name=f"t{i}", seconds=0.05) for i in range(4)]
    assert sorted(one.key for one, _ in Processes(2).run(tasks)) == ["fatal", "t0", "t1", "t2", "t3"]
    assert lines(tmp_path / "j", "begin").count("fatal") == 2


def test_a_task_that_kills_its_process_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    journal = str(tmp_path / "j")
    tasks = [task("fatal", "die", journal=journal, name="fatal")]
    tasks += [task(f"t{i}", "work", journal=journal, name=f"t{i}", seconds=0.05) for i in range(3)]
    got, text = taken(Processes(2), tasks)
    assert "1 of 4 tasks failed" in text
    assert "fatal: its process died, twice" in text
    assert sorted(got) == ["t0", "t1", "t2"]
    assert lines(tmp_path / "j", "begin").count("fatal") == 2


def test_the_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolchain.executor import processes

    monkeypatch.setattr(processes, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = [result for _, result in Processes(2).run([task("a", "threads"), task("b", "threads")])]
    assert found == ["2", "2"]


def test_workers_do_not_write_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    ((_, said),) = Processes(1).run([task("t", "loud")])
    assert said == "said"
    assert capfd.readouterr().out == ""


def test_given_up_in_the_middle_nothing_is_waited_for(tmp_path: Path) -> None:
    tasks = [task("quick", "add", a=1, b=1), task("long", "work", journal=str(tmp_path / "j"), name="long", seconds=60)]
    results = Processes(2).run(tasks)
    assert next(iter(results))[0].key == "quick"
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 10
    assert lines(tmp_path / "j", "end") == []


def runs(pid: int) -> bool:
    """A process that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


DRIVER = """
import sys
from toolchain.executor.processes import Processes
from toolchain.executor.task import Task
if __name__ == "__main__":
    list(Processes(1).run([Task("t", "tests.executor.tasks:sleep", {"journal": sys.argv[1]})]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    journal = tmp_path / "j"
    root = str(Path(registry.__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", journal], env=env, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (journal.exists() and journal.read_text().endswith("\n")):
            assert time.monotonic() < until
            time.sleep(0.05)
        worker = int(journal.read_text())
        driver.send_signal(how)
        driver.wait(20)
        while runs(worker):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
