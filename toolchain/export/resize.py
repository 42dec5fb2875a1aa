"""A graph of a plan's shape, cut out of the dense graph: weights are cropped, not chosen, so it runs as fast as the real cut
would and needs no training, export or calibration. For timing only: its outputs mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from toolchain.errors import ExportError

Tensor = NDArray[Any]
ELEMENT_WISE = frozenset({"Mul", "Sigmoid", "Clip", "HardSwish", "QuantizeLinear", "DequantizeLinear"})
Sizes = Mapping[str, tuple[int, int]]  # convolution, by its module path -> (inputs, outputs)


def resize(model: onnx.ModelProto, sizes: Sizes) -> onnx.ModelProto:
    """A copy whose convolutions have other widths; float or with Q/DQ pairs.

    Args:
        model: graph of this package's exporter: weights are named `PATH.weight…`, constants are initialisers.
        sizes: of every convolution that changes; not larger than in `model`.

    Raises:
        ExportError: a convolution is not in the graph, or would have to grow.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    graph = _Graph(copy.graph)
    convs = {path: node for node in copy.graph.node if node.op_type == "Conv" and (path := graph.path_of(node))}
    if missing := sorted(set(sizes) - set(convs)):
        raise ExportError("convolutions that the graph does not have", got=missing[:5], fix="the graph of the same network")
    for path, (inputs, outputs) in sizes.items():
        graph.crop(convs[path], path, inputs, outputs)
    for node in copy.graph.node:
        if node.op_type == "Split":
            graph.halve(node)
    graph.store()
    return copy


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._maker = {name: node for node in graph.node for name in node.output}
        self._changed: dict[str, Tensor] = {}

    def path_of(self, conv: onnx.NodeProto) -> str:
        """Module path of a convolution: its weight's name up to `.weight`; empty where there is none."""
        name = self._source(conv.input[1])
        return name.rsplit(".weight", 1)[0] if ".weight" in name else ""

    def crop(self, conv: onnx.NodeProto, path: str, inputs: int, outputs: int) -> None:
        """Weight, bias and the scales of both."""
        weight = self._value(self._source(conv.input[1]))
        group = next((a for a in conv.attribute if a.name == "group"), None)
        grouped = group is not None and group.i > 1
        if outputs > weight.shape[0] or (not grouped and inputs > weight.shape[1]):
            raise ExportError("a convolution cannot grow", got=f"{path}: {weight.shape[:2]} to {(outputs, inputs)}")
        if grouped:
            assert group is not None
            group.i = outputs
        self._changed[self._source(conv.input[1])] = weight[:outputs] if grouped else weight[:outputs, :inputs]
        for name in (*self._scales(conv.input[1]), *(n for i in conv.input[2:] for n in (self._source(i), *self._scales(i)))):
            value = self._value(name)
            if value.ndim:
                self._changed[name] = value[:outputs]

    def halve(self, split: onnx.NodeProto) -> None:
        """The sizes of a C2f's split, as a constant of its own: simplifiers share equal constants."""
        width = self._width(split.input[0])
        if width is not None:
            name, parts = f"{split.name}.sizes", len(split.output)
            self._changed[name] = np.full(parts, width // parts, dtype=np.int64)
            split.input[1] = name

    def store(self) -> None:
        """Put the changed constants in place of the old ones."""
        used = {name for node in self._graph.node for name in node.input}
        kept = [t for t in self._graph.initializer if t.name in used and t.name not in self._changed]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        for name, value in self._changed.items():
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def _value(self, name: str) -> Tensor:
        if name in self._changed:
            return self._changed[name]
        found: Tensor = numpy_helper.to_array(self._constants[name])
        return found

    def _source(self, tensor: str) -> str:
        """The constant behind a tensor, through Q/DQ; the tensor itself where there is none."""
        while tensor not in self._constants and tensor in self._maker:
            node = self._maker[tensor]
            if node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
                return tensor
            tensor = node.input[0]
        return tensor

    def _scales(self, tensor: str) -> list[str]:
        """Scales and zero points on the way from a constant to `tensor`."""
        found: list[str] = []
        while tensor in self._maker and self._maker[tensor].op_type in ("DequantizeLinear", "QuantizeLinear"):
            found += self._maker[tensor].input[1:]
            tensor = self._maker[tensor].input[0]
        return found

    def _width(self, tensor: str) -> int | None:
        """Channels of an activation that a convolution makes, read through element-wise nodes; None for any other tensor."""
        while (node := self._maker.get(tensor)) is not None:
            if node.op_type == "Conv":
                return int(self._value(self._source(node.input[1])).shape[0])
            if node.op_type not in ELEMENT_WISE:
                return None
            tensor = node.input[0]
        return None
