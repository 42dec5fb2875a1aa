"""Small graphs that a device is tried with, and what TensorRT must say of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Graph:
    """One graph.

    Attributes:
        accepted: whether the parser must take it, by the rules of docs/tensorrt.md.
        rule: what it shows.
        quantized: it holds Q/DQ.
        typed: it needs strong typing (TensorRT 10 and later).
    """

    name: str
    accepted: bool
    rule: str
    make: Callable[[Path], None]
    quantized: bool = False
    typed: bool = False

    def save(self, folder: Path) -> Path:
        """Write it."""
        path = folder / f"{self.name}.onnx"
        self.make(path)
        return path


def _weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((16, 3, 3, 3)) * 0.2
    second = rng.standard_normal((16, 16, 3, 3)) * 0.1
    return first.astype(np.float32), second.astype(np.float32)


def _save(path: Path, nodes: list[onnx.NodeProto], arrays: Arrays, kind: int = TensorProto.FLOAT, opset: int = 17) -> None:
    """Input (1, 3, SIDE, SIDE), output `y`."""
    values = [helper.make_tensor_value_info("images", kind, [1, 3, SIDE, SIDE]), helper.make_tensor_value_info("y", kind, None)]
    constants = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, path.stem, values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def _block(source: str) -> list[onnx.NodeProto]:
    """Convolution, SiLU, residual, pooling, mean over cells: what YOLO is made of."""
    return [
        helper.make_node("Conv", [source, "w1"], ["c1"], "conv1", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Sigmoid", ["c1"], ["s1"], "sigmoid1"),
        helper.make_node("Mul", ["c1", "s1"], ["a1"], "silu1"),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["a1", "c2"], ["r"], "add"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[5, 5], pads=[2] * 4),
        helper.make_node("Concat", ["r", "p"], ["cat"], "concat", axis=1),
        helper.make_node("AveragePool", ["cat"], ["y"], "cells", kernel_shape=[8, 8], strides=[8, 8]),
    ]


def _float(path: Path, dtype: type[np.floating] = np.float32, kind: int = TensorProto.FLOAT) -> None:
    first, second = _weights()
    _save(path, _block("images"), {"w1": first.astype(dtype), "w2": second.astype(dtype)}, kind)


def _half(path: Path) -> None:
    _float(path, np.float16, TensorProto.FLOAT16)


def _pair(source: str, name: str) -> list[onnx.NodeProto]:
    scale = f"{name}_scale"
    return [
        helper.make_node("QuantizeLinear", [source, scale, f"{name}_zero"], [f"{name}_q"], f"{name}/quantize", axis=0),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, f"{name}_zero"], [f"{name}_dq"], f"{name}/dequantize", axis=0),
    ]


def _quantized(path: Path, zero: int = 0, int32_bias: bool = False) -> None:
    """Q/DQ before both convolutions, weights float -> Q -> DQ by channel: the form that every version takes."""
    first, second = _weights()
    arrays: Arrays = {"w1": first, "w2": second}
    nodes: list[onnx.NodeProto] = []
    for name, scale in (("x", 1 / 127), ("h", 0.03)):
        arrays |= {f"{name}_scale": np.array(scale, np.float32), f"{name}_zero": np.array(zero, np.int8)}
    for name, weight in (("w1", first), ("w2", second)):
        channel = np.abs(weight).max(axis=(1, 2, 3)) / 127
        arrays |= {f"{name}_scale": channel.astype(np.float32), f"{name}_zero": np.zeros(len(channel), np.int8)}
        nodes += _pair(name, name)
    nodes += _pair("images", "x")
    block = _block("x_dq")
    block[0].input[1], block[3].input[0], block[3].input[1] = "w1_dq", "h_dq", "w2_dq"
    nodes += [*block[:3], *_pair("a1", "h"), *block[3:]]
    if int32_bias:
        arrays |= {"b": np.ones(16, np.int32), "b_scale": np.full(16, 1e-4, np.float32), "b_zero": np.zeros(16, np.int32)}
        nodes.insert(0, helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_dq"], "bias", axis=0))
        next(node for node in nodes if node.name == "conv1").input.append("b_dq")
    _save(path, nodes, arrays)


def _mixed(path: Path) -> None:
    """An FP16 tensor meets an FP32 weight."""
    first, second = _weights()
    nodes = [helper.make_node("Cast", ["images"], ["half"], "cast", to=TensorProto.FLOAT16), *_block("half")]
    _save(path, nodes, {"w1": first, "w2": second})


def _unknown(path: Path) -> None:
    _save(path, [helper.make_node("MyOwnOperator", ["images"], ["y"], "mine")], {})


GRAPHS = (
    Graph("fp32", True, "float", _float),
    Graph("fp16", True, "typed in FP16", _half, typed=True),
    Graph("qdq", True, "explicit Q/DQ", _quantized, quantized=True),
    Graph("zero-point", False, "zero points are 0", lambda path: _quantized(path, zero=5), quantized=True),
    Graph("int32-bias", False, "the bias stays float", lambda path: _quantized(path, int32_bias=True), quantized=True),
    Graph("mixed-types", False, "both inputs of a convolution have one type", _mixed, typed=True),
    Graph("unknown-operator", False, "every operator is known", _unknown),
)
