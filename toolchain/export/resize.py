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
QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
FIRST, SECOND = ".cv1.conv", ".cv2.conv"  # of a Bottleneck
Sizes = Mapping[str, tuple[int, int]]  # convolution, by its module path -> (inputs, outputs)


def resize(model: onnx.ModelProto, sizes: Sizes) -> onnx.ModelProto:
    """A copy whose convolutions have other widths; float or with Q/DQ pairs.

    Args:
        model: graph of this package's exporter: weights are named `PATH.weight…`, constants are initialisers.
        sizes: of every convolution that changes; not larger than in `model`. A Bottleneck whose first convolution has no outputs
            is gone; what reads its concat has the inputs that are left.

    Raises:
        ExportError: a convolution is not in the graph, or would have to grow.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    graph = _Graph(copy.graph)
    if missing := sorted(set(sizes) - set(graph.convs)):
        raise ExportError("convolutions that the graph does not have", got=missing[:5], fix="the graph of the same network")
    gone = [path.removesuffix(FIRST) for path, (_, outputs) in sizes.items() if path.endswith(FIRST) and not outputs]
    for block in reversed(gone):
        graph.bypass(block + FIRST, block + SECOND)
    if gone:
        graph.rejoin()
    for path, (inputs, outputs) in sizes.items():
        if path in graph.convs:
            graph.crop(path, inputs, outputs)
    for node in copy.graph.node:
        if node.op_type == "Split":
            graph.halve(node)
    graph.store()
    return copy


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._changed: dict[str, Tensor] = {}
        self._index()

    def _index(self) -> None:
        self._maker = {name: node for node in self._graph.node for name in node.output}
        named = ((self._path_of(node), node) for node in self._graph.node if node.op_type == "Conv")
        self.convs = {path: node for path, node in named if path}  # by module path

    def _path_of(self, conv: onnx.NodeProto) -> str:
        """Module path of a convolution: its weight's name up to `.weight`; empty where there is none."""
        name = self._source(conv.input[1])
        return name.rsplit(".weight", 1)[0] if ".weight" in name else ""

    def crop(self, path: str, inputs: int, outputs: int) -> None:
        """Weight, bias and the scales of both."""
        conv = self.convs[path]
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

    def bypass(self, first: str, last: str) -> None:
        """Take a Bottleneck out, given its convolutions: who read it reads its input, and its concat is shorter."""
        source, end = self._plain(self.convs[first].input[0]), self._end(self.convs[last])
        given = {end, *self._pair(end)}
        for node in self._graph.node:
            if node.op_type == "Concat" and not given.isdisjoint(node.input):
                left = [name for name in node.input if name not in given]
                del node.input[:]
                node.input.extend(left)
        self._put(source, end)

    def rejoin(self) -> None:
        """A concat of nothing but the parts of one split is what was split; the exporter writes neither."""
        for node in list(self._graph.node):
            parts = [self._plain(name) for name in node.input] if node.op_type == "Concat" else []
            split = self._maker.get(parts[0]) if parts else None
            if split is not None and split.op_type == "Split" and parts == list(split.output):
                rounded_behind = bool(self._pair(node.output[0]))  # else its readers read what was rounded before the split
                self._put(self._plain(split.input[0]) if rounded_behind else split.input[0], node.output[0])

    def _end(self, conv: onnx.NodeProto) -> str:
        """What a Bottleneck gives: the sum behind its second convolution, or without a shortcut the convolution's activation."""
        end: str = conv.output[0]
        reached = {end}
        for node in self._graph.node:
            if reached.isdisjoint(node.input):
                continue
            if node.op_type == "Add":
                return str(node.output[0])
            if node.op_type in ELEMENT_WISE:
                reached |= set(node.output)
                end = end if node.op_type in QUANTIZED else node.output[0]
        return end

    def _pair(self, tensor: str) -> list[str]:
        """The tensor after its Q/DQ pair, if it has one."""
        halves = [n.output[0] for n in self._graph.node if n.op_type == QUANTIZED[0] and n.input[0] == tensor]
        return [n.output[0] for n in self._graph.node if n.op_type == QUANTIZED[1] and n.input[0] in halves]

    def _put(self, new: str, old: str) -> None:
        """Let the readers of a tensor read another one, and drop the nodes that nobody reads any more.

        Readers of its Q/DQ pair read the other one's; where that has none, the pair stays, behind the other tensor.
        """
        instead = {old: new, **dict(zip(self._pair(old), self._pair(new), strict=False))}
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = instead.get(name, name)
        needed = {value.name for value in self._graph.output}
        kept = []
        for node in reversed(self._graph.node):
            if not needed.isdisjoint(node.output):
                needed |= set(node.input)
                kept.append(node)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        self._index()

    def _plain(self, tensor: str) -> str:
        """The tensor before its Q/DQ pair."""
        while tensor in self._maker and self._maker[tensor].op_type in QUANTIZED:
            tensor = self._maker[tensor].input[0]
        return tensor

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
            if node.op_type not in QUANTIZED:
                return tensor
            tensor = node.input[0]
        return tensor

    def _scales(self, tensor: str) -> list[str]:
        """Scales and zero points on the way from a constant to `tensor`."""
        found: list[str] = []
        while tensor in self._maker and self._maker[tensor].op_type in QUANTIZED:
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
