"""What a plan depends on of the machine it is built on: versions, GPU, board, power mode."""

import os

from .. import nvpmodel, probe, state, sysfs
from ..wire import AgentError
from . import api, gpu


def here(root="/"):
    """As the side-car records it; what does not exist on this kind of machine is None.

    Raises:
        AgentError: no_cuda, old_runtime.
        ImportError: no TensorRT.
    """
    trt = api.module()
    found = gpu.open_cuda().identity()
    found["tensorrt"] = trt.__version__
    for name, read in (("l4t", probe.l4t), ("board", board), ("power_mode", power_mode)):
        try:
            found[name] = read(root)
        except (OSError, ValueError):
            found[name] = None
    return found


def board(root):
    return sysfs.read(root, probe.TREE + "/model")


def power_mode(root):
    """Name of the power mode: kernels are chosen by timing, so a plan is at its best in the mode it was built in."""
    return nvpmodel.current(root)["name"]


def free_bytes(root):
    """What a build can use: memory of the host, swap, memory of the GPU; what does not tell is None."""
    found = {}
    for name, field in (("memory", "MemAvailable"), ("swap", "SwapFree")):
        try:
            found[name] = state.memory(root, field)
        except (OSError, ValueError):
            found[name] = None
    try:
        found["gpu"] = gpu.open_cuda().memory()[0]
    except AgentError:
        found["gpu"] = None
    return found


def disk_free(folder):
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
