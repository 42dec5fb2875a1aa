"""CUDA's runtime by ctypes, as gpu.py wants it. libcudart is on every JetPack: nothing to install or to compile.

Source: CUDA Runtime API reference. Constants below are fixed numbers of its C headers.
"""

import ctypes
import glob
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p

from ..wire import AgentError

TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
NON_BLOCKING, THREAD_LOCAL = 1, 1  # of a stream; of a capture
ATTRIBUTES = {"compute_major": 75, "compute_minor": 76, "multiprocessors": 16, "integrated": 18}  # cudaDeviceAttr
OUT_OF_MEMORY = 2
NO_DRIVER = (3, 35, 100, 101, 803, 804)  # not initialised, driver too old, no device, no such device, stub library, mismatch
P, PP, PI = c_void_p, POINTER(c_void_p), POINTER(c_int)
SIGNATURES = {  # all give cudaError_t but those in STRINGS
    "cudaRuntimeGetVersion": [PI],
    "cudaDriverGetVersion": [PI],
    "cudaGetDeviceCount": [PI],
    "cudaSetDevice": [c_int],
    "cudaDeviceGetAttribute": [PI, c_int, c_int],
    "cudaDeviceSynchronize": [],
    "cudaMemGetInfo": [POINTER(c_size_t), POINTER(c_size_t)],
    "cudaMalloc": [PP, c_size_t],
    "cudaFree": [P],
    "cudaMallocHost": [PP, c_size_t],
    "cudaFreeHost": [P],
    "cudaMemcpyAsync": [P, P, c_size_t, c_int, P],
    "cudaStreamCreateWithFlags": [PP, c_uint],
    "cudaStreamDestroy": [P],
    "cudaStreamSynchronize": [P],
    "cudaEventCreateWithFlags": [PP, c_uint],
    "cudaEventDestroy": [P],
    "cudaEventRecord": [P, P],
    "cudaEventSynchronize": [P],
    "cudaEventElapsedTime": [POINTER(c_float), P, P],
    "cudaGetErrorString": [c_int],
    "cudaGetErrorName": [c_int],
}
GRAPHS = {  # where one of them is missing there are no graphs, and the record says so
    "cudaStreamBeginCapture": [P, c_int],
    "cudaStreamEndCapture": [P, PP],
    "cudaGraphInstantiateWithFlags": [PP, P, c_ulonglong],  # cudaGraphInstantiate has other parameters from CUDA 12 on
    "cudaGraphLaunch": [P, P],
    "cudaGraphExecDestroy": [P],
    "cudaGraphDestroy": [P],
}
STRINGS = ("cudaGetErrorString", "cudaGetErrorName")
NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
FOLDERS = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/usr/lib/*-linux-gnu")
OVERRIDE = "EDGE_LIBCUDART"  # path of the library, where it is in none of these places


class CudaError(AgentError):
    """A call that failed; `code` is its cudaError_t."""

    def __init__(self, call, code, name, text):
        kind = "out_of_memory" if code == OUT_OF_MEMORY else "no_cuda" if code in NO_DRIVER else "engine"
        AgentError.__init__(self, kind, "%s: %s (%d): %s" % (call, name, code, text))
        self.code = code


class MissingError(AgentError):
    """The library is not here; another one may stand in for it."""

    def __init__(self, text):
        AgentError.__init__(self, "no_cuda", text)


def candidates():
    """Names and paths to try, newest version first; pip puts the library beside the packages."""
    if os.environ.get(OVERRIDE):
        return [os.environ[OVERRIDE]]
    folders = FOLDERS + tuple(glob.escape(path) + "/nvidia/*/lib" for path in sys.path if path)
    found = []
    for name in NAMES:
        found += [name, *sorted((path for folder in folders for path in glob.glob(folder + "/" + name)), reverse=True)]
    return found


def open_library():
    """The newest libcudart here, and its path.

    Raises:
        MissingError: there is none.
        AgentError: the one that was asked for does not load.
    """
    asked = os.environ.get(OVERRIDE)
    for path in candidates():
        try:
            return ctypes.CDLL(path), path
        except OSError as error:
            if asked:
                raise AgentError("no_cuda", "%s=%s: %s" % (OVERRIDE, asked, error)) from error
    raise MissingError("no %s here; set %s to its path" % (" or ".join(NAMES[:3]), OVERRIDE))


class Cuda:
    """The library with every signature declared and every status checked, on device 0; see gpu.py for the rest."""

    name = "libcudart"

    def __init__(self):
        self._library, self.library = open_library()
        missing = [name for name in SIGNATURES if not hasattr(self._library, name)]
        if missing:
            raise AgentError("no_cuda", "%s lacks %s" % (self.library, ", ".join(sorted(missing))))
        lacking = [name for name in GRAPHS if not hasattr(self._library, name)]
        self.no_graphs = "%s lacks %s" % (self.library, ", ".join(lacking)) if lacking else None
        for name, types in list(SIGNATURES.items()) + ([] if lacking else list(GRAPHS.items())):
            function = getattr(self._library, name)
            function.argtypes = types  # without them a pointer is cut to 32 bits
            function.restype = c_char_p if name in STRINGS else c_int
        self.call("cudaSetDevice", 0)

    def call(self, name, *args):
        """Call it; CudaError when it fails."""
        code = getattr(self._library, name)(*args)
        if code:
            words = [
                getattr(self._library, text)(code).decode("utf-8", "replace")
                for text in ("cudaGetErrorName", "cudaGetErrorString")
            ]
            raise CudaError(name, code, *words)

    def new(self, kind, name, *args):
        """What a function gives whose first parameter receives its result."""
        value = kind()
        self.call(name, byref(value), *args)
        return value.value

    def identity(self):
        found = {name: self.new(c_int, "cudaDeviceGetAttribute", number, 0) for name, number in ATTRIBUTES.items()}
        return {
            "cuda_runtime": self.new(c_int, "cudaRuntimeGetVersion"),
            "cuda_driver": self.new(c_int, "cudaDriverGetVersion"),
            "compute": "%d.%d" % (found["compute_major"], found["compute_minor"]),
            "multiprocessors": found["multiprocessors"],
            "integrated": bool(found["integrated"]),
            "memory_bytes": self.memory()[1],
        }

    def memory(self):
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value

    def block(self, size):
        return Block(self, size)

    def stream(self):
        return Stream(self)


class Block:
    def __init__(self, cuda, size):
        self._cuda, self.size, self._host, self.device = cuda, size, None, None
        try:
            self._host = cuda.new(c_void_p, "cudaMallocHost", max(1, size))
            self.device = cuda.new(c_void_p, "cudaMalloc", max(1, size))
        except AgentError:
            self.free()
            raise

    def view(self, dtype, shape):
        import numpy as np

        raw = (ctypes.c_uint8 * max(1, self.size)).from_address(self._host)
        kind = np.dtype(dtype)
        return np.frombuffer(raw, dtype=kind, count=self.size // kind.itemsize).reshape(shape)

    def to_device(self, stream):
        self._cuda.call("cudaMemcpyAsync", self.device, self._host, self.size, TO_DEVICE, stream.handle)

    def to_host(self, stream):
        self._cuda.call("cudaMemcpyAsync", self._host, self.device, self.size, TO_HOST, stream.handle)

    def free(self):
        for name, pointer in (("cudaFree", self.device), ("cudaFreeHost", self._host)):
            if pointer:
                self._cuda.call(name, pointer)
        self._host = self.device = None


class Stream:
    def __init__(self, cuda):
        self._cuda = cuda
        self.handle = cuda.new(c_void_p, "cudaStreamCreateWithFlags", NON_BLOCKING)
        self._begin, self._end = [cuda.new(c_void_p, "cudaEventCreateWithFlags", 0) for _ in range(2)]

    def begin(self):
        self._cuda.call("cudaEventRecord", self._begin, self.handle)

    def end(self):
        self._cuda.call("cudaEventRecord", self._end, self.handle)

    def wait(self):
        self._cuda.call("cudaStreamSynchronize", self.handle)

    def between_ms(self):
        return self._cuda.new(c_float, "cudaEventElapsedTime", self._begin, self._end)

    def capture(self, work):
        if self._cuda.no_graphs:
            raise AgentError("engine", self._cuda.no_graphs)
        self._cuda.call("cudaStreamBeginCapture", self.handle, THREAD_LOCAL)
        graph = c_void_p()
        try:
            work()
        finally:  # a stream that is left capturing can do nothing else
            self._cuda.call("cudaStreamEndCapture", self.handle, byref(graph))
        try:
            return Graph(self._cuda, self._cuda.new(c_void_p, "cudaGraphInstantiateWithFlags", graph, 0), self.handle)
        finally:
            self._cuda.call("cudaGraphDestroy", graph)

    def free(self):
        for event in (self._begin, self._end):
            self._cuda.call("cudaEventDestroy", event)
        self._cuda.call("cudaStreamDestroy", self.handle)


class Graph:
    def __init__(self, cuda, executable, handle):
        self._cuda, self._executable, self._handle = cuda, executable, handle

    def launch(self):
        self._cuda.call("cudaGraphLaunch", self._executable, self._handle)

    def free(self):
        self._cuda.call("cudaGraphExecDestroy", self._executable)
