"""Tasks on a Ray cluster: files travel through its object store, tasks of a node that dies are done on another."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from toolchain.errors import ConnectionLostError, UnreachableError, UsageError
from toolchain.executor.parcels import Answer, Sender, on_node
from toolchain.executor.task import Outcome, Task, check_keys, raise_failures

RETRIES = 3  # of a task whose process or node died; never of one that failed
LOOK_EVERY_S, PATIENCE_S = 5.0, 60.0  # with no node that could go on


class RayCluster:
    """
    Attributes:
        workers: tasks at a time, over all nodes; None: one a CPU of the cluster.
        address: HOST:PORT of its head; None: Ray's own rule.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports to its makers
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError("Ray is not installed", got=error, fix='pip install "edge-toolchain[ray]"') from error
        self.workers, self.address = workers, address

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """See `Executor`.

        Raises:
            UnreachableError: no cluster at the address.
            ConnectionLostError: no node is left that could go on.
            TaskError: after all others are done, if some failed.
        """
        check_keys(tasks)
        failures: dict[str, str] = {}
        if tasks:
            with _connected(self.address):
                yield from _drain(tasks, self.workers or len(tasks), failures)
        raise_failures(failures, len(tasks))


def _drain(tasks: Sequence[Task], at_a_time: int, failures: dict[str, str]) -> Iterator[tuple[Task, Any]]:
    import ray

    cpus, gpus = cpus_each(_nodes(), min(at_a_time, len(tasks))), max(task.gpus for task in tasks)
    _check_room(cpus, gpus)
    remote = ray.remote(max_retries=RETRIES, retry_exceptions=False, num_cpus=cpus)(on_node)
    waiting, running, seen = deque(tasks), dict[Any, Task](), time.monotonic()
    with Sender(ray.put) as sender:
        try:
            while waiting or running:
                while waiting and len(running) < at_a_time:
                    task = waiting.popleft()
                    running[remote.options(num_gpus=task.gpus).remote(sender.send(task), cpus)] = task
                done, _ = ray.wait(list(running), timeout=LOOK_EVERY_S)
                if done or _room(cpus, gpus):
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE_S:
                    fix = "look at its nodes (`ray status`), then run the same command: finished tasks are kept"
                    raise ConnectionLostError("no node of the Ray cluster is left that could go on", fix=fix)
                for reference in done:
                    task = running.pop(reference)
                    outcome = _outcome(reference, task)
                    if outcome.error is None:
                        yield task, outcome.value
                    else:
                        failures[task.key] = outcome.error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _outcome(reference: Any, task: Task) -> Outcome:
    """Result of a finished task, the files it made written here."""
    import ray

    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.RayError as error:  # its process died too often, or could not even import the package
        return Outcome(error=f"{type(error).__name__}: {str(error).strip()}")
    answer.write(task.out)
    return answer.outcome


def cpus_each(nodes: Sequence[Mapping[str, float]], wanted: int) -> int:
    """CPUs, and threads, of a task: as many as leave room for `wanted` at a time, and as the smallest node has."""
    have = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    for cpus in range(min(have, default=1), 1, -1):
        if sum(count // cpus for count in have) >= wanted:
            return cpus
    return 1


def _nodes() -> list[Mapping[str, float]]:
    """Resources of the nodes that live."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(cpus: int, gpus: int) -> bool:
    return any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in _nodes())


def _check_room(cpus: int, gpus: int) -> None:
    if not _room(cpus, gpus):
        have = [f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in _nodes()]
        got = f"{cpus} CPUs and {gpus} GPUs wanted; nodes have {', '.join(have) or 'nothing'}"
        raise UsageError("no node of the Ray cluster has what a task needs", got=got, fix="`ray start` one that has")


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """This process as a driver of the cluster, unless it is one already."""
    import ray

    if ray.is_initialized():
        yield
        return
    here = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    try:
        ray.init(address=address, logging_level="warning", **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        fix = "`ray start --head --port=6379` on the head; the command runs on a machine that is a node of the cluster"
        raise UnreachableError("no Ray cluster to be reached", got=f"{address}: {error}", fix=fix) from error
    try:
        yield
    finally:
        ray.shutdown()
