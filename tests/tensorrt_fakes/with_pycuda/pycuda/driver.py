"""pycuda.driver over the stand-in for libcudart, so that its streams are those that the fake TensorRT is given.

What pycuda leaves undefined, or what would be wrong for us, is an AssertionError here: a second free, a copy from memory that is
not pinned, the default stream, a context of one's own, a last pop while something is still alive. As with pycuda, a free that
fails raises nothing, and a process that ends with a context on the stack aborts. FAKE_CUDART_FAIL=cuMemAlloc:2 makes that
function fail; FAKE_PYCUDA_OLD, words apart by blanks: `graphs`, `primary` leave that out.

Source: pycuda's doc/driver.rst, and src/wrapper/wrap_cudadrv.cpp for which error is which exception.
"""

import atexit
import ctypes
import os
import threading

import numpy as np

_library = ctypes.CDLL(os.environ.get("FAKE_PYCUDA_LIBRARY") or os.environ["EDGE_LIBCUDART"])
_library.cudaGetErrorString.restype = ctypes.c_char_p
_old = os.environ.get("FAKE_PYCUDA_OLD", "").split()
_started = False
_stack = threading.local()
_living = []  # addresses and handles that are still open
_pinned = {}  # address: size
_device = {}


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):
    pass


_KINDS = {2: MemoryError, 100: RuntimeError, 719: LaunchError, 999: Error}


def _fail(name, code, text):
    raise _KINDS.get(code, LogicError)("%s failed: %s" % (name, text))


def _do(name, other=None, *args):
    """The stand-in's function `other` under the driver's name for it."""
    if not _started and name != "cuInit":
        _fail(name, 3, "not initialized")
    wanted, _, code = os.environ.get("FAKE_CUDART_FAIL", "").partition(":")
    code = int(code) if wanted == name else getattr(_library, other)(*args) if other else 0
    if code:
        _fail(name, code, _library.cudaGetErrorString(code).decode())


def _in_context(name):
    if not _contexts():
        _fail(name, 201, "invalid device context")


def _contexts():
    if not hasattr(_stack, "held"):
        _stack.held = []
    return _stack.held


def _new(name, other, *args):
    _in_context(name)
    made = ctypes.c_void_p()
    _do(name, other, ctypes.byref(made), *args)
    _living.append(made.value)
    return made.value


def _gone(name, other, value):
    """Freed: the context must be there."""
    assert _contexts(), "%s after the context was popped" % name
    assert value in _living, "%s of what is gone" % name
    getattr(_library, other)(ctypes.c_void_p(value))
    _living.remove(value)


class _Owner:
    """What is destroyed when nobody holds it any more."""

    _ends = ()  # the driver's function for it, and the stand-in's

    def _end(self):
        _gone(*self._ends, self._value)
        _device.pop(self._value, None)
        _pinned.pop(self._value, None)

    def __del__(self):
        if getattr(self, "_value", None) in _living and _contexts():
            self._end()


def init(flags=0):
    global _started
    _do("cuInit")
    _started = True


def get_version():
    return (12, 6, 0)


def get_driver_version():
    _do("cuDriverGetVersion")
    return 12060


class device_attribute:  # noqa: N801 - pycuda's name
    COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR, MULTIPROCESSOR_COUNT, INTEGRATED = 75, 76, 16, 18


class Device:
    def __init__(self, number):
        _do("cuDeviceGet")
        if number != 0:
            _fail("cuDeviceGet", 101, "invalid device ordinal")

    def get_attribute(self, attr):
        value = ctypes.c_int()
        _do("cuDeviceGetAttribute", "cudaDeviceGetAttribute", ctypes.byref(value), attr, 0)
        return value.value

    def compute_capability(self):
        return (self.get_attribute(75), self.get_attribute(76))

    def make_context(self, flags=0):
        raise AssertionError("a context of one's own is not TensorRT's")

    def retain_primary_context(self):
        _do("cuDevicePrimaryCtxRetain")
        return Context._retained()


class Context:
    def __init__(self):
        raise TypeError("This class cannot be instantiated from Python")

    @classmethod
    def _retained(cls):
        made = object.__new__(cls)
        made._valid = True
        return made

    def push(self):
        _do("cuCtxPushCurrent")
        assert self._valid, "a context that was detached"
        _contexts().append(self)

    @staticmethod
    def pop():
        if not _contexts():
            _fail("context::pop", 201, "cannot pop non-current context")
        assert len(_contexts()) > 1 or not _living, "%d device objects outlive their context" % len(_living)
        _contexts().pop()

    def detach(self):
        if not self._valid:
            _fail("context::detach", 201, "cannot detach from invalid context")
        self._valid = False


def mem_get_info():
    _in_context("cuMemGetInfo")
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _do("cuMemGetInfo", "cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class DeviceAllocation(_Owner):
    _ends = ("cuMemFree", "cudaFree")

    def __int__(self):
        return self._value

    __index__ = __int__

    def free(self):
        self._end()


def mem_alloc(bytes):
    if bytes == 0:
        _fail("cuMemAlloc", 1, "invalid argument")
    made = DeviceAllocation()
    made._value = _new("cuMemAlloc", "cudaMalloc", ctypes.c_size_t(bytes))
    _device[made._value] = bytes
    return made


class PagelockedHostAllocation(_Owner):
    _ends = ("cuMemFreeHost", "cudaFreeHost")

    def free(self):
        self._end()


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    made = PagelockedHostAllocation()
    made._value = _new("cuMemHostAlloc", "cudaMallocHost", ctypes.c_size_t(size))
    _pinned[made._value] = size
    made.__array_interface__ = {
        "version": 3, "data": (made._value, False), "typestr": np.dtype(dtype).str, "shape": tuple(np.atleast_1d(shape)),
    }  # fmt: skip
    array = np.asarray(made)
    assert array.base is made
    return array


def _copy(name, to, origin, buffer, pointer, kind, stream):
    _in_context(name)
    assert isinstance(stream, Stream), "%s: not a pycuda.driver.Stream: %r" % (name, stream)
    host = buffer.__array_interface__["data"][0]
    assert buffer.flags.c_contiguous
    assert any(start <= host and host + buffer.nbytes <= start + size for start, size in _pinned.items()), "not pinned"
    assert _device[int(pointer)] >= buffer.nbytes, "too small on the device"
    size = ctypes.c_size_t(buffer.nbytes)
    _do(name, "cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(origin), size, kind, ctypes.c_void_p(stream._value))


def memcpy_htod_async(dest, src, stream=None):
    _copy("cuMemcpyHtoDAsync", int(dest), src.__array_interface__["data"][0], src, dest, 1, stream)


def memcpy_dtoh_async(dest, src, stream=None):
    _copy("cuMemcpyDtoHAsync", dest.__array_interface__["data"][0], int(src), dest, src, 2, stream)


class capture_mode:  # noqa: N801 - pycuda's name
    GLOBAL, THREAD_LOCAL, RELAXED = range(3)


class Stream(_Owner):
    _ends = ("cuStreamDestroy", "cudaStreamDestroy")

    def __init__(self, flags=0):
        self._recorded = []
        self._value = _new("cuStreamCreate", "cudaStreamCreateWithFlags", flags)

    @property
    def handle(self):
        return self._value

    def synchronize(self):
        _in_context("cuStreamSynchronize")
        _do("cuStreamSynchronize", "cudaStreamSynchronize", ctypes.c_void_p(self._value))
        for event in self._recorded:
            event._reached = True
        self._recorded = []

    def begin_capture(self, capture_mode=capture_mode.GLOBAL):
        _do("cuStreamBeginCapture", "cudaStreamBeginCapture", ctypes.c_void_p(self._value), capture_mode)

    def end_capture(self):
        graph, made = ctypes.c_void_p(), Graph()
        _do("cuStreamEndCapture", "cudaStreamEndCapture", ctypes.c_void_p(self._value), ctypes.byref(graph))
        made._value = graph.value
        _living.append(graph.value)
        return made


class Graph(_Owner):
    _ends = ("cuGraphDestroy", "cudaGraphDestroy")

    def instantiate(self):
        made = GraphExec()
        graph, flags = ctypes.c_void_p(self._value), ctypes.c_ulonglong(0)
        made._value = _new("cuGraphInstantiate", "cudaGraphInstantiateWithFlags", graph, flags)
        return made


class GraphExec(_Owner):
    _ends = ("cuGraphExecDestroy", "cudaGraphExecDestroy")

    def launch(self, stream=None):
        assert isinstance(stream, Stream), "the default stream"
        _do("cuGraphLaunch", "cudaGraphLaunch", ctypes.c_void_p(self._value), ctypes.c_void_p(stream._value))


class Event(_Owner):
    _ends = ("cuEventDestroy", "cudaEventDestroy")

    def __init__(self, flags=0):
        self._reached = False
        self._value = _new("cuEventCreate", "cudaEventCreateWithFlags", flags)

    def record(self, stream=None):
        assert isinstance(stream, Stream), "the default stream"
        _in_context("cuEventRecord")
        _do("cuEventRecord", "cudaEventRecord", ctypes.c_void_p(self._value), ctypes.c_void_p(stream._value))
        self._reached = False
        stream._recorded.append(self)
        return self

    def synchronize(self):
        _do("cuEventSynchronize", "cudaEventSynchronize", ctypes.c_void_p(self._value))
        self._reached = True
        return self

    def time_till(self, event):
        value = ctypes.c_float()
        if not (self._reached and event._reached):
            _fail("cuEventElapsedTime", 1, "invalid argument")
        mine, other = ctypes.c_void_p(self._value), ctypes.c_void_p(event._value)
        _do("cuEventElapsedTime", "cudaEventElapsedTime", ctypes.byref(value), mine, other)
        return value.value


if "graphs" in _old:
    del Stream.begin_capture, Stream.end_capture, Graph, GraphExec, capture_mode
if "primary" in _old:
    del Device.retain_primary_context


@atexit.register
def _at_the_end():
    """Runs after what was registered later."""
    if _contexts():
        os.write(2, b"PyCUDA ERROR: The context stack was not empty upon module cleanup.\n")
        os.abort()
