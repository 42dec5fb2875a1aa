"""One pass over the pictures, one picture's activations in memory at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import QuantizationError, UnknownNameError
from toolchain.export.session import cpu_session
from toolchain.quantization.ranges import METHODS, Observed, Range
from toolchain.quantization.silu import clip_before_silu


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
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    source = probe.graph.input[0].name
    wanted = [name for name in tensors if name != source]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    session = cpu_session(probe)
    size = session.get_inputs()[0].shape[1:]
    seen = {name: Observed(name) for name in tensors}
    for batch in batches:
        if list(batch.shape[1:]) != list(size):
            raise QuantizationError("calibration pictures do not fit the network's input", got=f"{batch.shape[1:]}, not {size}")
        for picture in batch:
            for name, value in zip(wanted, session.run(wanted, {source: picture[None]}), strict=True):
                seen[name].add(value)
            if source in seen:
                seen[source].add(picture)
        if advance is not None:
            advance(len(batch))
    if not any(tensor.pictures for tensor in seen.values()):
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
    found = {name: METHODS[method](tensor, percentile) for name, tensor in seen.items()}
    found = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in found.items()}
    return found | {name: clip_before_silu(seen[name], found[name]) for name in before_silu if name in seen}
