"""A detector's ONNX graph as a torch module that can be trained with the rounding of its INT8 twin, and its weights put back.

Trained is the graph itself, node by node, not the network it was exported from: what gets Q/DQ afterwards is the same graph with
other weights, batch-norms folded. Source of the method: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from toolchain.errors import QuantizationError
from toolchain.quantization.calibrate import Probe
from toolchain.quantization.qat_head import Head, head_of
from toolchain.quantization.qat_ops import OPERATORS
from toolchain.quantization.qat_rounding import FLOAT, Rounding, round_bias, round_weight
from toolchain.quantization.structure import Structure

TOLERANCE = 1e-3  # of raw outputs, relative to the largest: float32 sums in another order


@dataclass(frozen=True)
class Step:
    """One node."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class QatGraph(nn.Module):
    """(n, 3, imgsz, imgsz) in 0..1 -> {"boxes": (n, 4 · bins, anchors), "scores": (n, classes, anchors)} logits, and "feats", the
    maps of the boxes, for their sizes.

    Args:
        model: float graph in which no two convs share weights (`own_weights`).
        rounding: of its INT8 twin; `FLOAT` rounds nothing.

    Raises:
        QuantizationError: an operator or a head that is not known.
    """

    def __init__(self, model: onnx.ModelProto, rounding: Rounding = FLOAT) -> None:
        super().__init__()
        graph = Structure(model)
        self.rounding, self.head, self.source = rounding, head_of(model), graph.inputs[0]
        self.steps = _steps(graph, (*self.head.boxes, *self.head.scores))
        self.weights = nn.ParameterDict()
        self.places: dict[str, str] = {}  # initialiser -> where it is in `weights`, or the name of its buffer
        values = {tensor.name: tensor for tensor in model.graph.initializer}
        for step in self.steps:
            for index, name in enumerate(step.inputs):
                if name in values and name not in self.places:
                    tensor = torch.from_numpy(np.array(numpy_helper.to_array(values[name])))
                    self._keep(name, tensor, ("", "weight", "bias")[index] if step.op == "Conv" else "")

    def _keep(self, name: str, tensor: torch.Tensor, kind: str) -> None:
        key = f"{len(self.places)}_{kind or 'constant'}"  # "bias" in a name: the optimizer does not shrink it
        self.places[name] = key
        if kind:
            self.weights[key] = nn.Parameter(tensor)
        else:
            grid = self.rounding.grids.get(name)
            self.register_buffer(key, tensor if grid is None else grid.round(tensor), persistent=False)

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        values = {self.source: self._rounded(self.source, images)}
        before = {self.source: images}  # rounding
        for step in self.steps:
            found = OPERATORS[step.op](self._inputs(step, values, before), step.attributes)
            for name, value in zip(step.outputs, found if isinstance(found, (tuple, list)) else (found,), strict=True):
                before[name], values[name] = value, self._rounded(name, value)
        boxes, scores = ([values[name] for name in names] for names in (self.head.boxes, self.head.scores))
        return {
            "boxes": torch.cat([level.flatten(2) for level in boxes], 2),
            "scores": torch.cat([level.flatten(2) for level in scores], 2),
            "feats": boxes,
        }

    def _inputs(self, step: Step, values: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> list[Any]:
        found: list[Any] = []
        for name in step.inputs:
            there = before if (step.name, name) in self.rounding.unrounded else values
            found.append(there[name] if name in there else self._constant(name))
        if step.name in self.rounding.convs:
            scales = self.rounding.scales(found[1])
            found[1] = round_weight(found[1], scales)
            if step.name in self.rounding.biases:
                found[2] = round_bias(found[2], scales * self.rounding.grids[step.inputs[0]].scale)
        return found

    def _constant(self, name: str) -> torch.Tensor | None:
        if not name:
            return None
        key = self.places[name]
        return self.weights[key] if key in self.weights else self.get_buffer(key)

    def _rounded(self, name: str, value: torch.Tensor) -> torch.Tensor:
        grid = self.rounding.grids.get(name)
        return value if grid is None else grid.round(value)


def _steps(graph: Structure, wanted: Iterable[str]) -> list[Step]:
    """The nodes that make the wanted tensors, in the order they run.

    Raises:
        QuantizationError: an operator that is not known.
    """
    needed: set[str] = set()
    waiting = [graph.producer[name] for name in wanted]
    while waiting:
        node = waiting.pop()
        if node.name not in needed:
            needed.add(node.name)
            waiting += graph.parents(node)
    nodes = [node for node in graph.nodes if node.name in needed]
    unknown = [f"{node.op_type} in node {node.name}" for node in nodes if node.op_type not in OPERATORS]
    if unknown:
        fix = "train with another tool, or pass the gate by --recipe auto or --mixed"
        raise QuantizationError("QAT does not know an operator of this network", got="; ".join(unknown[:5]), fix=fix)
    return [Step(node.name, node.op_type, tuple(node.input), tuple(node.output), _attributes(node)) for node in nodes]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {**found, "outputs": len(node.output)}


def own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every conv has weights and a bias of its own: exporters let convs share equal ones, training parts them."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    values = {tensor.name: tensor for tensor in result.graph.initializer}
    taken: set[str] = set()
    for node in result.graph.node:
        if node.op_type != "Conv":
            continue
        for index, name in enumerate(node.input):
            if name in taken:
                copy = result.graph.initializer.add()
                copy.CopyFrom(values[name])
                copy.name = node.input[index] = f"{node.name}/own_{index}"
            elif name in values:
                taken.add(name)
    return result


def with_weights(model: onnx.ModelProto, network: QatGraph) -> onnx.ModelProto:
    """A copy of the float graph that `network` was made from, with the weights it has now."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        key = network.places.get(tensor.name, "")
        if key in network.weights:
            tensor.CopyFrom(numpy_helper.from_array(network.weights[key].detach().cpu().float().numpy(), tensor.name))
    return result


@torch.no_grad()
def raw_outputs(network: QatGraph, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """All raw outputs of one (3, s, s) picture, one after the other."""
    found = network(torch.from_numpy(picture[None]))
    return np.concatenate([found[key].numpy().ravel() for key in ("boxes", "scores")])


def engine_outputs(model: onnx.ModelProto, head: Head, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of a graph, float or INT8, by ONNX Runtime on this machine."""
    values = Probe(model, (*head.boxes, *head.scores)).run(picture)
    parts = [np.concatenate([values[name].reshape(values[name].shape[1], -1) for name in names], 1)
             for names in (head.boxes, head.scores)]  # fmt: skip
    return np.concatenate([part.ravel() for part in parts])


def check_agrees(network: QatGraph, model: onnx.ModelProto, picture: NDArray[np.float32]) -> None:
    """Raises: QuantizationError unless a network that rounds nothing computes what ONNX Runtime computes of its graph."""
    want, have = engine_outputs(model, network.head, picture), raw_outputs(network, picture)
    worst = float(np.abs(want - have).max() / max(1.0, float(np.abs(want).max())))
    if not worst <= TOLERANCE:
        fix = "train with another tool, or pass the gate by --recipe auto or --mixed"
        raise QuantizationError("torch and ONNX Runtime disagree about the float graph", got=f"relative {worst:.2e}", fix=fix)
