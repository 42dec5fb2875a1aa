"""Rounding again what was only moved is left out where the runtime makes a layer of it, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from toolchain.export.session import cpu_session
from toolchain.quantization.calibrate import observe, ranges
from toolchain.quantization.qdq import place, plan_placement, share_ranges
from toolchain.quantization.rounded_once import drop_repeated_rounding
from toolchain.quantization.rules import MOVING, RULES


def rounding(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "QuantizeLinear"]


def run(model: onnx.ModelProto, value: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = cpu_session(model, optimise=False)
    found: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: value})
    return found


@pytest.mark.parametrize("rules", ["openvino-unsigned", "openvino"])
def test_a_detector_computes_the_same_bits(float_model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str) -> None:
    row = replace(RULES[rules], rounds_moved=True)
    placement = plan_placement(float_model, row)
    found = share_ranges(ranges(observe(float_model, [pictures], placement.observed), "minmax"), placement)
    twice = place(float_model, found, placement, row, vnni=True)
    once = place(float_model, found, placement, replace(row, rounds_moved=False), vnni=True)
    producer = {name: node.op_type for node in once.graph.node for name in node.output}
    assert len(rounding(once)) < len(rounding(twice)) - 10
    assert not [
        node.name for node in once.graph.node if node.op_type == "QuantizeLinear" and producer.get(node.input[0]) in MOVING
    ]
    assert drop_repeated_rounding(once) == 0
    onnx.checker.check_model(once)
    for picture in pictures[:3]:
        assert np.array_equal(run(twice, picture[None])[0], run(once, picture[None])[0])


def chain(scales: tuple[float, float, float], outputs: list[str]) -> onnx.ModelProto:
    """Two inputs rounded by the first two scales, joined, rounded by the third, and doubled."""
    constants = [helper.make_tensor(f"s{i}", TensorProto.FLOAT, [], [scale]) for i, scale in enumerate(scales)]
    constants += [helper.make_tensor("z", TensorProto.UINT8, [], [3]), helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])]
    nodes = []
    for i, source in enumerate(("x", "x", "joined")):
        nodes.append(helper.make_node("QuantizeLinear", [source, f"s{i}", "z"], [f"q{i}"], f"q{i}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", "z"], [f"d{i}"], f"d{i}"))
        if i == 1:
            nodes.append(helper.make_node("Concat", ["d0", "d1"], ["joined"], axis=1))
    nodes.append(helper.make_node("Mul", ["d2", "two"], ["doubled"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4 if name == "x" else 8]) for name in ("x", *outputs)]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize(
    ("scales", "outputs", "gone"),
    [
        ((0.1, 0.1, 0.1), ["doubled"], 1),
        ((0.1, 0.1, 0.2), ["doubled"], 0),  # another grid
        ((0.1, 0.2, 0.1), ["doubled"], 0),  # two grids joined
        ((0.1, 0.1, 0.1), ["doubled", "d2"], 0),  # somebody asked for it
    ],
)
def test_only_what_changes_nothing_goes(scales: tuple[float, float, float], outputs: list[str], gone: int) -> None:
    model, value = chain(scales, outputs), np.array([[-1.0, 0.04, 3.3, 99.0]], np.float32)
    before = run(model, value)
    assert drop_repeated_rounding(model) == gone
    assert len(rounding(model)) == 3 - gone
    onnx.checker.check_model(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, run(model, value), strict=True))
