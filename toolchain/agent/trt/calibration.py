"""INT8 without Q/DQ in the graph: TensorRT's own calibrators, the legacy road, gone in 11.

Two ways in: pictures that were prepared on the host, read from disk batch by batch, or a calibration cache with the ranges in it.
"""

import os

import numpy as np

from ..wire import AgentError
from . import api, gpu

METHODS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


def check(order):
    """What the order says of calibration, complete; AgentError where it is not.

    {"method", "sha256" of the pictures or of the cache, and "images" (path of (n, 3, height, width) uint8) or "cache" (path)}
    """
    if order is None:
        return None
    if order.get("method") not in METHODS or not isinstance(order.get("sha256"), str):
        raise AgentError("bad_request", "calibration: a method of %s and a sha256 are needed" % ", ".join(sorted(METHODS)))
    if (order.get("images") is None) == (order.get("cache") is None):
        raise AgentError("bad_request", "calibration: pictures or a cache, not both")
    return order


class Batches:
    """Pictures on their way to the GPU, one batch in memory at a time."""

    def __init__(self, path, shapes):
        self._images = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._images.dtype != np.uint8 or self._images.ndim != 4 or len(self._images) < 1:
            raise AgentError(
                "data", "pictures must be (n, 3, size, size) uint8, got %r %s" % (self._images.shape, self._images.dtype)
            )
        if len(shapes) != 1 or any(side < 0 for side in shapes[0]):
            text = "calibration with pictures needs one input of a fixed shape, the network has %r" % (shapes,)
            raise AgentError("calibration", text)
        self.batch = shapes[0][0]  # with an explicit batch TensorRT reads what the input holds, whatever get_batch_size says
        if tuple(self._images.shape[1:]) != tuple(shapes[0][1:]) or len(self._images) < self.batch:
            text = "pictures are %r, the input takes %r" % (self._images.shape, shapes[0])
            raise AgentError("calibration", text)
        cuda = gpu.open_cuda()
        self._stream = cuda.stream()
        self._block = cuda.block(self.batch * int(np.prod(self._images.shape[1:])) * 4)
        self._view = self._block.view("float32", (self.batch, *tuple(self._images.shape[1:])))
        self._at = 0

    def next(self):
        """Address of the next whole batch on the device; None at the end."""
        if self._at + self.batch > len(self._images):
            return None
        self._view[...] = self._images[self._at : self._at + self.batch]
        self._view /= np.float32(255)
        self._at += self.batch
        self._block.to_device(self._stream)
        self._stream.wait()
        return self._block.device


def calibrator(trt, order, inputs):
    """TensorRT's calibrator of the order's method; `inputs` are the shapes of the network's, by name.

    Raises:
        AgentError: this TensorRT has none; the cache is none, or another network's.
    """
    base = api.optional(trt, METHODS[order["method"]])
    if base is None:
        text = "TensorRT %s has no calibrators: quantize the graph on the host (toolchain quantize)" % trt.__version__
        raise AgentError("engine_build", text)
    if order.get("cache"):
        lacking = sorted(set(inputs) - set(read_cache(order["cache"])))
        if lacking:
            raise AgentError("calibration", "the calibration cache is another network's: no range for %s" % ", ".join(lacking))
    batches = None if order.get("images") is None else Batches(order["images"], list(inputs.values()))

    class Calibrator(base):
        """Asked by the builder; `made` is the cache it computed."""

        def __init__(self):
            base.__init__(self)
            self.made = None

        def cache(self):
            """Bytes of the ranges that the plan was built with; none where TensorRT wrote none."""
            return self.made or self.read_calibration_cache() or b""

        def get_batch_size(self):
            return batches.batch if batches else 1

        def get_batch(self, names):
            address = batches.next() if batches else None
            return None if address is None else [address] * len(names)

        def read_calibration_cache(self):
            if not order.get("cache"):
                return None
            return read_bytes(order["cache"])

        def write_calibration_cache(self, cache):
            self.made = bytes(cache)

    return Calibrator()


def read_bytes(path):
    with open(path, "rb") as stream:
        return stream.read()


def read_cache(path):
    """Tensor -> scale of a calibration cache as TensorRT writes it: a line about versions and method, then `name: bits of a
    float`.

    Raises:
        AgentError: it is not one.
    """
    if os.path.getsize(path) > 16 << 20:
        raise AgentError("calibration", "%s is too large for a calibration cache" % path)
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    if not lines or not lines[0].startswith("TRT-"):
        raise AgentError("calibration", "%s: not a calibration cache: its first line must begin with TRT-" % path)
    found = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, bits = line.rpartition(":")
        try:
            scale = np.frombuffer(bytes(bytearray.fromhex(bits.strip())), dtype=">f4")
            if not colon or len(scale) != 1 or not np.isfinite(scale[0]) or scale[0] < 0:
                raise ValueError("not the bits of a scale")
            found[name] = float(scale[0])
        except ValueError as error:
            raise AgentError("calibration", "%s, line %d: %s" % (path, number, error)) from error
    if not found:
        raise AgentError("calibration", "%s: no tensor has a range in it" % path)
    return found
