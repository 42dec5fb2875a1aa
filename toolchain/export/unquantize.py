"""A Q/DQ graph whose convolutions alone are INT8, taken apart: the float graph, and the integers of each convolution.

That is what a runtime needs whose convolutions round their own inputs, such as ncnn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from toolchain.errors import ExportError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Int8Conv:
    """One convolution.

    Attributes:
        name: of the ONNX node.
        weights: (out, in / group, height, width) int8.
        weight_scales: (out,) float32; a weight is integer * scale.
        input_scale: the same of its input.
        bias: (out,) float32, or None.
    """

    name: str
    weights: NDArray[np.int8]
    weight_scales: NDArray[np.float32]
    input_scale: float
    bias: NDArray[np.float32] | None

    def floats(self) -> NDArray[np.float32]:
        """The weights as the float graph holds them."""
        return self.weights.astype(np.float32) * self.weight_scales.reshape(-1, *[1] * (self.weights.ndim - 1))


def is_quantized(graph: onnx.GraphProto) -> bool:
    """Whether there is any Q or DQ."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in graph.node)


def unquantize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Int8Conv]]:
    """Float graph with the INT8 weights' values in it, and what was taken out of it, in the order of the nodes.

    Raises:
        ExportError: something else than the inputs and weights of convolutions is quantized, with a zero point or to another
            type than int8, or only one of the two; names the node.
    """
    return _Parts(model).split()


class _Parts:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.graph.node:
            for place, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, place))

    def split(self) -> tuple[onnx.ModelProto, list[Int8Conv]]:
        ends = {value.name for value in self.graph.output}
        for node in self.graph.node:
            if node.op_type == QUANTIZE:
                self._check_quantize(node)
            elif node.op_type == DEQUANTIZE:
                self._check_dequantize(node, ends)
        found = list(self._convs())
        for conv in found:
            (node,) = [node for node in self.graph.node if node.name == conv.name and node.op_type == "Conv"]
            node.input[0] = self.makers[self.makers[node.input[0]].input[0]].input[0]
            node.input[1] = self._float_weights(conv, self.makers[node.input[1]].input[0])
        kept = [node for node in self.graph.node if node.op_type not in (QUANTIZE, DEQUANTIZE)]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        constants = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(constants)
        return self.model, found

    def _check_quantize(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self.constants:
            _refuse(node, "it quantizes weights, which must be stored as int8")
        self._scales(node, per_channel=False)
        for reader, place in self.readers.get(node.output[0], []):
            if reader.op_type != DEQUANTIZE or place != 0 or list(reader.input[1:]) != list(node.input[1:]):
                _refuse(node, f"{reader.op_type} {reader.name} reads the integers")

    def _check_dequantize(self, node: onnx.NodeProto, ends: set[str]) -> None:
        of_weights = node.input[0] in self.constants
        if not of_weights and self._maker(node.input[0]).op_type != QUANTIZE:
            _refuse(node, "what it reads is neither weights nor the output of a QuantizeLinear")
        self._scales(node, per_channel=of_weights)
        if node.output[0] in ends:
            _refuse(node, "it gives an output of the graph")
        for reader, place in self.readers.get(node.output[0], []):
            if reader.op_type != "Conv" or place != int(of_weights):
                _refuse(node, f"{reader.op_type} {reader.name} reads it; only inputs and weights of convolutions may be INT8")

    def _convs(self) -> Iterator[Int8Conv]:
        for node in self.graph.node:
            if node.op_type != "Conv":
                continue
            inner = [self._maker(name).op_type == DEQUANTIZE for name in node.input[:2]]
            if inner == [False, False]:
                continue
            if inner != [True, True]:
                _refuse(node, f"only its {'weights are' if inner[1] else 'input is'} INT8")
            by_input, by_weights = (self._maker(name) for name in node.input[:2])
            weights = numpy_helper.to_array(self.constants[by_weights.input[0]])
            scales = np.broadcast_to(self._scales(by_weights, per_channel=True), weights.shape[:1]).astype(np.float32)
            bias = None
            if len(node.input) > 2 and node.input[2]:
                if node.input[2] not in self.constants:
                    _refuse(node, "its bias is no constant")
                bias = numpy_helper.to_array(self.constants[node.input[2]])
            yield Int8Conv(node.name, weights, scales, float(self._scales(by_input, per_channel=False)[0]), bias)

    def _scales(self, node: onnx.NodeProto, *, per_channel: bool) -> NDArray[np.float32]:
        """(1,) or (channels,); checks them and the zero point."""
        if len(node.input) < 3 or not all(name in self.constants for name in node.input[1:3]):
            _refuse(node, "scale and zero point must be there, as initializers")
        scale, zero = (np.atleast_1d(numpy_helper.to_array(self.constants[name])) for name in node.input[1:3])
        kind = self.constants[node.input[2]].data_type
        if kind != TensorProto.INT8 or zero.any():
            shown = f"{TensorProto.DataType.Name(kind).lower()} with zero point {zero.reshape(-1)[0]}"
            _refuse(node, f"{shown}; it must be int8 with zero point 0")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            _refuse(node, f"scale {scale.min()}")
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale.size > 1 and not (per_channel and axis == 0 and scale.ndim == 1):
            _refuse(node, f"{scale.size} scales along axis {axis}")
        return scale.astype(np.float32)

    def _maker(self, name: str) -> onnx.NodeProto:
        return self.makers.get(name, onnx.NodeProto())

    def _float_weights(self, conv: Int8Conv, of: str) -> str:
        name = f"{of}_float"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(conv.floats(), name)
            self.graph.initializer.append(self.constants[name])
        return name


def _refuse(node: onnx.NodeProto, why: str) -> NoReturn:
    raise ExportError(
        "not a Q/DQ graph with INT8 convolutions alone", got=f"{node.op_type} {node.name or node.output[0]}: {why}",
        fix="make one: toolchain quantize --runtime ncnn",
    )  # fmt: skip
