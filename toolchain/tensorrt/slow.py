"""Warnings: what TensorRT takes but runs slowly or coarsely. One function a rule; P1 to P7 are about where Q/DQ pairs stand.

NVIDIA's recordings of ResNet-18 on an A100 (engine-explorer's examples): FP16 0.862 ms; Q/DQ with the residual input of Add left
in float 0.883 ms, 12 of 37 layers only change formats; quantized too 0.546 ms; also before the average pool 0.500 ms.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from toolchain.tensorrt.graph import QUANTIZE, WEIGHTED, Graph, attribute
from toolchain.tensorrt.registry import Found, rule
from toolchain.tensorrt.versions import Version

POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
RESHAPING = ("Reshape", "Transpose", "Concat", "Split", "Slice", "Flatten", "Squeeze", "Unsqueeze")
PLACE = "place the pairs by `toolchain quantize --runtime tensorrt`"


@rule("P1", "warning", fix=PLACE, source="TensorRT documentation, Q/DQ placement")
def whole_layers(graph: Graph, _: Version) -> Found:
    """A layer runs in INT8 only with Q/DQ on data and weight; a weight has a scale per output channel, data one for all."""
    for node in graph.nodes:
        if node.op_type not in WEIGHTED:
            continue
        data, weight = (graph.dequantizer(name) for name in node.input[:2])
        if (data is None) != (weight is None):
            yield node, f"only its {'data' if weight is None else 'weight'} has Q/DQ: it runs in float"
        if data is not None and not graph.holds_weight(data) and _count(graph, data.input[1]) > 1:
            yield node, "its data has a scale per channel: it runs in float"
        if weight is not None and graph.holds_weight(weight) and (wrong := _wrong_axis(graph, node, weight)):
            yield node, wrong


def _wrong_axis(graph: Graph, node: onnx.NodeProto, weight: onnx.NodeProto) -> str:
    """What is wrong with the scales of a weight; "" if nothing is."""
    array = (
        graph.array(graph.before_pair(node.input[1])) if graph.array(weight.input[0]) is None else graph.array(weight.input[0])
    )
    if array is None or array.ndim < 2:
        return ""
    axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": array.ndim - 1}.get(node.op_type, 1 - attribute(node, "transB", 0))
    scales = _count(graph, weight.input[1])
    if scales == 1 < array.shape[axis]:
        return f"its weight has one scale for all {array.shape[axis]} output channels"
    found = attribute(weight, "axis", 1) % array.ndim
    return (
        f"the scales of its weight are along axis {found}; its output channels are axis {axis}"
        if scales > 1 and found != axis
        else ""
    )


def _count(graph: Graph, scale: str) -> int:
    array = graph.array(scale)
    return 1 if array is None else int(array.size)


@rule(
    "P2",
    "warning",
    fix=f"quantize both inputs of the residual Add; {PLACE}",
    source="NVIDIA's recordings: 0.883 against 0.546 ms",
)
def residuals(graph: Graph, _: Version) -> Found:
    """The skip input of a residual Add is quantized; the other may come straight from a conv, which takes the Add in."""
    for node in graph.nodes:
        inputs = [name for name in node.input if not graph.is_constant(name)]
        if (
            node.op_type != "Add"
            or len(inputs) != 2
            or not any(graph.behind_quantized(graph.before_pair(name)) for name in inputs)
        ):
            continue
        bare = [name for name in inputs if graph.dequantizer(name) is None]
        fused = len(bare) == 1 and graph.producer[bare[0]].op_type in WEIGHTED if bare and bare[0] in graph.producer else False
        if bare and not fused:
            yield node, f"no Q/DQ on {' and '.join(bare)}: the formats change before and after it"


@rule(
    "P3",
    "warning",
    fix=f"put the Q after the Mul, nothing before it; {PLACE}",
    source="NVIDIA ModelOpt's placement; users' reports",
)
def silu(graph: Graph, _: Version) -> Found:
    """Nothing stands between a conv and the Sigmoid and Mul of its SiLU."""
    for node in graph.nodes:
        if node.op_type != "Sigmoid":
            continue
        source = graph.before_pair(node.input[0])
        muls = _multiplied(graph, node, source)
        made = graph.producer.get(source)
        after_conv = made is not None and made.op_type in WEIGHTED
        rounded = [name for mul in muls for name in (*node.input, *mul.input) if graph.dequantizer(name) is not None]
        if rounded and (after_conv or any(graph.before_pair(name) == node.output[0] for name in rounded)):
            yield node, f"Q/DQ inside a SiLU ({rounded[0]})"


def _multiplied(graph: Graph, sigmoid: onnx.NodeProto, source: str) -> list[onnx.NodeProto]:
    """Muls that make SiLU of `source` with this Sigmoid, with or without Q/DQ in between."""
    wanted = {source, sigmoid.output[0]}
    return [node for node in graph.nodes if node.op_type == "Mul" and {graph.before_pair(name) for name in node.input} == wanted]


@rule(
    "P4", "warning", fix=f"put Q/DQ before it; {PLACE}", source="NVIDIA ModelOpt's placement; recordings: 0.546 against 0.500 ms"
)
def pools(graph: Graph, _: Version) -> Found:
    """Pooling and resizing inside the quantized region have Q/DQ on their input."""
    for node in graph.nodes:
        if node.op_type not in POOLS or graph.dequantizer(node.input[0]) is not None:
            continue
        rounded_after = any(reader.op_type == QUANTIZE for name in node.output for reader in graph.readers.get(name, []))
        if rounded_after or graph.behind_quantized(node.input[0]):
            yield node, f"{node.op_type} of a tensor that was not quantized"


@rule(
    "P5", "warning", fix=f"give all inputs one scale; {PLACE}", source="inferred; NVIDIA/TensorRT issues 3861 and 4401 are open"
)
def concats(graph: Graph, _: Version) -> Found:
    """What is joined has one scale, or is quantized again."""
    for node in graph.nodes:
        if node.op_type != "Concat":
            continue
        inputs = [name for name in node.input if not graph.is_constant(name)]
        made = {name: graph.dequantizer(name) for name in inputs}
        bare = [name for name, pair in made.items() if pair is None and graph.behind_quantized(name)]
        scales = {_value(graph, pair.input[1]) for pair in made.values() if pair is not None}
        if bare and len(bare) < len(inputs):
            yield node, f"no Q/DQ on {bare[0]}, but on others"
        elif len(scales) > 1:
            yield node, f"{len(scales)} different scales are joined: {', '.join(f'{scale:.4g}' for scale in sorted(scales))}"


def _value(graph: Graph, scale: str) -> float:
    array = graph.array(scale)
    return float("nan") if array is None else float(array.reshape(-1)[0])


@rule(
    "P6",
    "warning",
    fix="fold batch-norm before quantizing (`toolchain export` does); no Q/DQ before the activation",
    source="TensorRT documentation",
)
def fused(graph: Graph, _: Version) -> Found:
    """Conv, BatchNormalization and Relu become one layer only with nothing in between."""
    for node in graph.nodes:
        source = graph.before_pair(node.input[0]) if node.op_type in ("BatchNormalization", "Relu") else ""
        made = graph.producer.get(source)
        if made is None or made.op_type not in WEIGHTED:
            continue
        if source != node.input[0]:
            yield node, f"Q/DQ between {made.op_type} and {node.op_type}"
        elif node.op_type == "BatchNormalization" and graph.behind_quantized(source):
            yield node, f"batch-norm behind a quantized {made.op_type}"


@rule("P7", "warning", fix=f"leave what follows the head's last convs in float; {PLACE}", source="users' reports on YOLO heads")
def head(graph: Graph, _: Version) -> Found:
    """Outputs, and the softmax and sigmoids of a detector's head, are not rounded."""
    for name in graph.outputs:
        pair = graph.dequantizer(name)
        if pair is not None:
            yield pair, f"the output {name} is rounded to 8 bits"
    for node in graph.nodes:
        final = node.op_type == "Softmax" or (
            node.op_type == "Sigmoid" and not _multiplied(graph, node, graph.before_pair(node.input[0]))
        )
        if final and _rounded(graph, node.input[0]):
            yield node, f"{node.op_type} of values rounded to 8 bits"


def _rounded(graph: Graph, tensor: str) -> bool:
    """Whether the tensor is a DQ's, moved at most."""
    made = graph.producer.get(tensor)
    while made is not None and made.op_type in RESHAPING:
        if any(graph.dequantizer(name) is not None for name in made.input):
            return True
        made = graph.producer.get(made.input[0])
    return graph.dequantizer(tensor) is not None


@rule(
    "typed",
    "warning",
    since=(10, 0),
    fix="write it in FP16: toolchain typed",
    source="strong typing is the only mode of 11, and the agent's on 10",
)
def half(graph: Graph, _: Version) -> Found:
    """What is outside Q/DQ runs in the type that is written there."""
    rest = [pair for pair in graph.pairs if pair.op_type == QUANTIZE and not graph.holds_weight(pair)]
    if any(graph.types.get(pair.output[0]) and graph.types.get(pair.input[1]) == TensorProto.FLOAT for pair in rest):
        yield None, "Q/DQ in a float32 graph: all that is not INT8 runs in FP32"
