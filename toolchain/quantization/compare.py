"""A float graph and its INT8 twin in one graph, layer against layer, so that one run per picture measures every layer apart.

Each layer of the twin starts from the float activations of the layers before it: what is measured is the error a layer adds on
its own (rounding of its input's path and of its weights), not what it inherits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import QuantizationError
from toolchain.export.session import cpu_session

TWIN = "@int8"
Reduce = Callable[[str, str, str], tuple[list[onnx.NodeProto], list[str]]]


def layer_errors(
    model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], reduce: Reduce
) -> tuple[dict[str, list[NDArray[np.float64]]], int]:
    """Sums over the pictures of whatever `reduce` computes for each conv that reads rounded values.

    Args:
        model: float graph the quantized one was made from.
        quantized: graph with Q/DQ pairs.
        batches: (n, 3, s, s) float32; a handful of pictures is enough.
        reduce: f(float output, INT8 output, prefix) -> nodes to add and the small tensors to sum.

    Returns:
        {conv: sums of its tensors}, number of pictures.

    Raises:
        QuantizationError: no pictures, or the graphs have no quantized conv in common.
    """
    pairs = _common_convs(model, quantized)
    probe = _twin(model, quantized)
    names: dict[str, list[str]] = {}
    for conv, output in pairs.items():
        nodes, wanted = reduce(output, output + TWIN, f"{conv}/error")
        probe.graph.node.extend(nodes)
        probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
        names[conv] = wanted
    session = cpu_session(probe)
    flat = [name for wanted in names.values() for name in wanted]
    totals: dict[str, NDArray[np.float64]] = {}
    pictures = 0
    for batch in batches:
        for picture in batch:
            values = session.run(flat, {session.get_inputs()[0].name: picture[None]})
            for name, value in zip(flat, values, strict=True):
                totals[name] = totals.get(name, np.float64(0)) + np.asarray(value, dtype=np.float64)
            pictures += 1
    if not pictures:
        raise QuantizationError("no pictures to compare the layers on", got=0)
    return {conv: [totals[name] for name in wanted] for conv, wanted in names.items()}, pictures


def _common_convs(model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, str]:
    """{conv: its output} for convs of both graphs that read dequantized values in the second."""
    dequantized = {name for node in quantized.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    ours = {node.name: node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    theirs = [node for node in quantized.graph.node if node.op_type == "Conv" and dequantized.intersection(node.input[:2])]
    common = {node.name: ours[node.name] for node in theirs if ours.get(node.name) == node.output[0]}
    if not common:
        raise QuantizationError("no quantized conv in common: the graphs do not belong together", got=len(theirs))
    return common


def _twin(model: onnx.ModelProto, quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Float graph + renamed INT8 graph whose convs hand on the float outputs in place of their own."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    convs = {name for node in model.graph.node if node.op_type == "Conv" for name in node.output}
    made = {name for node in quantized.graph.node for name in node.output}
    constants = {tensor.name for tensor in quantized.graph.initializer}
    for tensor in quantized.graph.initializer:
        copy = probe.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name += TWIN
    for node in quantized.graph.node:
        copy_node = probe.graph.node.add()
        copy_node.CopyFrom(node)
        copy_node.name += TWIN
        for index, name in enumerate(node.input):
            if name in constants or (name in made and name not in convs):
                copy_node.input[index] = name + TWIN
        for index, name in enumerate(node.output):
            copy_node.output[index] = name + TWIN if name else name
    return probe
