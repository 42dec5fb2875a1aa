"""Small graphs that each show one rule, and what the rules must say of them. `expected.json` holds what TensorRT-RTX says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.tensorrt import graphs as g

EXPECTED = Path(__file__).with_name("expected.json")
VERSION = "11.4"  # the one RTX speaks for


@dataclass(frozen=True)
class Case:
    """A change of the good graph, and the only finding that it may cause.

    Attributes:
        half: of the FP16 graph; else of the float32 one.
        version: that is asked.
        node: named in the finding; "" for the whole graph.
    """

    rule: str
    node: str
    change: g.Change
    half: bool = True
    version: str = VERSION


MUTATIONS: dict[str, Case] = {
    "zero_point": Case("H1", "a_q", g.set_constant("a_q_zero", np.int8(5))),
    "zero_point_of_weight": Case("H1", "inner_w_dq", g.set_constant("inner_w_dq_zero", np.full(g.WIDTH, 3, np.int8))),
    "zero_scale": Case("H2", "u_dq", g.set_constant("u_dq_scale", np.float16(0))),
    "negative_scale": Case("H2", "u_dq", g.set_constant("u_dq_scale", np.float16(-0.1))),
    "one_zero_scale_of_weight": Case(
        "H2", "inner_w_dq", g.set_constant("inner_w_dq_scale", np.eye(1, g.WIDTH, dtype=np.float16)[0])
    ),
    "int32_bias": Case("H3", "bias_dq", g.int32_bias),
    "dynamic_quantize": Case("H4", "dynamic", g.dynamic_quantize),
    "no_zero_point_8": Case("H5", "x_q", g.no_zero, half=False, version="8.6"),
    "stored_weight_8": Case("H6", "inner_w_dq", g.stored_weight, half=False, version="8.6"),
    "fp16_scale_8": Case("H7", "e_q", g.set_constant("e_q_scale", np.float16(0.05)), half=False, version="8.5"),
    "float32_bias": Case("H8", "stem", g.set_constant("stem_bias", np.zeros(g.WIDTH, np.float32))),
    "old_opset": Case("opset", "", g.set_opset(6), half=False),
    "new_opset": Case("opset", "", g.set_opset(25)),
    "new_opset_8": Case("opset", "", g.set_opset(18), half=False, version="8.6"),
    "custom_operator": Case("operator", "custom", g.custom_operator),
    "large_top_k": Case("topk", "topk", g.large_top_k),
    "float_weight": Case("P1", "inner", g.float_weight),
    "wrong_axis": Case("P1", "inner", g.set_axis("inner_w_dq", 1)),
    "scale_per_tensor": Case("P1", "inner", g.shared_scale),
    "float_residual": Case("P2", "add", g.read("add", 0, "stem_mul_out")),
    "pair_before_sigmoid": Case("P3", "inner_sigmoid", g.insert_pair("inner_sigmoid", 0)),
    "pair_after_sigmoid": Case("P3", "inner_sigmoid", g.insert_pair("inner_mul", 1)),
    "float_pool": Case("P4", "pool", g.read("pool", 0, "cat_out")),
    "other_scale": Case("P5", "cat", g.other_scale),
    "batch_norm": Case("P6", "norm", g.batch_norm),
    "rounded_score": Case("P7", "scores", g.insert_pair("scores", 0)),
    "float32_graph": Case("typed", "", lambda model: None, half=False),
}
CLEAN = {"good_half": True, "good_float32": False}  # name -> in FP16


def corpus() -> dict[str, onnx.ModelProto]:
    """All graphs by name: good ones, those of the mutations, and whole small networks."""
    made = {name: g.good(half=half) for name, half in CLEAN.items()}
    for name, case in MUTATIONS.items():
        made[name] = g.good(half=case.half)
        case.change(made[name])
    return made | _networks()


def _networks() -> dict[str, onnx.ModelProto]:
    return {
        "fp32": _floats(half=False), "fp16": _floats(half=True), "free_batch": _floats(half=False, batch="n"),
        "channel_scales_of_data": _changed(g.channel_scales), "uint8": _uint8(128), "uint8_zero": _uint8(0), "int16": _int16(),
        "no_zero_point": _changed(g.no_zero), "no_zero_point_float32": _changed(g.no_zero, half=False),
        "weight_behind_pair": g.good(), "qlinear_conv": _qlinear_conv(), "strings": _strings(), "suppression": _suppression(),
        "fp16_data_float32_weight": _clash(),
    }  # fmt: skip


def _changed(change: g.Change, *, half: bool = True) -> onnx.ModelProto:
    model = g.good(half=half)
    change(model)
    return model


def _floats(*, half: bool, batch: int | str = 1) -> onnx.ModelProto:
    """Conv, SiLU, residual, pooling and concat without Q/DQ."""
    net = g.Net(half=half)
    random = np.random.default_rng(1)
    for name, into in (("w0", 3), ("w1", g.WIDTH)):
        net.const(name, random.normal(0, 0.1, (g.WIDTH, into, 3, 3)).astype(np.float32))
    first = net.silu(net.op("Conv", ["x", "w0"], "conv0", pads=[1] * 4), "act")
    added = net.op("Add", [first, net.op("Conv", [first, "w1"], "conv1", pads=[1] * 4)], "add")
    pooled = net.op("MaxPool", [added], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    net.op("Concat", [pooled, added], "cat", "y", axis=1)
    return net.model({"x": [batch, 3, g.SIZE, g.SIZE]}, {"y": [batch, 2 * g.WIDTH, g.SIZE, g.SIZE]})


def _uint8(zero: int) -> onnx.ModelProto:
    model = g.good()
    for name in ("x_q_zero", "x_dq_zero"):
        g.set_constant(name, np.uint8(zero))(model)
    return model


def _int16() -> onnx.ModelProto:
    model = g.good(half=True)
    for name in ("x_q_zero", "x_dq_zero"):
        g.set_constant(name, np.int16(0))(model)
    g.set_opset(21)(model)
    model.ir_version = 10
    return model


def _qlinear_conv() -> onnx.ModelProto:
    net = g.Net()
    for name, value in (
        ("sx", np.float32(0.02)),
        ("zx", np.int8(0)),
        ("sw", np.float32(0.01)),
        ("zw", np.int8(0)),
        ("sy", np.float32(0.1)),
    ):
        net.const(name, value)
    net.const("w", np.ones((4, 3, 3, 3), np.int8))
    rounded = net.op("QuantizeLinear", ["x", "sx", "zx"], "q")
    net.op("QLinearConv", [rounded, "sx", "zx", "w", "sw", "zw", "sy", "zx"], "qconv", pads=[1] * 4)
    net.op("DequantizeLinear", ["qconv_out", "sy", "zx"], "dq", "y")
    return net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]})


def _strings() -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.STRING, [size]) for name, size in (("x", 2), ("y", "k"))]
    graph = helper.make_graph([helper.make_node("StringNormalizer", ["x"], ["y"], "strings")], "net", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _suppression() -> onnx.ModelProto:
    net = g.Net()
    net.const("k", np.array([100], np.int64))
    net.const("iou", np.array([0.5], np.float32))
    net.const("least", np.array([0.2], np.float32))
    net.op("NonMaxSuppression", ["b", "s", "k", "iou", "least"], "nms", "y")
    model = net.model({"b": [1, 100, 4], "s": [1, 80, 100]}, {})
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 3]))
    return model


def _clash() -> onnx.ModelProto:
    net = g.Net()
    net.const("w", np.ones((4, 3, 3, 3), np.float32))
    net.op("Conv", [net.op("Cast", ["x"], "cast", to=TensorProto.FLOAT16), "w"], "conv", "y", pads=[1] * 4)
    return net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]})
