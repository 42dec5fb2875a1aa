"""Errors: what a version's parser refuses, or its builder can never build. One function a rule.

H1 to H8 are the rules of Q/DQ and types. Those of 10 and 11 are shown by graphs that the parser of TensorRT-RTX refuses (see the
tests); those of 8.5 and 8.6 alone (H5 to H7) rest on the source of onnx-tensorrt and on users' reports.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from toolchain.tensorrt.graph import DEQUANTIZE, PAIR, Graph
from toolchain.tensorrt.operators import INTEGER, PLUGINS, operators
from toolchain.tensorrt.registry import Found, rule
from toolchain.tensorrt.versions import Version

OWN = ("", "ai.onnx")
LAST_8, FIRST_10, FIRST_11 = (8, 99), (10, 0), (11, 0)
MOST_TOP_K = 3840
NARROW = (  # types of 8 bits and fewer that some version quantizes to
    TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, getattr(TensorProto, "FLOAT4E2M1", -1),
)  # fmt: skip


@rule(
    "H1", "error", source="ONNX parser: 'Non-zero zero point is not supported'; shown on RTX",
    fix="quantize symmetrically to int8: toolchain quantize --runtime tensorrt",
)  # fmt: skip
def zero_points(graph: Graph, version: Version) -> Found:
    """Zero points are 0, and int8 before 11. Others exist only for DLA, by a flag of the parser from 10.11 on."""
    for node in graph.pairs:
        zero = graph.array(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and np.any(zero):
            yield node, f"zero point {zero.reshape(-1)[np.flatnonzero(zero)[0]]}, not 0"
        elif version.number < FIRST_11 and graph.zero_type(node) == TensorProto.UINT8:
            yield node, "uint8, not int8"


@rule(
    "H2", "error", source="ONNX parser: 'Scales must all be positive'; shown on RTX",
    fix="calibrate again: a scale of 0 comes from a tensor or channel that was 0 throughout",
)  # fmt: skip
def scales(graph: Graph, _: Version) -> Found:
    """Every scale is above 0 and finite."""
    for node in graph.pairs:
        scale = graph.array(node.input[1])
        if scale is None:
            continue
        values = scale.astype(np.float64).reshape(-1)
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if len(wrong):
            yield node, f"scale {wrong[0]:g}, not above 0"


@rule(
    "H3", "error", source="ONNX parser: 'type Int32 ... needs FP8/FP4/Int4/Int8/UInt8'; shown on RTX",
    fix="leave the bias in float: toolchain quantize --runtime tensorrt, or QuantizeBias=False in quantize_static",
)  # fmt: skip
def wide_types(graph: Graph, _: Version) -> Found:
    """No 16 or 32 bits in Q/DQ, as quantize_static writes them for the bias."""
    for node in graph.pairs:
        kind = graph.zero_type(node)
        if kind and kind not in NARROW:
            yield node, f"{TensorProto.DataType.Name(kind).lower()}, not int8"


@rule(
    "H4", "error", source="operators.md: not supported in any version; shown on RTX",
    fix="write Q/DQ pairs around float operators instead (QDQ format): toolchain quantize --runtime tensorrt",
)  # fmt: skip
def integer_operators(graph: Graph, _: Version) -> Found:
    """Operators that compute on integers themselves."""
    for node in graph.every_node():
        if node.op_type in INTEGER:
            yield node, f"{node.op_type} is not supported"


@rule(
    "H5", "error", until=LAST_8, source="onnx-tensorrt 8.5 and 8.6, importer of Q/DQ",
    fix="write the zero point, of the scale's length: toolchain quantize --runtime tensorrt",
)  # fmt: skip
def written_zero_points(graph: Graph, _: Version) -> Found:
    """8.x wants the zero point to be there, as long as the scale."""
    for node in graph.pairs:
        if len(node.input) < 3 or not node.input[2]:
            yield node, "no zero point"
            continue
        scale, zero = graph.array(node.input[1]), graph.array(node.input[2])
        if scale is not None and zero is not None and scale.size != zero.size:
            yield node, f"{zero.size} zero points for {scale.size} scales"


@rule(
    "H6", "error", until=LAST_8, source="users' reports: 'invalid weights type of Int8'",
    fix="keep the weight in float with Q and DQ behind it: toolchain quantize --runtime tensorrt",
)  # fmt: skip
def stored_weights(graph: Graph, _: Version) -> Found:
    """8.x cannot read weights that are stored as int8."""
    for node in graph.pairs:
        if node.op_type == DEQUANTIZE and graph.is_constant(node.input[0]):
            yield node, f"the weight {node.input[0]} is stored quantized"


@rule(
    "H7", "error", until=LAST_8, source="ONNX: scales are float32 before opset 19; 8.x reads opset 17",
    fix="give it the graph in float32, and FP16 by the builder's flag (--provider gpu:precision=fp16)",
)  # fmt: skip
def float32_scales(graph: Graph, _: Version) -> Found:
    """8.x wants FP32 scales, so Q/DQ on FP32 tensors."""
    for node in graph.pairs:
        kind = graph.types.get(node.input[1], TensorProto.FLOAT)
        if kind != TensorProto.FLOAT:
            yield node, f"{TensorProto.DataType.Name(kind).lower()} scale, not float32"


@rule(
    "H8", "error", since=FIRST_10, source="ONNX parser: 'input and kernel must be of same type'; shown on RTX",
    fix="cast one side, or let `toolchain typed` write the types",
)  # fmt: skip
def one_type(graph: Graph, _: Version) -> Found:
    """Inputs that ONNX declares to be of one type are of one type: a strongly typed network converts nothing by itself."""
    for node in graph.nodes:
        if node.op_type in PAIR or node.domain not in OWN:
            continue
        seen: dict[str, tuple[str, int]] = {}
        for tensor, declared in zip(node.input, _declared(node, graph.opset), strict=False):
            kind = graph.types.get(tensor, 0)
            first, other = seen.setdefault(declared, (tensor, kind)) if tensor and kind else ("", kind)
            if other != kind:
                names = [TensorProto.DataType.Name(each).lower() for each in (other, kind)]
                yield node, f"{first} is {names[0]}, {tensor} is {names[1]}"
                break


def _declared(node: onnx.NodeProto, opset: int) -> list[str]:
    """Name of the type of each input, as in ONNX's schema; inputs with the same name share one type."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return []
    names = [parameter.type_str for parameter in schema.inputs]
    variadic = bool(names) and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    return names + names[-1:] * (len(node.input) - len(names)) if variadic else names


@rule(
    "opset", "error", source="operators.md of the versions",
    fix="export it with --opset 17, which every version reads",
)  # fmt: skip
def opset(graph: Graph, version: Version) -> Found:
    """ONNX's opset is one that NVIDIA says the version reads. The parser itself may try others; nobody vouches for the result."""
    if not version.first_opset <= graph.opset <= version.last_opset:
        yield (
            None,
            f"opset {graph.opset}; NVIDIA says that TensorRT {version.name} reads {version.first_opset} to {version.last_opset}",
        )


@rule(
    "operator", "error", source="operators.md of the versions; for 11 also asked of RTX's parser",
    fix="export the network without plugins and without suppression in the graph: toolchain export",
)  # fmt: skip
def unknown_operators(graph: Graph, version: Version) -> Found:
    """The parser has an importer for every operator, or TensorRT's own plugins do."""
    known = operators(version)
    local = {(function.domain, function.name) for function in graph.model.functions} if version.number >= FIRST_10 else set()
    inside = [node for function in graph.model.functions for node in function.node] if local else []
    for node in (*graph.every_node(), *inside):
        if node.op_type in (*INTEGER, *PLUGINS) or (node.domain, node.op_type) in local:
            continue
        if node.domain not in OWN or node.op_type not in known:
            of = f" of {node.domain}" if node.domain not in OWN else ""
            yield node, f"TensorRT {version.name} has no importer for {node.op_type}{of}"


@rule(
    "topk", "error", source="operators.md: 'K must be less than 3840'; RTX parses it and then cannot build",
    fix="keep fewer candidates",
)  # fmt: skip
def largest_top_k(graph: Graph, _: Version) -> Found:
    """No version can build a TopK above 3840, though the parser takes it."""
    for node in graph.nodes:
        k = graph.array(node.input[1]) if node.op_type == "TopK" and len(node.input) > 1 else None
        if k is not None and int(k.reshape(-1)[0]) > MOST_TOP_K:
            yield node, f"k = {int(k.reshape(-1)[0])}, at most {MOST_TOP_K} can be built"
