"""One pass over the pictures, one picture's activations in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import QuantizationError, UnknownNameError
from toolchain.export.session import cpu_session
from toolchain.quantization.ranges import METHODS, Observed, Range
from toolchain.quantization.silu import clip_before_silu


class Probe:
    """The float graph with every tensor of interest as an output; the arrays it hands out are overwritten by the next run."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        constants = {tensor.name for tensor in probe.graph.initializer}
        self.source: str = next(value.name for value in probe.graph.input if value.name not in constants)
        self.wanted = [name for name in tensors if name != self.source]
        del probe.graph.output[:]
        probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in self.wanted)
        self._session = cpu_session(probe)
        self.shape: list[int] = self._session.get_inputs()[0].shape[1:]
        self._binding: Any = None
        self._values: list[NDArray[np.float32]] = []

    def run(self, picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Values of the tensors for one (3, s, s) picture, the input's among them."""
        batch = picture[None]
        if self._binding is None:  # the first run tells the shapes; all others write into its arrays, for fresh memory costs time
            self._values = self._session.run(self.wanted, {self.source: batch})
            self._binding = self._session.io_binding()
            for name, value in zip(self.wanted, self._values, strict=True):
                self._binding.bind_output(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
        else:
            self._binding.bind_cpu_input(self.source, batch)
            self._session.run_with_iobinding(self._binding)
        return {self.source: batch, **dict(zip(self.wanted, self._values, strict=True))}


def observe(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], tensors: Sequence[str], *, advance: Any = None
) -> dict[str, Observed]:
    """Run the float graph and remember extremes and a histogram of each tensor.

    Args:
        model: float graph with one input.
        batches: (n, 3, s, s) float32 in 0..1; consumed once, lazily.
        tensors: names of activations, the input among them if wanted.
        advance: called with the number of pictures just seen.

    Raises:
        QuantizationError: no pictures, a wrong shape, or values that are not finite.
    """
    probe = Probe(model, tensors)
    seen = {name: Observed(name) for name in tensors}
    pictures = 0
    with ThreadPoolExecutor(_cores()) as pool:  # counting is as much work as the network, and lets go of Python's lock
        for batch in batches:
            if list(batch.shape[1:]) != list(probe.shape):
                got = f"{tuple(batch.shape[1:])}, not {tuple(probe.shape)}"
                raise QuantizationError("calibration pictures do not fit the network's input", got=got)
            for picture in batch:
                values = probe.run(picture)
                list(pool.map(lambda tensor, values=values: tensor.add(values[tensor.name]), seen.values()))
            pictures += len(batch)
            if advance is not None:
                advance(len(batch))
    if not pictures:
        raise QuantizationError("no calibration pictures", got=0, fix="pass pictures of the training set")
    return seen


def ranges(
    seen: dict[str, Observed], method: str, *, percentile: float = 99.99, before_silu: Collection[str] = ()
) -> dict[str, Range]:
    """Range of each tensor by a method of `METHODS`, widened to hold zero (which INT8 must represent exactly).

    Args:
        percentile: of the method of that name.
        before_silu: tensors that only a SiLU reads: their lower end is raised, see `silu.py`.

    Raises:
        UnknownNameError: no such method.
    """
    if method not in METHODS:
        raise UnknownNameError("calibration method", method, METHODS)

    def find(name: str) -> Range:
        low, high = METHODS[method](seen[name], percentile)
        widened = min(low, 0.0), max(high, 0.0)
        return clip_before_silu(seen[name], widened) if name in before_silu else widened

    with ThreadPoolExecutor(_cores()) as pool:
        return dict(zip(seen, pool.map(find, seen), strict=True))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
