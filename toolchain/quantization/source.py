"""The float graph that INT8 starts from. It may come from any exporter: what it must be is checked here, and said in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from toolchain.errors import QuantizationError
from toolchain.export.edits import constants_as_initializers
from toolchain.export.session import cpu_session

LOWEST_OPSET = 13  # the first whose Q/DQ knows a scale per channel
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
SHOWN = 5


def load_float(path: Path, imgsz: int) -> onnx.ModelProto:
    """A float detector with one (n, 3, imgsz, imgsz) input; constants are initialisers, shapes are inferred.

    Raises:
        QuantizationError: not ONNX, quantized already, of an opset that cannot be quantized or is not known here, with unknown
            operators (named), with another input, in half precision, or not what ONNX Runtime can load.
    """
    try:
        model = onnx.load(path)
        operators = [node.op_type for node in _nodes(model.graph)]
    except Exception as error:  # whatever the parser makes of a file that is none
        fix = "run `toolchain export` first"
        raise QuantizationError("not a readable ONNX file", got=f"{path}: {error!r:.200}", fix=fix) from error
    if not operators:
        raise QuantizationError("not a readable ONNX file", got=f"{path}: no nodes", fix="run `toolchain export` first")
    if set(operators) & set(QUANTIZED):
        raise QuantizationError("the model is quantized already", got=path, fix="give the float model.onnx")
    _check_opset(model)
    _check_operators(model)
    constants_as_initializers(model)
    _check_input(model, imgsz)
    _check_precision(model)
    try:
        model = onnx.shape_inference.infer_shapes(model)
        cpu_session(model, optimise=False)
    except Exception as error:  # onnx and ONNX Runtime have many kinds, all of which tell in words
        fix = "export it again: `toolchain export`"
        raise QuantizationError("ONNX Runtime cannot load the graph", got=f"{path}: {error!s:.400}", fix=fix) from error
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _check_opset(model: onnx.ModelProto) -> None:
    found, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if found < LOWEST_OPSET:
        got = f"opset {found}; Q/DQ with a scale per channel begins with {LOWEST_OPSET}"
        raise QuantizationError("the graph's opset is too old", got=got, fix="export it again, as with --opset 17")
    if found > newest:
        got = f"opset {found}; onnx {onnx.__version__} here knows up to {newest}"
        raise QuantizationError("the graph's opset is too new", got=got, fix="export it with --opset 17, or install a newer onnx")


def _check_operators(model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    version = opset_of(model)
    unknown = [node for node in _nodes(model.graph) if (node.domain, node.op_type) not in own and not _known(node, version)]
    if unknown:
        named = [f"{node.op_type} of {node.domain or 'ai.onnx'} in node {node.name or node.output[0]}" for node in unknown]
        got = "; ".join(named[:SHOWN]) + (f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else "")
        fix = "export the network without plugins and without suppression in the graph: `toolchain export`"
        raise QuantizationError("the graph has operators that ONNX does not know", got=got, fix=fix)


def _known(node: onnx.NodeProto, version: int) -> bool:
    if node.domain not in DOMAINS:
        return False
    if node.domain not in ("", "ai.onnx"):
        return True  # ONNX Runtime's own; it says itself what it lacks
    try:
        onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _check_input(model: onnx.ModelProto, imgsz: int) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    shown = "; ".join(f"{value.name}: {_shape(value)}" for value in inputs) or "none"
    want = f"(n, 3, {imgsz}, {imgsz})"
    fix = f"export it for that size: toolchain export MODEL --imgsz {imgsz}"
    if len(inputs) != 1:
        raise QuantizationError(f"expected one input of shape {want}", got=shown, fix=fix)
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        got = f"{inputs[0].name}: {TensorProto.DataType.Name(kind.elem_type).lower()}"
        raise QuantizationError("the input is not float32", got=got, fix="export it in float32, with the input in 0..1")
    shape = [dim.dim_value for dim in kind.shape.dim]
    if len(shape) == 4 and 0 in shape[1:]:
        got = f"{shown}, asked for {want}"
        raise QuantizationError("the input's size is free; INT8 is calibrated for one size", got=got, fix=fix)
    if shape[1:] != [3, imgsz, imgsz]:
        raise QuantizationError(f"expected one input of shape {want}", got=shown, fix=fix)


def _check_precision(model: onnx.ModelProto) -> None:
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and kinds.get(node.input[1], TensorProto.FLOAT) != TensorProto.FLOAT:
            got = f"{node.name}: {TensorProto.DataType.Name(kinds[node.input[1]]).lower()} weights"
            raise QuantizationError("the graph is not in float32", got=got, fix="give the float32 graph: INT8 is made from that")


def _shape(value: onnx.ValueInfoProto) -> str:
    dims = [str(dim.dim_value or dim.dim_param or "?") for dim in value.type.tensor_type.shape.dim]
    return f"({', '.join(dims)})"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)
