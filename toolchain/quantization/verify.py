"""Does a quantized graph keep the rules of the runtime it is for? What a parser would refuse on the device is refused here."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from toolchain.errors import QuantizationError
from toolchain.quantization.qdq import Placement
from toolchain.quantization.rules import Rules

PAIR = ("QuantizeLinear", "DequantizeLinear")
ALLOWED = {"uint8": (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32), "int8": (TensorProto.INT8, TensorProto.INT32)}


def verify(model: onnx.ModelProto, placement: Placement, rules: Rules) -> None:
    """Check scales, zero points and types of every Q/DQ, and that the kept nodes see no Q/DQ pair of their own weights.

    Raises:
        QuantizationError: with the name of the first node that breaks a rule.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in PAIR]
    if not pairs:
        raise QuantizationError("no Q/DQ in the quantized graph", got=f"{len(model.graph.node)} nodes")
    for node in pairs:
        if len(node.input) < 3 or node.input[1] not in constants or node.input[2] not in constants:
            raise QuantizationError("a Q/DQ without constant scale and zero point", got=node.name)
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        kind = constants[node.input[2]].data_type
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise QuantizationError("a scale is not positive", got=f"{node.name}: {scale.min()}")
        if kind not in ALLOWED[rules.activations] or (kind == TensorProto.INT32 and not rules.int32_bias):
            raise QuantizationError("a Q/DQ of a type the runtime refuses", got=f"{node.name}: {TensorProto.DataType.Name(kind)}")
        if kind != TensorProto.UINT8 and zero.any():
            raise QuantizationError("a signed zero point is not 0", got=f"{node.name}: {zero.reshape(-1)[:4]}")
    stored = {node.output[0] for node in pairs if node.op_type == "DequantizeLinear" and node.input[0] in constants}
    for node in model.graph.node:
        if node.name in placement.kept_float and stored.intersection(node.input):
            raise QuantizationError("a layer meant to stay in float has quantized weights", got=node.name)
