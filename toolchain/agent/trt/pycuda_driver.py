"""CUDA by pycuda, as gpu.py wants it, for machines without a libcudart. Checked on a stand-in only, never on a GPU.

TensorRT works in the device's primary context, that of CUDA's runtime; a context of its own, as pycuda.autoinit makes one, would
have other memory and other streams. So the primary one is retained, and made current in the thread that asks first. It stays so
until the process ends: to push and pop around each call would be part of every latency that is measured.

Source: pycuda's documentation, "Device Interface"; its src/cpp/cuda.hpp: a process that ends with a context on the stack
aborts, and what is freed by another thread than the context's leaks.
"""

import atexit
import threading
import weakref

from ..wire import AgentError
from .cudart import NON_BLOCKING, MissingError

GRAPHS = (  # newer than the oldest pycuda that will do
    ("Stream", "begin_capture"),
    ("Stream", "end_capture"),
    ("Graph", "instantiate"),
    ("GraphExec", "launch"),
    ("capture_mode", "THREAD_LOCAL"),
)
_current = []  # the Primary of this process, while its context is current


class Primary:
    """The primary context of device 0, current from here to `close`.

    Attributes:
        owned: what must be freed before, as far as it is still alive.
    """

    def __init__(self, driver):
        self.driver, self.owned, self._thread = driver, weakref.WeakSet(), threading.get_ident()
        try:
            driver.init()
            self.device = driver.Device(0)
            self._context = self.device.retain_primary_context()
            self._context.push()
        except driver.MemoryError as error:
            raise AgentError("out_of_memory", str(error)) from error
        except driver.Error as error:
            raise AgentError("no_cuda", str(error)) from error

    def call(self, function, *args):
        """Call it; AgentError with pycuda's words, which name CUDA's function, when it fails."""
        try:
            return function(*args)
        except self.driver.MemoryError as error:
            raise AgentError("out_of_memory", str(error)) from error
        except self.driver.Error as error:
            text = str(error)
            if threading.get_ident() != self._thread:
                text += "; with pycuda an engine runs only in the thread that first used CUDA: use that one, or libcudart"
            raise AgentError("engine", text) from error

    def close(self):
        try:
            for one in list(self.owned):
                one.free()
        finally:
            self._context.pop()
            self._context.detach()


def primary(driver):
    """That of this process, made when it is first asked for."""
    if not _current:
        _current.append(Primary(driver))
        atexit.register(close)
    return _current[0]


def close():
    """Free what is left and give the context back; the next `Cuda` begins anew."""
    atexit.unregister(close)
    while _current:
        _current.pop().close()


class Cuda:
    """See gpu.py."""

    def __init__(self):
        try:
            import pycuda
            import pycuda.driver as driver
        except ImportError as error:
            raise MissingError("pycuda does not import here: %s" % error) from error
        self.name, self.library = "pycuda " + pycuda.VERSION_TEXT, pycuda.__file__
        if not hasattr(driver.Device, "retain_primary_context"):
            raise AgentError("no_cuda", "%s lacks Device.retain_primary_context: 2020.1 or later is needed" % self.name)
        lacking = [".".join(pair) for pair in GRAPHS if not hasattr(getattr(driver, pair[0], None), pair[1])]
        self.no_graphs = "%s lacks %s" % (self.name, ", ".join(lacking)) if lacking else None
        self._driver, self._primary = driver, primary(driver)

    def identity(self):
        driver, device, call = self._driver, self._primary.device, self._primary.call
        major, minor, revision = call(driver.get_version)  # of the headers it was compiled with: it has no runtime
        return {
            "cuda_runtime": 1000 * major + 10 * minor + revision,
            "cuda_driver": call(driver.get_driver_version),
            "compute": "%d.%d" % call(device.compute_capability),
            "multiprocessors": call(device.get_attribute, driver.device_attribute.MULTIPROCESSOR_COUNT),
            "integrated": bool(call(device.get_attribute, driver.device_attribute.INTEGRATED)),
            "memory_bytes": self.memory()[1],
        }

    def memory(self):
        free, total = self._primary.call(self._driver.mem_get_info)
        return free, total

    def block(self, size):
        return Block(self._primary, size)

    def stream(self):
        return Stream(self._primary, self.no_graphs)


class Block:
    def __init__(self, primary, size):
        import numpy as np

        self._primary, self.size, self._host, self._allocation = primary, size, None, None
        primary.owned.add(self)
        try:
            self._host = primary.call(primary.driver.pagelocked_empty, max(1, size), np.uint8)
            self._allocation = primary.call(primary.driver.mem_alloc, max(1, size))
        except AgentError:
            self.free()
            raise
        self.device = int(self._allocation)

    def view(self, dtype, shape):
        import numpy as np

        count = self.size // np.dtype(dtype).itemsize
        return np.frombuffer(self._host, dtype=dtype, count=count).reshape(shape)

    def to_device(self, stream):
        self._primary.call(self._primary.driver.memcpy_htod_async, self._allocation, self._host, stream.own)

    def to_host(self, stream):
        self._primary.call(self._primary.driver.memcpy_dtoh_async, self._host, self._allocation, stream.own)

    def free(self):
        allocation, host = self._allocation, self._host
        self._allocation = self._host = self.device = None
        if allocation is not None:
            self._primary.call(allocation.free)
        if host is not None:
            self._primary.call(host.base.free)


class Stream:
    """See gpu.py; `own` is pycuda's object."""

    def __init__(self, primary, no_graphs):
        driver = primary.driver
        self._primary, self._no_graphs = primary, no_graphs
        self.own = primary.call(driver.Stream, NON_BLOCKING)
        self.handle = self.own.handle
        self._begin, self._end = [primary.call(driver.Event) for _ in range(2)]
        primary.owned.add(self)

    def begin(self):
        self._primary.call(self._begin.record, self.own)

    def end(self):
        self._primary.call(self._end.record, self.own)

    def wait(self):
        self._primary.call(self.own.synchronize)

    def between_ms(self):
        return self._primary.call(self._begin.time_till, self._end)

    def capture(self, work):
        if self._no_graphs:
            raise AgentError("engine", self._no_graphs)
        call = self._primary.call
        call(self.own.begin_capture, self._primary.driver.capture_mode.THREAD_LOCAL)
        try:
            work()
        finally:  # a stream that is left capturing can do nothing else
            graph = call(self.own.end_capture)
        return Graph(self._primary, call(graph.instantiate), self.own)

    def free(self):
        self.own = self.handle = self._begin = self._end = None  # pycuda destroys what nobody holds


class Graph:
    def __init__(self, primary, executable, stream):
        self._primary, self._executable, self._stream = primary, executable, stream
        primary.owned.add(self)

    def launch(self):
        self._primary.call(self._executable.launch, self._stream)

    def free(self):
        self._executable = self._stream = None
