"""Put Q/DQ pairs into a float graph by a row of `RULES`: ONNX Runtime writes them, where and with which range is ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from toolchain.errors import QuantizationError
from toolchain.quantization.ranges import Range
from toolchain.quantization.rounded_once import drop_repeated_rounding
from toolchain.quantization.rules import MOVING, Rules
from toolchain.quantization.structure import Structure
from toolchain.quantization.weights import channel_limits

SIGMOID: Range = (0.0, 1.0)


@dataclass(frozen=True)
class Placement:
    """Which nodes become INT8, and which tensors need a range for that.

    Attributes:
        nodes: names of the nodes that get Q/DQ.
        kept_float: names of the nodes left in float and why.
        tensors: activations that need a range.
        observed: those of them to calibrate; the others follow from their group, or are sigmoids.
        shared: groups of tensors with one common range.
        before_silu: tensors that only a quantized SiLU reads.
    """

    nodes: tuple[str, ...]
    kept_float: dict[str, str]
    tensors: tuple[str, ...]
    observed: tuple[str, ...]
    shared: tuple[frozenset[str], ...]
    before_silu: frozenset[str]


def plan_placement(model: onnx.ModelProto, rules: Rules, keep_float: Sequence[str] = ()) -> Placement:
    """Decide from the structure alone.

    Args:
        model: float graph; unnamed nodes get names.
        keep_float: names or patterns (`/model.22/*`) of nodes to leave in float.

    Raises:
        QuantizationError: not a detector, nothing left to quantize, or a pattern that matches nothing.
    """
    graph = Structure(model)
    tail, last = graph.head_tail()
    kept = dict.fromkeys(tail, "after the last convs of the head")
    if rules.last_convs == "float":
        kept |= {node.name: "last conv of the head" for node in last}
    if rules.first_conv == "float":
        first = graph.first_convs()
        kept |= {node.name: "reads the picture" for conv in first for node in (conv, *graph.silu_of(conv))}
    for pattern in keep_float:
        matched = [node.name for node in graph.nodes if fnmatchcase(node.name, pattern)]
        if not matched:
            fix = "names are those of the ONNX nodes, for example /model.2/*"
            raise QuantizationError("no layer matches the pattern of `keep_float`", got=pattern, fix=fix)
        kept |= dict.fromkeys(matched, f"asked: {pattern}")
    return _placement(graph, rules, kept)


def leave_float(model: onnx.ModelProto, rules: Rules, placement: Placement, names: Iterable[str], why: str) -> Placement:
    """The placement without some of its nodes.

    Raises:
        QuantizationError: nothing is left to quantize.
    """
    return _placement(Structure(model), rules, {**placement.kept_float, **dict.fromkeys(names, why)})


def _placement(graph: Structure, rules: Rules, kept: dict[str, str]) -> Placement:
    chosen = [node for node in graph.nodes if node.op_type in rules.quantized and node.name not in kept]
    if not any(node.op_type == "Conv" for node in chosen):
        asked = any(why.startswith("asked") for why in kept.values())
        fix = "keep fewer layers in float" if asked else "give a whole detector's graph: `toolchain export`"
        reasons = ", ".join(f"{list(kept.values()).count(why)} {why}" for why in dict.fromkeys(kept.values()))
        raise QuantizationError("no conv would be quantized", got=f"nodes kept in float: {reasons}", fix=fix)
    tensors = dict.fromkeys(name for node in chosen for name in _activations(graph, node, rules))
    shared = graph.scale_groups(chosen, MOVING)
    follow = {name for node in chosen if node.op_type in (*MOVING, "Sigmoid") for name in node.output}
    observed = tuple(name for name in tensors if name not in follow)
    names = tuple(node.name for node in chosen)
    silu = frozenset(node.output[0] for node in chosen if _feeds_only_silu(graph, node, names))
    return Placement(names, kept, tuple(tensors), observed, tuple(frozenset(group) for group in shared), silu)


def _feeds_only_silu(graph: Structure, node: onnx.NodeProto, chosen: Collection[str]) -> bool:
    if node.op_type != "Conv" or node.output[0] in graph.outputs:
        return False
    silu = [after.name for after in graph.silu_of(node)]
    readers = {reader.name for reader in graph.consumers.get(node.output[0], [])}
    return bool(silu) and readers == set(silu) and readers.issubset(chosen)


def _activations(graph: Structure, node: onnx.NodeProto, rules: Rules) -> list[str]:
    floats = node.input[:1] if node.op_type in ("Conv", "ConvTranspose", "Split", "Resize", *MOVING[4:]) else node.input
    outputs = () if node.op_type in rules.float_outputs else node.output
    return [name for name in (*floats, *outputs) if name and not graph.is_constant(name)]


def share_ranges(found: Mapping[str, Range], placement: Placement) -> dict[str, Range]:
    """Ranges of all tensors from those of the observed ones: a group gets the union of its ranges, a sigmoid 0..1."""
    result = dict(found)
    for group in placement.shared:
        known = [found[name] for name in group if name in found]
        if known:
            union = (min(low for low, _ in known), max(high for _, high in known))
            result |= dict.fromkeys(group, union)
    return {name: result.get(name, SIGMOID) for name in placement.tensors}


def place(
    model: onnx.ModelProto, found: Mapping[str, Range], placement: Placement, rules: Rules, *, vnni: bool
) -> onnx.ModelProto:
    """The graph with Q/DQ; metadata is kept.

    Args:
        model: float graph; a copy is changed.
        found: range of each tensor of the placement, from `share_ranges`.
        vnni: the CPU has 8-bit dot products that do not saturate (AVX-512 VNNI, AVX-VNNI).

    Raises:
        QuantizationError: a tensor has no range.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

    missing = sorted(set(placement.tensors) - set(found))
    if missing:
        raise QuantizationError("tensors without a calibrated range", got=missing[:5])
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in found.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if rules.activations == "uint8" else QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=list(placement.nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(rules.quantized),
        extra_options={
            "ActivationSymmetric": rules.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": rules.int32_bias,
            "AddQDQPairToWeight": rules.pair_on_weights,
            "OpTypesToExcludeOutputQuantization": list(rules.float_outputs),
            "TensorQuantOverrides": _weight_ranges(model, placement, saturating=rules.saturating_without_vnni and not vnni),
        },
    )
    result: onnx.ModelProto = quantizer.quantize_model()
    if rules.rounds_inside:
        _read_unrounded(result, placement)
    quantizer.model.topological_sort()
    if not rules.rounds_moved:
        drop_repeated_rounding(result)
    del result.metadata_props[:]  # the quantizer leaves a mark of its own there
    result.metadata_props.extend(model.metadata_props)
    return result


def _read_unrounded(model: onnx.ModelProto, placement: Placement) -> None:
    """Nodes in float read what the Q reads, not what the DQ gives."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in placement.nodes or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for place, name in enumerate(node.input):
            dequantize = makers.get(name)
            quantize = makers.get(dequantize.input[0]) if dequantize and dequantize.op_type == "DequantizeLinear" else None
            if quantize is not None:
                node.input[place] = quantize.input[0]


def _weight_ranges(model: onnx.ModelProto, placement: Placement, *, saturating: bool) -> dict[str, list[dict[str, Any]]]:
    """Range of every channel of every quantized conv's weight, in the form ONNX Runtime's quantizer reads."""
    from onnxruntime.quantization import QuantType

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    ranges: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type != "Conv" or node.name not in placement.nodes or node.input[1] not in weights:
            continue
        limits = channel_limits(numpy_helper.to_array(weights[node.input[1]]), saturating=saturating)
        ranges[node.input[1]] = [
            {"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True, "rmin": -limit, "rmax": limit} for limit in limits
        ]
    return ranges
