"""INT8 Q/DQ as FP8 (E4M3): the same pairs at the same places, for GPUs that have it (compute capability 8.9 and later).

A pair's range stays: the step of INT8 is largest / 127, the scale of FP8 largest / 448, the largest number it holds. Source: FP8
Formats for Deep Learning, Micikevicius et al., 2022; the scale is ModelOpt's.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from toolchain.errors import ExportError
from toolchain.tensorrt.graph import Graph

FP8 = TensorProto.FLOAT8E4M3FN
LARGEST, LARGEST_INT8 = 448.0, 127.0


def to_fp8(model: onnx.ModelProto) -> None:
    """Change every pair in place. The graph's opset must be 19 or later, its weights float with Q and DQ behind them.

    Raises:
        ExportError: no pairs, or one that is not int8 with zero point 0; names the node.
    """
    graph = Graph(model)
    fix = "give it the graph of `toolchain quantize --rules tensorrt`"
    if not graph.pairs:
        raise ExportError("FP8 needs the ranges that Q/DQ hold, and the graph has none", fix=fix)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in graph.pairs:
        zero = graph.array(node.input[2]) if len(node.input) > 2 else None
        stored = graph.is_constant(node.input[0]) and graph.types.get(node.input[0]) != TensorProto.FLOAT
        if graph.zero_type(node) != TensorProto.INT8 or zero is None or np.any(zero) or stored:
            got = f"{node.name}: not int8 with zero point 0 on a float tensor"
            raise ExportError("only symmetric int8 Q/DQ can become FP8", got=got, fix=fix)
    for name in {node.input[1] for node in graph.pairs}:
        scale = numpy_helper.to_array(constants[name]) * np.float32(LARGEST_INT8 / LARGEST)
        constants[name].CopyFrom(numpy_helper.from_array(scale.astype(np.float32), name))
    for name in {node.input[2] for node in graph.pairs}:
        constants[name].CopyFrom(stored_fp8(np.zeros(tuple(constants[name].dims), np.float32), name))
    del model.graph.value_info[:]  # it calls the tensors between Q and DQ int8


def stored_fp8(values: NDArray[np.float32], name: str) -> onnx.TensorProto:
    """A constant rounded to E4M3; what is larger than it can hold becomes the largest."""
    held = np.clip(values, -LARGEST, LARGEST).astype(np.float32)
    return helper.make_tensor(name, FP8, held.shape, held.reshape(-1))
