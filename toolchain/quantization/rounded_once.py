"""Q/DQ pairs that round again what is on their grid already: behind operators that only move values of one scale."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from toolchain.quantization.rules import MOVING
from toolchain.quantization.structure import Structure

Grid = tuple[bytes, bytes, int]  # scale, zero point and type of a Q or DQ


def drop_repeated_rounding(model: onnx.ModelProto) -> int:
    """Take such pairs out; the graph computes the same values, bit by bit.

    Args:
        model: nodes in topological order; changed.

    Returns:
        how many pairs are gone.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    graph = Structure(model)
    grids: dict[str, Grid] = {}
    gone: list[onnx.NodeProto] = []
    instead: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            grids[node.output[0]] = _grid(node, constants)
        elif node.op_type in MOVING:
            moved = node.input if node.op_type == "Concat" else node.input[:1]
            first, *others = [grids.get(name) for name in moved]
            if first is not None and all(other == first for other in others):
                grids |= dict.fromkeys(node.output, first)
        elif node.op_type == "QuantizeLinear" and grids.get(node.input[0]) == _grid(node, constants):
            behind = graph.consumers.get(node.output[0], [])
            if node.output[0] not in graph.outputs and all(_is_inner_dequantize(one, graph) for one in behind):
                gone += [node, *behind]
                instead |= {one.output[0]: node.input[0] for one in behind}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            while name in instead:
                name = instead[name]
            node.input[place] = name
    for node in gone:
        model.graph.node.remove(node)
    return sum(node.op_type == "QuantizeLinear" for node in gone)


def _is_inner_dequantize(node: onnx.NodeProto, graph: Structure) -> bool:
    return node.op_type == "DequantizeLinear" and node.output[0] not in graph.outputs


def _grid(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Grid:
    scale, zero = (constants[name] for name in node.input[1:3])
    return numpy_helper.to_array(scale).tobytes(), numpy_helper.to_array(zero).tobytes(), zero.data_type
