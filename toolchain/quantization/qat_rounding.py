"""Where an INT8 graph rounds, read from its own Q/DQ pairs: QAT trains with exactly the rounding that the engine will do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from toolchain.quantization.weights import LARGEST, channel_limits


@dataclass(frozen=True)
class Grid:
    """The values one Q/DQ pair lets through: scale · (q - zero), lowest <= q <= highest."""

    scale: float
    zero: int
    lowest: int
    highest: int

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """Nearest value of the grid. Gradient: 1 where x is inside the range, 0 where it is clipped (Bengio et al., 2013)."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, self.lowest, self.highest)


@dataclass(frozen=True)
class Rounding:
    """All of one INT8 graph.

    Attributes:
        grids: tensor of the float graph -> its grid; activations, and constants that are no weights.
        convs: nodes whose weights are int8.
        biases: those of them whose biases are int32.
        saturating: the scales of weights keep the 16-bit sums of CPUs without VNNI whole (`weights.py`).
        unrounded: (node, tensor) where a node in float reads a tensor of `grids` as it was before.
    """

    grids: dict[str, Grid]
    convs: frozenset[str]
    biases: frozenset[str]
    saturating: bool
    unrounded: frozenset[tuple[str, str]] = frozenset()

    def scales(self, weight: torch.Tensor) -> torch.Tensor:
        """Of each output channel of a conv's weight, (out, in / groups, kh, kw): they follow the weights, without gradient."""
        limits = channel_limits(weight.detach().cpu().numpy(), saturating=self.saturating)
        return torch.from_numpy(limits / np.float32(LARGEST)).to(weight.device)


def round_weight(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """As int8 has it; the gradient is that of `Grid.round`."""
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -LARGEST, LARGEST)


def round_bias(bias: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """As int32 has it, in steps of the products that it is added to; wide enough never to clip."""
    return bias + ((bias / steps).round() * steps - bias).detach()


FLOAT = Rounding({}, frozenset(), frozenset(), saturating=False)


def read_rounding(model: onnx.ModelProto, quantized: onnx.ModelProto, *, saturating: bool) -> Rounding:
    """From a graph with Q/DQ pairs.

    Args:
        model: float graph it was made from.
        saturating: how `place` chose the scales of weights.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    made = {name: node for node in quantized.graph.node for name in node.output}
    floats = {node.name: node for node in model.graph.node}
    own = {tensor.name for tensor in model.graph.initializer}
    grids: dict[str, Grid] = {}
    convs: set[str] = set()
    biases: set[str] = set()
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            grids[node.input[0]] = _grid(node, constants)
        if node.name not in floats:
            continue
        for name, original in zip(node.input, floats[node.name].input, strict=True):
            pair = made.get(name)
            if original not in own or pair is None or pair.op_type != "DequantizeLinear":
                continue
            if node.op_type != "Conv":
                grids[original] = _grid(pair, constants)
            else:
                (convs if original == floats[node.name].input[1] else biases).add(node.name)
    unrounded = {
        (node.name, name)
        for node in quantized.graph.node if node.name in floats
        for name, read in zip(floats[node.name].input, node.input, strict=True) if name in grids and read == name
    }  # fmt: skip
    return Rounding(grids, frozenset(convs), frozenset(biases), saturating, frozenset(unrounded))


def _grid(pair: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Grid:
    scale, zero = constants[pair.input[1]], constants[pair.input[2]]
    kind = np.iinfo(zero.dtype)
    return Grid(float(scale.item()), int(zero.item()), int(kind.min), int(kind.max))
