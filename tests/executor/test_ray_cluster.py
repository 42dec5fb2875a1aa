"""On a real cluster of two nodes, one of which is killed; and the parts that need none."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.executor.conftest import NODE
from tests.executor.tasks import taken
from toolchain.errors import TaskError, UnreachableError, UsageError
from toolchain.executor import parcels
from toolchain.executor.parcels import Sender, on_node
from toolchain.executor.ray_cluster import RayCluster, cpus_each
from toolchain.executor.task import Task

HERE = "tests.executor.tasks"


def lines(journal: Path) -> list[list[str]]:
    """Words of the lines: begin or end, task, node, process."""
    return [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []


def pid_of(node: Any) -> str:
    """The process that starts a node's workers."""
    (raylet,) = node.all_processes["raylet"]
    return str(raylet.process.pid)


def pull_the_plug(cluster: Any, node: Any, journal: Path) -> bool:
    """Kill a node and what runs on it, if a task is under way there."""
    there = [words for words in lines(journal) if words[2] == pid_of(node)]
    running = {words[1] for words in there if words[0] == "begin"} - {words[1] for words in there if words[0] == "end"}
    if not running:
        return False
    for pid in (pid_of(node), *{words[3] for words in there}):
        os.kill(int(pid), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)
    return True


def test_a_node_killed_in_the_middle_costs_nothing(cluster: Any, tmp_path: Path) -> None:
    """Every result is on the disk, written once; what was told before the node died is not done again."""
    victim = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    journal, results = tmp_path / "journal", tmp_path / "results"
    results.mkdir()
    tasks = [Task(f"t{i}", f"{HERE}:work", {"journal": str(journal), "name": f"t{i}", "seconds": 0.5}) for i in range(24)]
    told: list[str] = []  # before the node died
    killed = False
    for task, result in RayCluster(address=cluster.address).run(tasks):
        with (results / task.key).open("x") as stream:  # a second time would be an error
            json.dump(result, stream)
        if not killed:
            told.append(task.key)
            killed = len(told) >= 3 and pull_the_plug(cluster, victim, journal)
    assert killed, "the node never had a task under way"
    assert sorted(path.name for path in results.iterdir()) == sorted(task.key for task in tasks)
    begins = [words[1] for words in lines(journal) if words[0] == "begin"]
    ends = [words[1] for words in lines(journal) if words[0] == "end"]
    assert set(ends) == {task.key for task in tasks}
    assert [key for key in told if begins.count(key) != 1] == [], "a task that had been told was done again"
    again = [key for key in set(begins) if begins.count(key) > 1]
    assert len(begins) - len(ends) == len(again) == 1, "the one task that was cut off is done once more"


def test_a_process_that_dies_every_time_is_named(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolchain.executor import ray_cluster

    monkeypatch.setattr(ray_cluster, "RETRIES", 1)
    journal = tmp_path / "journal"
    tasks = [
        Task("fatal", f"{HERE}:die", {"journal": str(journal), "name": "fatal"}),
        Task("good", f"{HERE}:add", {"a": 1, "b": 2}),
    ]
    got, text = taken(RayCluster(address=cluster.address), tasks)
    assert "1 of 2 tasks failed" in text
    assert "fatal: WorkerCrashedError" in text
    assert got == {"good": 3}
    assert len(lines(journal)) == 2


def test_a_task_that_failed_is_not_tried_again(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "state").write_text("2")
    with pytest.raises(TaskError, match="three is too many"):
        list(RayCluster(address=cluster.address).run([Task("t", f"{HERE}:fill", out=tmp_path)]))
    assert (tmp_path / "sub" / "state").read_text() == "3"


def test_given_up_in_the_middle_the_rest_is_taken_back(cluster: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    arguments = {"journal": str(journal), "seconds": 30}
    tasks = [Task("quick", f"{HERE}:add", {"a": 1, "b": 1})]
    tasks += [Task(f"long{i}", f"{HERE}:work", {**arguments, "name": f"long{i}"}) for i in range(3)]
    results = RayCluster(address=cluster.address).run(tasks)
    assert next(iter(results))[0].key == "quick"
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 15
    ((_, found),) = RayCluster(address=cluster.address).run([Task("after", f"{HERE}:add", {"a": 2, "b": 2})])
    assert found == 4, "the nodes are free again"


def test_what_no_node_has_is_refused_at_once(cluster: Any) -> None:
    with pytest.raises(UsageError, match="no node of the Ray cluster has what a task needs"):
        list(RayCluster(address=cluster.address).run([Task("t", f"{HERE}:add", {"a": 1, "b": 2}, gpus=1)]))


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**settings: Any) -> None:
        raise ConnectionError(f"nothing at {settings['address']}")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UnreachableError, match="nothing at 127"):
        list(RayCluster(address="127.0.0.1:1").run([Task("t", f"{HERE}:add", {"a": 1, "b": 2})]))


# --- without a cluster -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "wanted", "cpus"),
    [
        ([8, 8], 16, 1),
        ([8, 8], 100, 1),
        ([8, 8], 2, 8),
        ([8, 8], 3, 4),  # not 16 // 3 = 5: a node has room for one such task only
        ([8, 8], 4, 4),
        ([16, 4], 2, 4),  # any node can take any task, also when the large one dies
        ([8, 0], 1, 8),
        ([0], 1, 1),
        ([], 1, 1),
    ],
)
def test_cpus_of_a_task(nodes: Sequence[int], wanted: int, cpus: int) -> None:
    assert cpus_each([{"CPU": count} if count else {} for count in nodes], wanted) == cpus


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """An object store in this process, and a node's cache of its own."""
    contents: list[bytes] = []
    monkeypatch.setattr(parcels, "fetch", lambda reference: contents[reference])
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return contents


def sender(store: list[bytes]) -> Sender:
    return Sender(lambda data: store.append(data) or len(store) - 1)  # type: ignore[func-returns-value]


def test_a_file_travels_once_by_its_hash(store: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "data.yaml").touch()
    (tmp_path / "model.pt").write_text("weights")
    one = Task(
        "a", f"{HERE}:read", files={"model": tmp_path / "model.pt"}, places={"data": tmp_path / "data.yaml"}, work=tmp_path / "w"
    )
    with sender(store) as sending:
        sent = [sending.send(one), sending.send(replace(one, key="b"))]
    assert store == [b"weights"]
    (tmp_path / "model.pt").unlink()  # a node does not see it
    assert [on_node(each, 1).outcome.value for each in sent] == [["model.pt", "weights", ""]] * 2
    assert not (tmp_path / "w").exists(), "what can be made again stays on the node"


def test_a_folder_the_node_does_not_see_travels_both_ways(store: list[bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "state").write_text("1")
    with sender(store) as sending:
        sent = sending.send(Task("t", f"{HERE}:fill", out=out))
    answer = on_node(sent, 1)  # the mark is gone: as on a machine that has another folder there
    assert answer.outcome.value == 2
    assert (out / "sub" / "state").read_text() == "1"
    answer.write(out)
    assert (out / "sub" / "state").read_text() == "2"
    assert list((tmp_path / "cache").rglob("state")) == []
    assert [path.name for path in out.iterdir()] == ["sub"]


def test_a_node_that_sees_the_folder_works_in_it(store: list[bytes], tmp_path: Path) -> None:
    with sender(store) as sending:
        answer = on_node(sending.send(Task("t", f"{HERE}:fill", out=tmp_path)), 1)
    assert answer.made == {}
    assert (tmp_path / "sub" / "state").read_text() == "1"


def test_a_second_try_on_a_node_goes_on_where_the_first_died(
    store: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    with sender(store) as sending:
        sent = sending.send(Task("t", f"{HERE}:fill", out=tmp_path / "out"))
    real = parcels.attempt_apart

    def die(task: Task) -> Any:
        real(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(parcels, "attempt_apart", die)
    with pytest.raises(KeyboardInterrupt):
        on_node(sent, 1)
    monkeypatch.setattr(parcels, "attempt_apart", real)
    assert on_node(sent, 1).outcome.value == 2
