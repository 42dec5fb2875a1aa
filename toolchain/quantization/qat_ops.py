"""ONNX operators in torch, differentiable: those that detectors use between the picture and the last convs of the head.

Only the forms that exporters of such networks write. What they do not cover cannot go unseen: the whole graph is compared with
ONNX Runtime before it is trained (`qat_graph.check_agrees`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Inputs = Sequence[Any]  # tensors; None where an optional input is left out
Attributes = Mapping[str, Any]  # as the node has them, and "outputs": how many
Operator = Callable[[Inputs, Attributes], Any]


def _numbers(tensor: torch.Tensor) -> list[int]:
    return [int(value) for value in tensor.tolist()]


def _pads(a: Attributes) -> list[int]:
    """ONNX counts begins, then ends; torch knows one number for both."""
    pads = list(a.get("pads", (0, 0, 0, 0)))
    return pads[: len(pads) // 2]


def _conv(x: Inputs, a: Attributes) -> torch.Tensor:
    bias = x[2] if len(x) > 2 else None
    return F.conv2d(x[0], x[1], bias, a.get("strides", 1), _pads(a), a.get("dilations", 1), a.get("group", 1))


def _max_pool(x: Inputs, a: Attributes) -> torch.Tensor:
    return F.max_pool2d(
        x[0], a["kernel_shape"], a.get("strides", 1), _pads(a), a.get("dilations", 1), ceil_mode=bool(a.get("ceil_mode", 0))
    )


def _average_pool(x: Inputs, a: Attributes) -> torch.Tensor:
    whole = bool(a.get("count_include_pad", 0))
    return F.avg_pool2d(x[0], a["kernel_shape"], a.get("strides", 1), _pads(a), bool(a.get("ceil_mode", 0)), whole)


def _resize(x: Inputs, a: Attributes) -> torch.Tensor:
    """To the nearest value; other modes do not agree with ONNX Runtime and are refused there."""
    if len(x) > 3 and x[3] is not None:
        return F.interpolate(x[0], size=_numbers(x[3])[2:], mode="nearest")
    return F.interpolate(x[0], scale_factor=[float(v) for v in x[2].tolist()[2:]], mode="nearest")


def _split(x: Inputs, a: Attributes) -> Sequence[torch.Tensor]:
    axis = a.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return torch.split(x[0], _numbers(x[1]), axis)
    return torch.chunk(x[0], a["outputs"], axis)


def _reshape(x: Inputs, a: Attributes) -> torch.Tensor:
    """Exported for one picture: a leading 1 is the batch."""
    shape = [size or x[0].shape[axis] for axis, size in enumerate(_numbers(x[1]))]
    shape[0] = x[0].shape[0] if shape[0] == 1 else shape[0]
    return torch.as_tensor(x[0].reshape(shape))


def _slice(x: Inputs, a: Attributes) -> torch.Tensor:
    starts, ends = _numbers(x[1]), _numbers(x[2])
    axes = _numbers(x[3]) if len(x) > 3 and x[3] is not None else range(len(starts))
    steps = _numbers(x[4]) if len(x) > 4 and x[4] is not None else [1] * len(starts)
    index = [slice(None)] * x[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, min(end, x[0].shape[axis]), step)
    return torch.as_tensor(x[0][tuple(index)])


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x, a: x[0].mean((2, 3), keepdim=True),
    "Resize": _resize,
    "Split": _split,
    "Reshape": _reshape,
    "Slice": _slice,
    "Concat": lambda x, a: torch.cat(list(x), a["axis"]),
    "Transpose": lambda x, a: x[0].permute(a["perm"]),
    "MatMul": lambda x, a: torch.matmul(x[0], x[1]),
    "Softmax": lambda x, a: torch.softmax(x[0], a.get("axis", -1)),
    "Sigmoid": lambda x, a: torch.sigmoid(x[0]),
    "Relu": lambda x, a: torch.relu(x[0]),
    "LeakyRelu": lambda x, a: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Add": lambda x, a: x[0] + x[1],
    "Sub": lambda x, a: x[0] - x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Div": lambda x, a: x[0] / x[1],
    "Identity": lambda x, a: x[0],
}
