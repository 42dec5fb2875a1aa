"""Where Q/DQ pairs go, per runtime: one row of data each.

A row states what the runtime's kernels want; `qdq.py` applies it and `verify.py` checks the result against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolchain.errors import UnknownNameError


@dataclass(frozen=True)
class Rules:
    """How a graph is quantized for one runtime.

    Attributes:
        activations: 8-bit type of activations. Weights are always int8, symmetric, one scale per output channel.
        symmetric: activations have zero point 0 (or 128 for uint8).
        seven_bit_without_vnni: weights use 7 bits when the CPU multiplies 8-bit pairs into saturating 16-bit sums.
        quantized: operators that get Q/DQ.
        float_outputs: operators whose output gets no Q of its own (what follows is fused into them).
        int32_bias: bias as int32 with a DQ; otherwise it stays float.
        pair_on_weights: weights stay float and get Q and DQ; otherwise they are stored as int8 with a DQ.
        last_convs: precision of the last convs of the head.
        first_conv: precision of the convs that read the picture.
        short_dfl: replace the box softmax by exp, one matrix product and a division (same function, faster on CPUs).
        source: where the row comes from.
    """

    activations: Literal["uint8", "int8"]
    symmetric: bool
    seven_bit_without_vnni: bool
    quantized: tuple[str, ...]
    float_outputs: tuple[str, ...]
    int32_bias: bool
    pair_on_weights: bool
    last_convs: Literal["int8", "float"]
    first_conv: Literal["int8", "float"]
    short_dfl: bool
    source: str


MOVING = ("Concat", "Split", "MaxPool", "Resize", "Reshape", "Transpose", "Slice")  # only move values: one scale in and out
COMPUTING = ("Conv", "Gemm", "MatMul", "Sigmoid", "Mul", "Add", "AveragePool", "GlobalAveragePool", "Relu", "LeakyRelu")
RULES: dict[str, Rules] = {
    "onnxruntime-x86": Rules(
        activations="uint8", symmetric=False, seven_bit_without_vnni=True,
        quantized=(*COMPUTING, *MOVING),
        float_outputs=(), int32_bias=True, pair_on_weights=False, last_convs="float", first_conv="float", short_dfl=True,
        source="",
    ),
    "onnxruntime-arm": Rules(
        activations="uint8", symmetric=False, seven_bit_without_vnni=False,
        quantized=(*COMPUTING, *MOVING),
        float_outputs=(), int32_bias=True, pair_on_weights=False, last_convs="float", first_conv="int8", short_dfl=True,
        source="",
    ),
    "tensorrt": Rules(
        activations="int8", symmetric=True, seven_bit_without_vnni=False,
        quantized=("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "Resize", "GlobalAveragePool"),
        float_outputs=("Conv", "ConvTranspose", "Gemm", "MatMul", "Add"), int32_bias=False, pair_on_weights=True,
        last_convs="int8", first_conv="int8", short_dfl=False,
        source="",
    ),
}  # fmt: skip


def get_rules(name: str) -> Rules:
    """The row of a runtime.

    Raises:
        UnknownNameError: no such row.
    """
    if name not in RULES:
        raise UnknownNameError("quantization rules", name, RULES)
    return RULES[name]
