"""Mixed precision: INT8 is measured layer by layer, and those it costs most for the time it saves stay in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain import progress
from toolchain.errors import QuantizationError
from toolchain.export.session import cpu_session
from toolchain.imaging import float_batches
from toolchain.predictions import MIN_SCORE
from toolchain.quantization.qdq import Placement, leave_float, place, share_ranges
from toolchain.quantization.quantizer import Quantizer
from toolchain.quantization.structure import Structure
from toolchain.quantization.tables import Table

PICTURES = 16  # that a layer's damage is measured on


@dataclass(frozen=True)
class Layer:
    """A conv with its activation: they change precision together.

    Attributes:
        name: ONNX node of the conv.
        nodes: those that change.
        macs: multiply-adds of one picture.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int


def layers_of(model: onnx.ModelProto, placement: Placement) -> list[Layer]:
    """Every conv in INT8, in the order they run.

    Args:
        model: float graph with inferred shapes.
    """
    graph = Structure(model)
    sizes = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    pixels = {value.name: _pixels(value) for value in (*model.graph.value_info, *model.graph.output)}
    return [
        Layer(
            conv.name, (conv.name, *(node.name for node in graph.silu_of(conv) if node.name in placement.nodes)),
            sizes.get(conv.input[1], 0) * pixels.get(conv.output[0], 0),
        )
        for conv in graph.nodes if conv.op_type == "Conv" and conv.name in placement.nodes
    ]  # fmt: skip


def _pixels(value: onnx.ValueInfoProto) -> int:
    return prod(max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim[2:])


def damages(quantizer: Quantizer, table: Table, layers: Sequence[Layer], pictures: Sequence[Path]) -> dict[str, float]:
    """What INT8 in one layer alone does to the detections, everything else in float.

    Args:
        pictures: training pictures that did not calibrate; at most `PICTURES` are read.

    Returns:
        {layer: `detection_damage` over all pictures}.

    Raises:
        QuantizationError: no pictures, or outputs that are not a detector's.
    """
    if not pictures:
        raise QuantizationError("no pictures to measure the layers on", got=0)
    step = max(1, len(pictures) // PICTURES)
    inputs = list(float_batches(pictures[::step][:PICTURES], quantizer.imgsz))
    true = _outputs(quantizer.graph, inputs)
    found = {}
    with progress.task("Measuring INT8 layer by layer", total=len(layers), unit="layers") as task:
        for layer in layers:
            others = [name for name in quantizer.whole.nodes if name not in layer.nodes]
            alone = leave_float(quantizer.graph, quantizer.row, quantizer.whole, others, "measured apart")
            shared = share_ranges(dict(table.ranges), alone)
            model = place(quantizer.graph, shared, alone, quantizer.row, vnni=quantizer.vnni)
            found[layer.name] = detection_damage(true, _outputs(model, inputs))
            task.advance()
    return found


def _outputs(model: onnx.ModelProto, inputs: Iterable[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    session = cpu_session(model)
    name = session.get_inputs()[0].name
    return [session.run(None, {name: batch})[0][0] for batch in inputs]


def detection_damage(true: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]) -> float:
    """Part of the detections that was lost: scores that moved and boxes that no longer overlap, weighted by the true scores.

    Args:
        true, found: per picture (4 + classes, anchors): centre x, centre y, width, height in pixels, then scores.

    Returns:
        0: nothing moved; 1: as much as if all detections were gone.

    Raises:
        QuantizationError: outputs of another shape.
    """
    lost = weight = 0.0
    for a, b in zip(true, found, strict=True):
        if a.ndim != 2 or a.shape[0] < 5 or a.shape != b.shape:
            raise QuantizationError("the graph's output is not a detector's", got=f"{a.shape}, expected (4 + classes, anchors)")
        score = a[4:].max(axis=0)
        kept = score > MIN_SCORE
        moved = np.abs(a[4:, kept] - b[4:, kept]).max(axis=0, initial=0)
        lost += float((moved + score[kept] * (1 - _overlap(a[:4, kept], b[:4, kept]))).sum(dtype=np.float64))
        weight += float(score[kept].sum(dtype=np.float64))
    return lost / weight if weight else 0.0


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of (4, n) boxes, pair by pair."""
    sides = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2) - np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    common = np.maximum(sides, 0).prod(axis=0)
    union = a[2:].prod(axis=0) + b[2:].prod(axis=0) - common
    return np.asarray(common / np.maximum(union, 1e-9), dtype=np.float32)


def times_of(layers: Sequence[Layer], graph: onnx.GraphProto, kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Time of each layer from a profile; a layer without a kernel of its name is left out.

    Args:
        graph: whose nodes the layers are; runtimes name a kernel after the node it was made from, with something behind.
        kernels: (name, ms).
    """
    owner = {node: layer.name for layer in layers for node in layer.nodes}
    names = [node.name for node in graph.node]
    found: dict[str, float] = {}
    for kernel, ms in kernels:
        made_from = max((name for name in names if kernel.startswith(name)), key=len, default="")
        if made_from in owner:
            found[owner[made_from]] = found.get(owner[made_from], 0.0) + ms
    return found


def rank(layers: Sequence[Layer], damage: Mapping[str, float], saved: Mapping[str, float]) -> list[Layer]:
    """Layers in the order they go back to float: most damage per time saved first; where INT8 saves nothing, before all others.

    Args:
        damage: of `damages`.
        saved: what INT8 in that layer saves, ms or any measure in proportion.
    """

    def price(layer: Layer) -> tuple[float, float]:
        cost, gain = damage[layer.name], saved[layer.name]
        return (inf if gain <= 0 < cost else cost / gain if gain > 0 else 0.0), cost

    return sorted(layers, key=price, reverse=True)


def smallest(most: int, passes: Callable[[int], bool]) -> int | None:
    """Least number from 1 to `most` that passes, where more is better: doubled until it does, then halved in between.

    Returns:
        the number, the last but perhaps not the only one tried; None if not even `most` passes.
    """
    failed, count = 0, min(1, most)
    if count < 1:
        return None
    while not passes(count):
        if count == most:
            return None
        failed, count = count, min(2 * count, most)
    while count - failed > 1:
        middle = (count + failed) // 2
        failed, count = (failed, middle) if passes(middle) else (middle, count)
    return count


def to_json(order: Sequence[Layer], damage: Mapping[str, float], saved: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row a layer, in the order of `rank`."""
    return [
        {"layer": layer.name, "damage": damage[layer.name], "saved": saved[layer.name], "macs": layer.macs} for layer in order
    ]
