"""Index of an ONNX graph for the rules: who makes and reads a tensor, constants' values, types, and what Q/DQ stands where."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PAIR = (QUANTIZE, DEQUANTIZE)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
POINTWISE = (
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "Mul",
    "HardSwish",
    "HardSigmoid",
    "Tanh",
    "Elu",
    "Identity",
    "BatchNormalization",
)


class Graph:
    """The model is not changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.producer = {tensor: node for node in self.nodes for tensor in node.output if tensor}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for tensor in node.input:
                self.readers.setdefault(tensor, []).append(node)
        self.outputs = [value.name for value in model.graph.output]
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        self.pairs = [node for node in self.nodes if node.op_type in PAIR]
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type (of `onnx.TensorProto`) of every tensor as far as ONNX can tell."""
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
        return found | {name: int(tensor.data_type) for name, tensor in self._tensors.items()}

    def every_node(self) -> Iterator[onnx.NodeProto]:
        """Those of branches and loops too."""
        yield from _nodes(self.model.graph)

    def is_constant(self, tensor: str) -> bool:
        """Known when the engine is built."""
        if tensor in self._tensors:
            return True
        made = self.producer.get(tensor)
        return made is not None and (
            made.op_type == "Constant" or (made.op_type == "Identity" and self.is_constant(made.input[0]))
        )

    def array(self, tensor: str) -> NDArray[np.generic] | None:
        """Value of a constant; None for what is none, or lies in a file beside the graph that was not loaded."""
        if tensor in self._tensors:
            found = self._tensors[tensor]
            return None if found.data_location == onnx.TensorProto.EXTERNAL else np.asarray(numpy_helper.to_array(found))
        made = self.producer.get(tensor)
        if made is not None and made.op_type == "Identity":
            return self.array(made.input[0])
        if made is not None and made.op_type == "Constant":
            values = [attribute.t for attribute in made.attribute if attribute.name == "value"]
            return np.asarray(numpy_helper.to_array(values[0])) if values else None
        return None

    def zero_type(self, pair: onnx.NodeProto) -> int:
        """Type on the quantized side of a Q or DQ; 0 where it is not known."""
        if len(pair.input) > 2 and pair.input[2]:
            return self.types.get(pair.input[2], 0)
        if pair.op_type == QUANTIZE:
            return attribute(pair, "output_dtype", 0)  # else uint8 to ONNX, int8 to TensorRT
        made = self.producer.get(pair.input[0])
        return self.zero_type(made) if made is not None and made.op_type == QUANTIZE else self.types.get(pair.input[0], 0)

    def dequantizer(self, tensor: str) -> onnx.NodeProto | None:
        """The DQ that makes the tensor."""
        made = self.producer.get(tensor)
        return made if made is not None and made.op_type == DEQUANTIZE else None

    def before_pair(self, tensor: str) -> str:
        """The tensor itself, or the one that a DQ and the Q above it round."""
        dequantize = self.dequantizer(tensor)
        quantize = self.producer.get(dequantize.input[0]) if dequantize is not None else None
        return quantize.input[0] if quantize is not None and quantize.op_type == QUANTIZE else tensor

    def holds_weight(self, pair: onnx.NodeProto) -> bool:
        """Whether a Q or DQ works on a constant."""
        above = self.producer.get(pair.input[0])
        through = above is not None and above.op_type == QUANTIZE and self.is_constant(above.input[0])
        return self.is_constant(pair.input[0]) or through

    def behind_quantized(self, tensor: str, steps: int = 8) -> bool:
        """Whether the tensor is what a layer with Q/DQ on its data gives, with nothing but an activation in between."""
        made = self.producer.get(tensor)
        if made is None or steps == 0:
            return False
        if made.op_type in WEIGHTED:
            return self.dequantizer(made.input[0]) is not None
        return made.op_type in POINTWISE and any(self.behind_quantized(name, steps - 1) for name in made.input)


def label(node: onnx.NodeProto) -> str:
    """Its name, or its operator and first output where it has none."""
    return str(node.name) or f"{node.op_type} -> {node.output[0] if node.output else '?'}"


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for entry in node.attribute:
            for inner in (*([entry.g] if entry.HasField("g") else []), *entry.graphs):
                yield from _nodes(inner)
