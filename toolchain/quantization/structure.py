"""What a detector's graph is made of, read from its edges alone: head tail, last convs, first convs, scale groups."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from toolchain.errors import QuantizationError

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Structure:
    """Index of a graph. Every node has a unique name afterwards (the graph is changed for that alone)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.weights = {tensor.name for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self.weights]
        self.outputs = [value.name for value in model.graph.output]
        taken = {node.name for node in self.nodes}
        for index, node in enumerate(self.nodes):
            if not node.name or sum(other.name == node.name for other in self.nodes) > 1:
                node.name = next(name for i in range(len(taken) + 1) if (name := f"{node.op_type}_{index}_{i}") not in taken)
                taken.add(node.name)
        self.producer = {tensor: node for node in self.nodes for tensor in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for tensor in node.input:
                self.consumers.setdefault(tensor, []).append(node)

    def is_constant(self, tensor: str) -> bool:
        """Initialiser (`constants_as_initializers` makes all constants so)."""
        return tensor in self.weights

    def parents(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes that produce the inputs of `node`."""
        return [self.producer[tensor] for tensor in node.input if tensor in self.producer]

    def head_tail(self) -> tuple[set[str], list[onnx.NodeProto]]:
        """Names of the nodes after the last convs of the head, and those convs.

        Walks back from the outputs to the first weighted nodes. A conv that reads a softmax or its exponentials is the box
        distribution's fixed expectation (DFL), not a layer, so the walk goes through it.

        Raises:
            QuantizationError: the walk meets no conv, so this is not a detector.
        """
        tail: set[str] = set()
        last: dict[str, onnx.NodeProto] = {}
        waiting = [self.producer[name] for name in self.outputs if name in self.producer]
        while waiting:
            node = waiting.pop()
            if node.name in tail or node.name in last:
                continue
            if node.op_type in WEIGHTED and self._is_layer(node):
                last[node.name] = node
                continue
            tail.add(node.name)
            if node.op_type != "Shape":  # a size (of a free batch) says nothing about what the head computes from
                waiting += self.parents(node)
        if not last:
            fix = "give the ONNX file that `toolchain export` wrote"
            raise QuantizationError("no conv found behind the outputs: not a detector", got=self.outputs, fix=fix)
        return tail, list(last.values())

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        if not any(self.is_constant(tensor) for tensor in node.input):
            return False
        return not any(self._is_distribution(parent) for parent in self.parents(node))

    def _is_distribution(self, node: onnx.NodeProto) -> bool:
        while node.op_type in ("Reshape", "Transpose"):
            above = self.parents(node)
            if not above:
                return False
            node = above[0]
        return node.op_type in ("Softmax", "Exp")

    def first_convs(self) -> list[onnx.NodeProto]:
        """Convs that read a graph input directly."""
        return [node for name in self.inputs for node in self.consumers.get(name, []) if node.op_type == "Conv"]

    def silu_of(self, conv: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The Sigmoid and Mul that make the conv's activation, if it is SiLU."""
        after = self.consumers.get(conv.output[0], [])
        sigmoids = [node for node in after if node.op_type == "Sigmoid"]
        for sigmoid in sigmoids:
            for node in self.consumers.get(sigmoid.output[0], []):
                if node.op_type == "Mul" and set(node.input) == {conv.output[0], sigmoid.output[0]}:
                    return [sigmoid, node]
        return []

    def scale_groups(self, nodes: Iterable[onnx.NodeProto], moving: Iterable[str]) -> list[set[str]]:
        """Tensors that must share one scale because a node only moves values between them (Concat, Split, MaxPool, ...)."""
        leader: dict[str, str] = {}

        def find(name: str) -> str:
            while leader.setdefault(name, name) != name:
                name = leader[name]
            return name

        for node in nodes:
            if node.op_type not in moving:
                continue
            inputs = node.input if node.op_type == "Concat" else node.input[:1]
            tensors = [name for name in (*inputs, *node.output) if name and not self.is_constant(name)]
            for name in tensors[1:]:
                leader[find(name)] = find(tensors[0])
        groups: dict[str, set[str]] = {}
        for name in leader:
            groups.setdefault(find(name), set()).add(name)
        return list(groups.values())
