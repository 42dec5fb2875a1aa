"""Executors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolchain.errors import UnknownNameError, UsageError
from toolchain.executor.processes import Processes
from toolchain.executor.ray_cluster import RayCluster
from toolchain.executor.serial import Serial
from toolchain.executor.task import Executor


@dataclass(frozen=True)
class Scale:
    """How far work is spread out.

    Attributes:
        executor: name in `EXECUTORS`.
        workers: tasks at a time; None: as many as there are cores (processes: at most 8).
        ray_address: HOST:PORT of a Ray cluster's head; None: Ray's own rule ($RAY_ADDRESS, else a cluster on this machine).
    """

    executor: str = "serial"
    workers: int | None = None
    ray_address: str | None = None


def make_executor(scale: Scale) -> Executor:
    """What runs tasks as asked.

    Raises:
        UnknownNameError: no executor of that name.
        UsageError: settings that this executor would not heed, or its extra is not installed.
    """
    if scale.executor not in EXECUTORS:
        raise UnknownNameError("executor", scale.executor, EXECUTORS)
    if scale.workers is not None and scale.workers < 1:
        raise UsageError("workers below 1", got=scale.workers, fix="--workers 2")
    if scale.workers is not None and scale.executor == "serial":
        raise UsageError("the serial executor has no workers", got=f"--workers {scale.workers}", fix="--executor processes")
    if scale.ray_address is not None and scale.executor != "ray":
        raise UsageError("a Ray address without Ray", got=scale.ray_address, fix="--executor ray")
    return EXECUTORS[scale.executor](scale)


EXECUTORS: dict[str, Callable[[Scale], Executor]] = {
    "serial": lambda scale: Serial(),
    "processes": lambda scale: Processes(scale.workers),
    "ray": lambda scale: RayCluster(scale.workers, scale.ray_address),
}
