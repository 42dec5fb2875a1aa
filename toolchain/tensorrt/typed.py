"""FP16 written into the graph, for TensorRT's strongly typed networks: the only kind of 11, and the agent's choice on 10.

From a float32 graph, with or without Q/DQ, come FP16 tensors and weights, and FP16 scales; INT8 may become FP8. What follows the
last convs of the head stays in FP32: between 512 and 1024 px the steps of FP16 are half a pixel. Input and output stay float32 as
well.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from toolchain.errors import ExportError
from toolchain.quantization.structure import Structure
from toolchain.tensorrt.fp8 import FP8, stored_fp8, to_fp8
from toolchain.tensorrt.graph import PAIR, QUANTIZE, Graph, label

OPSET, IR = 19, 9  # the first whose Q/DQ take FP16 scales, and its file format
FIXED = "tensor(float)"  # an input that ONNX wants in float32 whatever the rest is, as Resize its scales
LOWEST = np.float16(np.finfo(np.float16).smallest_subnormal)


def to_typed(model: onnx.ModelProto, *, fp8: bool = False) -> onnx.ModelProto:
    """The same graph in FP16; see the top of this file. Metadata is kept, the model is not changed.

    Args:
        fp8: its int8 Q/DQ become FP8, see `fp8.py`.

    Raises:
        ExportError: a graph that is FP16 already, that ONNX cannot take to opset 19, with an operator that ONNX does not know, or
            with a value that FP16 cannot hold.
        QuantizationError: not a detector.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in copy.graph.initializer):
        raise ExportError(
            "the graph is in FP16 already", fix="give the float32 graph, or the one with Q/DQ of `toolchain quantize`"
        )
    if fp8 or any(node.op_type in PAIR for node in copy.graph.node):
        copy = _raise_opset(copy)
        if fp8:
            to_fp8(copy)
        _store_weights(copy)
    tail, _ = _Layers(copy).head_tail()
    _Typing(copy, tail).apply()
    del copy.graph.value_info[:]
    try:
        result = onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError("the graph cannot be written in FP16", got=f"{error!s:.400}") from error
    result.ir_version = max(model.ir_version, IR)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result


class _Layers(Structure):
    """A weight behind a DQ is a constant too."""

    def is_constant(self, tensor: str) -> bool:
        made = self.producer.get(tensor)
        return super().is_constant(tensor) or (made is not None and made.op_type in PAIR and self.is_constant(made.input[0]))


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    if Graph(model).opset >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # whatever the converter lacks, it tells in words
        fix = f"export it again: toolchain export --opset {OPSET}"
        raise ExportError(f"ONNX cannot take the graph to opset {OPSET}", got=f"{error!s:.300}", fix=fix) from error


def _store_weights(model: onnx.ModelProto) -> None:
    """Weights in 8 bits with a DQ in place of float, Q and DQ: rounded once, by the FP16 scale that will be used."""
    graph = Graph(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    gone: list[onnx.NodeProto] = []
    for node in graph.pairs:
        if node.op_type != QUANTIZE or node.input[0] not in constants:
            continue
        weight, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        shape = (
            [-1 if index == axis % weight.ndim else 1 for index in range(weight.ndim)] if scale.size > 1 else [1] * weight.ndim
        )
        steps = half_scale(scale).astype(np.float32).reshape(shape)
        if graph.zero_type(node) == FP8:
            stored = stored_fp8(weight / steps, node.output[0])
        else:
            stored = numpy_helper.from_array(np.clip(np.rint(weight / steps), -128, 127).astype(np.int8), node.output[0])
        model.graph.initializer.append(stored)
        gone.append(node)
    for node in gone:
        model.graph.node.remove(node)


def half_scale(scale: NDArray[np.generic]) -> NDArray[np.float16]:
    """FP16 scales, none of them 0."""
    return np.asarray(np.maximum(scale.astype(np.float16), LOWEST), dtype=np.float16)


class _Typing:
    """One walk over the nodes; Casts go where FP16 and FP32 meet."""

    def __init__(self, model: onnx.ModelProto, tail: set[str]) -> None:
        self.graph, self.tail = model.graph, tail
        index = Graph(model)
        self.types, self.opset = index.types, index.opset
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.halves: set[str] = set()  # tensors that are FP16 by now
        self.nodes: list[onnx.NodeProto] = []
        self.cast: dict[tuple[str, int], str] = {}

    def apply(self) -> None:
        for node in list(self.graph.node):
            wanted = TensorProto.FLOAT if node.name in self.tail else TensorProto.FLOAT16
            fixed = self._fixed(node)
            for index, tensor in enumerate(node.input):
                if self.types.get(tensor) == TensorProto.FLOAT and index not in fixed:
                    node.input[index] = self._as(tensor, wanted, scale=node.op_type in PAIR and index == 1)
                elif tensor in self.halves:
                    node.input[index] = self._as(tensor, TensorProto.FLOAT)
            if wanted == TensorProto.FLOAT16:
                self._halve(node)
            self.nodes.append(node)
        self._keep_outputs()
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)

    def _fixed(self, node: onnx.NodeProto) -> set[int]:
        if node.domain not in ("", "ai.onnx"):
            return set()
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        except onnx.defs.SchemaError as error:
            got = f"{node.op_type} in node {label(node)}, opset {self.opset}"
            fix = "export the network without plugins and without suppression in the graph: toolchain export"
            raise ExportError("the graph has an operator that ONNX does not know", got=got, fix=fix) from error
        return {index for index, parameter in enumerate(schema.inputs) if parameter.type_str == FIXED}

    def _halve(self, node: onnx.NodeProto) -> None:
        """What the node gives is FP16 if it was float32."""
        self.halves |= {name for name in node.output if self.types.get(name) == TensorProto.FLOAT}
        for entry in node.attribute:
            if node.op_type == "Cast" and entry.name == "to" and entry.i == TensorProto.FLOAT:
                entry.i = TensorProto.FLOAT16

    def _as(self, tensor: str, wanted: int, *, scale: bool = False) -> str:
        """Name under which the tensor has the type."""
        if tensor in self.constants:
            return self._half_constant(tensor, scale=scale) if wanted == TensorProto.FLOAT16 else tensor
        if (TensorProto.FLOAT16 if tensor in self.halves else TensorProto.FLOAT) == wanted:
            return tensor
        if (tensor, wanted) not in self.cast:
            name = f"{tensor}/{TensorProto.DataType.Name(wanted).lower()}"
            self.nodes.append(helper.make_node("Cast", [tensor], [name], name, to=wanted))
            self.cast[tensor, wanted] = name
        return self.cast[tensor, wanted]

    def _half_constant(self, tensor: str, *, scale: bool) -> str:
        name = f"{tensor}/float16"
        if name not in self.constants:
            value = numpy_helper.to_array(self.constants[tensor])
            with np.errstate(over="ignore"):
                half = half_scale(value) if scale else value.astype(np.float16)
            if np.isfinite(value).all() and not np.isfinite(half).all():
                got = f"{tensor}: {float(np.abs(value).max()):.6g}; FP16 ends at 65504"
                raise ExportError("a value does not fit into FP16", got=got, fix="use the float32 graph")
            self.constants[name] = numpy_helper.from_array(half, name)
            self.graph.initializer.append(self.constants[name])
        return name

    def _keep_outputs(self) -> None:
        """Outputs of the graph stay float32 under their names."""
        for name in [value.name for value in self.graph.output if value.name in self.halves]:
            inner = f"{name}/inner"
            for node in self.nodes:
                node.input[:] = [inner if tensor == name else tensor for tensor in node.input]
                node.output[:] = [inner if tensor == name else tensor for tensor in node.output]
            self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/float", to=TensorProto.FLOAT))
