"""What this package needs of CUDA, by one of two libraries: libcudart by ctypes, or pycuda. Who uses it does not see which.

Both give a class `Cuda`, whose calls raise AgentError with the name of the call that failed:

    name, library           for the record: "libcudart" or "pycuda 2024.1"; what was loaded
    no_graphs               why there are no CUDA graphs; None where there are
    identity()              versions (12060 is 12.6), compute capability, number of multiprocessors, memory in bytes, whether
                            that is the host's
    memory()                free and total bytes of the GPU
    block(size)             the same number of bytes on the host, pinned, and on the device:
        device                  address there, an int
        view(dtype, shape)      the host's bytes as an array
        to_device(stream), to_host(stream), free()
    stream()                one that waits for no other, with two events:
        handle                  an int, for TensorRT
        begin(), end(), wait()
        between_ms()            time between `begin` and `end`, after `wait`
        capture(work)           a graph, with launch() and free(), of what `work()` puts into the stream. `work` must have run
                                once before: what the first enqueue after a change of shape sets up must not be captured
        free()
"""

import os

from ..wire import AgentError
from . import cudart, pycuda_driver

CHOICE = "EDGE_CUDA"  # one of LIBRARIES, to have that one and no other
LIBRARIES = {"libcudart": cudart.Cuda, "pycuda": pycuda_driver.Cuda}


def open_cuda():
    """libcudart; pycuda where no libcudart is found; what EDGE_CUDA says where it says anything.

    Raises:
        AgentError: no_cuda: what was asked for is not here, or neither is; out_of_memory.
    """
    asked = os.environ.get(CHOICE)
    if asked:
        if asked not in LIBRARIES:
            raise AgentError("no_cuda", "%s=%s: %s expected" % (CHOICE, asked, " or ".join(sorted(LIBRARIES))))
        return LIBRARIES[asked]()
    try:
        return cudart.Cuda()
    except cudart.MissingError as missing:
        try:
            return pycuda_driver.Cuda()
        except cudart.MissingError as neither:
            raise cudart.MissingError("%s; %s" % (missing, neither)) from neither


def exercise(size=1 << 16):
    """Copy there and back, time it, capture a copy and replay it.

    Returns:
        what was found, for the record.

    Raises:
        AgentError: with the call that failed.
    """
    import numpy as np

    cuda = open_cuda()
    block, stream = cuda.block(size), cuda.stream()
    view = block.view("uint8", (size,))
    wanted = np.resize(np.arange(256, dtype=np.uint8), size)
    view[...] = wanted
    stream.begin()
    block.to_device(stream)
    stream.wait()
    view[...] = 0
    block.to_host(stream)
    stream.end()
    stream.wait()
    if not np.array_equal(view, wanted):
        raise AgentError("engine", "what was copied to the GPU came back changed")
    copied_ms, graphs = stream.between_ms(), cuda.no_graphs or "ok"
    if not cuda.no_graphs:
        view[...] = 7
        block.to_device(stream)
        stream.wait()
        view[...] = 0
        graph = stream.capture(lambda: block.to_host(stream))
        if view.any():
            raise AgentError("engine", "work ran while it was captured")
        graph.launch()
        stream.wait()
        if not (view == 7).all():
            raise AgentError("engine", "a captured copy was not replayed")
        graph.free()
    for one in (block, stream):
        one.free()
    return {
        "cuda": cuda.name,
        "library": cuda.library,
        "copied_ms": copied_ms,
        "graphs": graphs,
        "identity": cuda.identity(),
        "memory": list(cuda.memory()),
    }
