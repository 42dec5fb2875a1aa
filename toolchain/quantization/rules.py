"""Where Q/DQ pairs go, per runtime: one row of data each.

A row states what the runtime's kernels want; `qdq.py` applies it and `verify.py` checks the result against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from toolchain.errors import UnknownNameError


@dataclass(frozen=True)
class Rules:
    """How a graph is quantized for one runtime.

    Attributes:
        activations: 8-bit type of activations. Weights are always int8, symmetric, one scale per output channel.
        symmetric: activations have zero point 0 (or 128 for uint8).
        saturating_without_vnni: kernels for CPUs without VNNI add pairs of products into saturating 16 bits (`weights.py`).
        quantized: operators that get Q/DQ.
        float_outputs: operators whose output gets no Q of its own (what follows is fused into them).
        int32_bias: bias as int32 with a DQ; otherwise it stays float.
        pair_on_weights: weights stay float and get Q and DQ; otherwise they are stored as int8 with a DQ.
        last_convs: precision of the last convs of the head.
        first_conv: precision of the convs that read the picture.
        short_dfl: replace the box softmax by exp, one matrix product and a division (same function, faster on CPUs).
        source: where the row comes from.
        rounds_inside: quantized operators round their own inputs, so operators in float read the tensor unrounded.
        rounds_moved: Q/DQ also behind operators that only move values which are rounded already.
    """

    activations: Literal["uint8", "int8"]
    symmetric: bool
    saturating_without_vnni: bool
    quantized: tuple[str, ...]
    float_outputs: tuple[str, ...]
    int32_bias: bool
    pair_on_weights: bool
    last_convs: Literal["int8", "float"]
    first_conv: Literal["int8", "float"]
    short_dfl: bool
    source: str
    rounds_inside: bool = False
    rounds_moved: bool = True


MOVING = ("Concat", "Split", "MaxPool", "Resize", "Reshape", "Transpose", "Slice")  # only move values: one scale in and out
COMPUTING = ("Conv", "Sigmoid", "Mul", "Add", "AveragePool", "GlobalAveragePool", "Relu", "LeakyRelu")
OPENVINO = Rules(
    activations="int8", symmetric=True, saturating_without_vnni=False,
    quantized=("Conv", "Add", "Concat", "Split", "MaxPool", "Resize", "GlobalAveragePool"),
    float_outputs=("Conv", "Add"), int32_bias=False, pair_on_weights=False,
    last_convs="float", first_conv="int8", short_dfl=False,
    source="as OpenVINO 2026.4 compiled YOLOv8n for AMX: Q after SiLU lets it fuse both into the "
    "conv (onnxruntime-x86: 77 layers of their own); zero points other than 0 add 38 layers that requantize; without "
    "Split 8 splits and 16 Q stay float between INT8 convs",
)  # fmt: skip
RULES: dict[str, Rules] = {
    "onnxruntime-x86": Rules(
        activations="uint8", symmetric=False, saturating_without_vnni=True,
        quantized=(*COMPUTING, *MOVING),
        float_outputs=(), int32_bias=True, pair_on_weights=False, last_convs="float", first_conv="float", short_dfl=True,
        source="ONNX Runtime 1.32, YOLOv8n, 320 px, one AVX2 core, CPU time: float 28.1 ms, quantize_static 18.0, this 16.0. "
        "First conv and box softmax are slower in INT8 than in float; groups with one scale make Concat a copy",
    ),
    "onnxruntime-arm": Rules(
        activations="uint8", symmetric=False, saturating_without_vnni=False,
        quantized=(*COMPUTING, *MOVING),
        float_outputs=(), int32_bias=True, pair_on_weights=False, last_convs="float", first_conv="int8", short_dfl=True,
        source="not measured on ARM yet; kernels with dot products accumulate in 32 bits, so weights keep 8 bits (MLAS sources)",
    ),
    "openvino": OPENVINO,
    "openvino-unsigned": replace(
        OPENVINO, activations="uint8", symmetric=False, saturating_without_vnni=True, last_convs="int8", rounds_moved=False,
        source="OpenVINO 2026.4 without AMX, where it takes unsigned activations alone. With VNNI (a Zen 4) signed ones leave "
        "Concats and the convs behind them in float; without VNNI it loses the scale of signed activations between a conv and a "
        "Split (YOLOv8n, BCCD, 160 px: mAP50-95 0.154, the same graph in ONNX Runtime 0.439), unsigned ones keep it (0.439); "
        "with zero points other than 0 rounding again what was only moved is a layer each time (YOLOv8n: 38 of 225); last convs "
        "in INT8 cost nothing (BCCD: 0.5748 against 0.5741); saturation: oneDNN documentation, Nuances of int8 Computations",
    ),
    "ncnn": Rules(
        activations="int8", symmetric=True, saturating_without_vnni=False,
        quantized=("Conv",),
        float_outputs=("Conv",), int32_bias=False, pair_on_weights=False,
        last_convs="float", first_conv="int8", short_dfl=False,
        source="ncnn, tools/quantize and src/layer/convolution.cpp: a scale per output channel of the weights and one for the "
        "input, no zero points; the layer rounds its input itself and gives float, sums in 32 bits",
        rounds_inside=True,
    ),
    "tensorrt": Rules(
        activations="int8", symmetric=True, saturating_without_vnni=False,
        quantized=("Conv", "Add", "Concat", "MaxPool", "Resize", "GlobalAveragePool"),
        float_outputs=("Conv", "Add"), int32_bias=False, pair_on_weights=True,
        last_convs="int8", first_conv="int8", short_dfl=False,
        source="NVIDIA parser: signed types, zero points 0, no int32 bias; Q after SiLU, both inputs of a residual Add quantized",
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
