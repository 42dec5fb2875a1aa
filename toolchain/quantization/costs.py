"""Which layers lose most to INT8: noise each one adds on its own, measured on a few pictures in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from toolchain.errors import QuantizationError
from toolchain.export.session import cpu_session

PAIR = ("QuantizeLinear", "DequantizeLinear")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerCost:
    """Noise of one quantized layer, everything before it in float.

    Attributes:
        name: ONNX node.
        sqnr_db: signal-to-quantization-noise ratio of its output, decibels; lower is worse.
    """

    name: str
    sqnr_db: float


def layer_costs(model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> list[LayerCost]:
    """Every quantized weighted layer, the noisiest first.

    Each layer of the quantized graph is fed with the float graph's activations (rounded as it rounds them) and its output,
    rounded in turn, is compared with the float output. Only sums of squares leave the runtime, so memory stays small.

    Args:
        model: float graph the quantized one was made from.
        quantized: graph with Q/DQ pairs.
        batches: (1, 3, s, s) float32 pictures; a handful is enough.

    Raises:
        QuantizationError: no picture, or no layer of the one is quantized in the other.
    """
    probe, names = _side_by_side(model, quantized)
    if not names:
        raise QuantizationError("no quantized layer in common: the graphs do not belong together", got=len(quantized.graph.node))
    session = cpu_session(probe)
    totals = np.zeros((len(names), 2))
    seen = 0
    for batch in batches:
        for picture in batch:
            sums = session.run(None, {session.get_inputs()[0].name: picture[None]})
            totals += np.array(sums, dtype=np.float64).reshape(-1, 2)
            seen += 1
    if not seen:
        raise QuantizationError("no pictures to measure layer costs on", got=0)
    costs = [LayerCost(name, _decibel(signal, noise)) for name, (signal, noise) in zip(names, totals, strict=True)]
    return sorted(costs, key=lambda cost: cost.sqnr_db)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _side_by_side(model: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Float graph + each layer's INT8 twin beside it, reading the same float activations; outputs are sums of squares."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    present = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in quantized.graph.initializer if tensor.name not in present)
    made = {name for node in graph.node for name in node.output}
    # A quantized bias keeps its name, now as the output of its DQ; 32 bits of it are as good as the float one.
    biases = {name for node in quantized.graph.node if node.op_type == PAIR[1] for name in node.output} & present
    floats_only = [tensor for tensor in graph.initializer if tensor.name not in biases]
    del graph.initializer[:]
    graph.initializer.extend(floats_only)
    pairs = [node for node in quantized.graph.node if node.op_type in PAIR and not made.intersection(node.output)]
    graph.node.extend(pairs)
    dequantized = {node.output[0] for node in pairs if node.op_type == "DequantizeLinear"}
    after = {node.input[0]: node.output[0] for node in pairs}
    floats = {node.name: node for node in model.graph.node}
    del graph.output[:]
    names: list[str] = []
    for node in quantized.graph.node:
        if node.op_type not in WEIGHTED or node.name not in floats or not dequantized.intersection(node.input):
            continue
        true = floats[node.name].output[0]
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name, twin.output[0] = f"{node.name}/int8", f"{node.name}/int8/out"
        graph.node.append(twin)
        graph.node.extend(_sums(true, _rounded(graph, twin.output[0], true, pairs, after), node.name))
        graph.output.extend(helper.make_tensor_value_info(f"{node.name}/{key}", 1, []) for key in ("signal", "noise"))
        names.append(node.name)
    return probe, names


def _rounded(graph: onnx.GraphProto, tensor: str, like: str, pairs: list[onnx.NodeProto], after: dict[str, str]) -> str:
    """`tensor` through a copy of the Q/DQ pair that follows `like`, or itself if none does."""
    if like not in after:
        return tensor
    quantize = next(node for node in pairs if node.input[0] == like)
    dequantize = next(node for node in pairs if node.input[0] == quantize.output[0])
    for number, pair in enumerate((quantize, dequantize)):
        copy = onnx.NodeProto()
        copy.CopyFrom(pair)
        copy.name, copy.input[0], copy.output[0] = f"{tensor}/pair{number}", tensor, f"{tensor}/pair{number}"
        graph.node.append(copy)
        tensor = copy.output[0]
    return tensor


def _sums(true: str, rounded: str, name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceSumSquare", [true], [f"{name}/signal"], f"{name}/signal", keepdims=0),
        helper.make_node("Sub", [true, rounded], [f"{name}/difference"], f"{name}/difference"),
        helper.make_node("ReduceSumSquare", [f"{name}/difference"], [f"{name}/noise"], f"{name}/noise", keepdims=0),
    ]
