"""A good graph for TensorRT, made by code, and changes of one property each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE, WIDTH = 32, 16


class Net:
    """Nodes and constants of a graph in the making; `half` writes FP16 tensors and scales, and weights as int8."""

    def __init__(self, *, half: bool = False) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def const(self, name: str, value: NDArray[np.generic] | float) -> str:
        """A constant; floats take the type of the graph."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float16 if self.half else np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, inputs: list[str], name: str, output: str = "", **attributes: object) -> str:
        """A node; its output is called after it."""
        self.nodes.append(helper.make_node(kind, inputs, [output or f"{name}_out"], name, **attributes))
        return output or f"{name}_out"

    def pair(self, tensor: str, name: str, scale: float = 0.05) -> str:
        """Q and DQ with constants of their own."""
        for kind in ("q", "dq"):
            self.const(f"{name}_{kind}_scale", np.float32(scale))
            self.const(f"{name}_{kind}_zero", np.int8(0))
        rounded = self.op("QuantizeLinear", [tensor, f"{name}_q_scale", f"{name}_q_zero"], f"{name}_q")
        return self.op("DequantizeLinear", [rounded, f"{name}_dq_scale", f"{name}_dq_zero"], f"{name}_dq")

    def weight(self, name: str, out: int, into: int, kernel: int) -> str:
        """A conv's weight with a scale per output channel: float with Q and DQ, or int8 with DQ in FP16."""
        value = self._random.normal(0, 0.2, (out, into, kernel, kernel)).astype(np.float32)
        scale = np.abs(value).max(axis=(1, 2, 3)) / 127
        for kind in ("q", "dq"):
            self.const(f"{name}_{kind}_scale", scale)
            self.const(f"{name}_{kind}_zero", np.zeros(out, np.int8))
        if self.half:
            stored = self.const(f"{name}_int8", np.clip(np.rint(value / scale[:, None, None, None]), -127, 127).astype(np.int8))
        else:
            inputs = [self.const(name, value), f"{name}_q_scale", f"{name}_q_zero"]
            stored = self.op("QuantizeLinear", inputs, f"{name}_q", axis=0)
        return self.op("DequantizeLinear", [stored, f"{name}_dq_scale", f"{name}_dq_zero"], f"{name}_dq", axis=0)

    def conv(self, tensor: str, name: str, into: int, out: int = WIDTH, kernel: int = 3) -> str:
        """Quantized conv with a float bias."""
        bias = self.const(f"{name}_bias", np.zeros(out, np.float32))
        return self.op("Conv", [tensor, self.weight(f"{name}_w", out, into, kernel), bias], name, pads=[kernel // 2] * 4)

    def silu(self, tensor: str, name: str) -> str:
        return self.op("Mul", [tensor, self.op("Sigmoid", [tensor], f"{name}_sigmoid")], f"{name}_mul")

    def model(self, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]], opset: int = 0) -> onnx.ModelProto:
        """The graph; unused constants are left out."""
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        used = {name for node in self.nodes for name in node.input}
        values = [
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in each.items()] for each in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "net", *values, [tensor for tensor in self.constants if tensor.name in used])
        number = opset or (19 if self.half else 17)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", number)], ir_version=9 if number >= 19 else 8)


def good(*, half: bool = False) -> onnx.ModelProto:
    """Conv, SiLU, residual, concat, pooling, resizing and a head: no rule minds it, but `typed` if it is not in FP16."""
    net = Net(half=half)
    stem = net.pair(net.silu(net.conv(net.pair("x", "x"), "stem", 3), "stem"), "a")
    inner = net.pair(net.silu(net.conv(stem, "inner", WIDTH), "inner"), "b")
    added = net.pair(net.op("Add", [stem, inner], "add"), "e")
    joined = net.pair(net.op("Concat", [stem, added], "cat", axis=1), "f")
    pooled = net.pair(net.op("MaxPool", [joined], "pool", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]), "p")
    net.constants.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes"))
    larger = net.op("Resize", [pooled, "", "sizes"], "up", mode="nearest", coordinate_transformation_mode="asymmetric")
    last = net.conv(net.pair(larger, "u"), "last", 2 * WIDTH, 8, 1)
    net.op("Sigmoid", [last], "scores", "y")
    return net.model({"x": [1, 3, SIZE, SIZE]}, {"y": [1, 8, 2 * SIZE, 2 * SIZE]})


Change = Callable[[onnx.ModelProto], None]


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def set_constant(name: str, value: NDArray[np.generic] | np.generic) -> Change:
    """Another value for a constant."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))

    return change


def add_constant(model: onnx.ModelProto, name: str, value: NDArray[np.generic] | np.generic) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def read(name: str, index: int, tensor: str) -> Change:
    """Another tensor at one input of a node."""

    def change(model: onnx.ModelProto) -> None:
        node(model, name).input[index] = tensor

    return change


def insert(before: str, *new: onnx.NodeProto) -> Change:
    """New nodes in front of one."""

    def change(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        at = next(index for index, each in enumerate(nodes) if each.name == before)
        del model.graph.node[:]
        model.graph.node.extend([*nodes[:at], *new, *nodes[at:]])

    return change


def insert_pair(before: str, index: int, name: str = "extra") -> Change:
    """Q and DQ in front of one input of a node."""

    def change(model: onnx.ModelProto) -> None:
        tensor = node(model, before).input[index]
        half = any(each.data_type == TensorProto.FLOAT16 for each in model.graph.initializer)
        scale = add_constant(model, f"{name}_scale", np.float16(0.05) if half else np.float32(0.05))
        zero = add_constant(model, f"{name}_zero", np.int8(0))
        quantize = helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{name}_q_out"], f"{name}_q")
        dequantize = helper.make_node("DequantizeLinear", [f"{name}_q_out", scale, zero], [f"{name}_dq_out"], f"{name}_dq")
        insert(before, quantize, dequantize)(model)
        node(model, before).input[index] = f"{name}_dq_out"

    return change


def set_opset(number: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = number

    return change


def int32_bias(model: onnx.ModelProto) -> None:
    """As quantize_static writes it."""
    half = any(each.data_type == TensorProto.FLOAT16 for each in model.graph.initializer)
    scale = np.full(WIDTH, 1e-3, np.float16 if half else np.float32)
    names = [add_constant(model, "bias_int32", np.zeros(WIDTH, np.int32)), add_constant(model, "bias_scale", scale)]
    names.append(add_constant(model, "bias_zero", np.zeros(WIDTH, np.int32)))
    insert("stem", helper.make_node("DequantizeLinear", names, ["bias_dq_out"], "bias_dq", axis=0))(model)
    node(model, "stem").input[2] = "bias_dq_out"


def set_axis(name: str, axis: int) -> Change:
    """The axis along which a DQ's scales lie."""

    def change(model: onnx.ModelProto) -> None:
        del node(model, name).attribute[:]
        node(model, name).attribute.append(helper.make_attribute("axis", axis))

    return change


def shared_scale(model: onnx.ModelProto) -> None:
    """One scale for all output channels of `inner`."""
    set_constant("inner_w_dq_scale", np.float16(0.01))(model)
    set_constant("inner_w_dq_zero", np.int8(0))(model)
    del node(model, "inner_w_dq").attribute[:]


def channel_scales(model: onnx.ModelProto) -> None:
    """A scale per channel of the data of `inner`."""
    for kind in ("q", "dq"):
        set_constant(f"a_{kind}_scale", np.full(WIDTH, 0.05, np.float16))(model)
        set_constant(f"a_{kind}_zero", np.zeros(WIDTH, np.int8))(model)


def float_weight(model: onnx.ModelProto) -> None:
    """The weight of `inner` without Q/DQ."""
    node(model, "inner").input[1] = add_constant(model, "plain", np.full((WIDTH, WIDTH, 3, 3), 0.01, np.float16))
    model.graph.node.remove(node(model, "inner_w_dq"))


def other_scale(model: onnx.ModelProto) -> None:
    """Another scale at one input of the concat: the Add's."""
    set_constant("e_q_scale", np.float16(0.1))(model)
    set_constant("e_dq_scale", np.float16(0.1))(model)


def batch_norm(model: onnx.ModelProto) -> None:
    """Behind the conv `last`."""
    ones = [add_constant(model, f"norm_{index}", np.ones(8, np.float16)) for index in range(4)]
    insert("scores", helper.make_node("BatchNormalization", ["last_out", *ones], ["norm_out"], "norm"))(model)
    node(model, "scores").input[0] = "norm_out"


def stored_weight(model: onnx.ModelProto) -> None:
    """One weight of the float32 graph as int8."""
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "inner_w")
    stored = add_constant(model, "inner_int8", np.zeros(list(weight.dims), np.int8))
    model.graph.node.remove(node(model, "inner_w_q"))
    node(model, "inner_w_dq").input[0] = stored


def no_zero(model: onnx.ModelProto) -> None:
    """A Q without its zero point."""
    node(model, "x_q").input.pop()


def dynamic_quantize(model: onnx.ModelProto) -> None:
    insert("x_q", helper.make_node("DynamicQuantizeLinear", ["plain"], ["dyn_q", "dyn_s", "dyn_z"], "dynamic"))(model)
    add_constant(model, "plain", np.ones((2, 2), np.float32))


def custom_operator(model: onnx.ModelProto) -> None:
    insert("x_q", helper.make_node("MyOperator", ["x"], ["custom_out"], "custom"))(model)


def large_top_k(model: onnx.ModelProto) -> None:
    """As an output of its own, so that nothing else changes and the builder needs it."""
    add_constant(model, "flat", np.array([1, -1], np.int64))
    add_constant(model, "k", np.array([4000], np.int64))
    flatten = helper.make_node("Reshape", ["stem_mul_out", "flat"], ["flat_out"], "flatten")
    insert("inner", flatten, helper.make_node("TopK", ["flat_out", "k"], ["top", "top_index"], "topk", axis=-1))(model)
    model.graph.output.append(helper.make_tensor_value_info("top", TensorProto.FLOAT16, [1, 4000]))
