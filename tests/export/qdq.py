"""A small network with INT8 convolutions, written by hand so that a test can spoil any part of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Net:
    """Convolutions one after the other, float where no input scale is given."""

    channels: int = 3
    size: int = 16
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    last: str = "images"
    wide: int = 0

    def __post_init__(self) -> None:
        self.wide, self.side = self.channels, self.size

    def constant(self, name: str, value: NDArray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(
        self, name: str, out: int, kernel: int, *, scale: float | None, stride: int = 1, group: int = 1, seed: int = 0,
        weights: NDArray[np.int8] | None = None, bias: bool = True,
    ) -> Net:  # fmt: skip
        rng = np.random.default_rng(seed)
        shape = (out, self.wide // group, kernel, kernel)
        integers = rng.integers(-127, 128, shape).astype(np.int8) if weights is None else weights
        scales = (rng.uniform(0.5, 2.0, out) / 127 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        read = self.last
        if scale is None:
            weight = self.constant(f"{name}.weight", integers * scales.reshape(-1, 1, 1, 1))
        else:
            pair = [self.constant(f"{name}.in_scale", np.float32(scale)), self.constant(f"{name}.in_zero", np.int8(0))]
            self.nodes.append(helper.make_node("QuantizeLinear", [read, *pair], [f"{name}.q"], name=f"{name}.Q"))
            self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *pair], [f"{name}.dq"], name=f"{name}.DQ"))
            read = f"{name}.dq"
            stored = [
                self.constant(f"{name}.weight", integers), self.constant(f"{name}.scales", scales),
                self.constant(f"{name}.zeros", np.zeros(out, np.int8)),
            ]  # fmt: skip
            weight = f"{name}.weights"
            self.nodes.append(helper.make_node("DequantizeLinear", stored, [weight], name=f"{name}.W", axis=0))
        biases = [self.constant(f"{name}.bias", rng.normal(0, 0.1, out).astype(np.float32))] if bias else []
        pads = [kernel // 2] * 4
        keys = {"kernel_shape": [kernel] * 2, "pads": pads, "strides": [stride] * 2, "group": group}
        self.nodes.append(helper.make_node("Conv", [read, weight, *biases], [f"{name}.out"], name=name, **keys))
        self.last, self.wide, self.side = f"{name}.out", out, (self.side + 2 * pads[0] - kernel) // stride + 1
        return self

    def silu(self) -> Net:
        x = self.last
        self.nodes.append(helper.make_node("Sigmoid", [x], [f"{x}.sigmoid"]))
        self.nodes.append(helper.make_node("Mul", [x, f"{x}.sigmoid"], [f"{x}.silu"]))
        self.last = f"{x}.silu"
        return self

    def model(self) -> onnx.ModelProto:
        shapes = [1, self.channels, self.size, self.size], [1, self.wide, self.side, self.side]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(("images", self.last), shapes, strict=True)
        ]
        graph = helper.make_graph(self.nodes, "net", ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model
