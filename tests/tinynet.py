"""A detector of a few hundred bytes for tests: 8x8 cells, one candidate each, with an output that numpy can reproduce."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE, CELL, CLASSES = 32, 8, 3
ANCHORS = (SIZE // CELL) ** 2


def weights(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(4 + classes, 3) and (4 + classes,): boxes vary, scores are low for dark cells and high for bright ones."""
    weight = np.random.default_rng(seed).uniform(0.5, 1.0, (4 + CLASSES, 3)).astype(np.float32)
    weight[4:] *= 8
    bias = np.concatenate([np.zeros(4), np.full(CLASSES, -9.0)]).astype(np.float32)
    return weight, bias


def save_detector(
    path: Path, *, batch: int | str = 1, size: int | str = SIZE, seed: int = 0, nan: bool = False, anchors: bool = True
) -> Path:
    """Write the network; `anchors=False` leaves the output four-dimensional, which is no detector."""
    weight, bias = weights(seed)
    if nan:
        bias = bias * np.float32(np.nan)
    constants = [
        numpy_helper.from_array(weight.reshape(4 + CLASSES, 3, 1, 1), "weight"),
        numpy_helper.from_array(bias, "bias"),
        numpy_helper.from_array(np.array([0, 4 + CLASSES, -1], dtype=np.int64), "shape"),
    ]
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["cells", "weight", "bias"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["scores"]),
    ]
    if anchors:
        nodes.append(helper.make_node("Reshape", ["scores", "shape"], ["output0"]))
        shape: list[int | str] = [batch, 4 + CLASSES, "anchors"]
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["output0"]))
        shape = [batch, 4 + CLASSES, "rows", "columns"]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)], constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def expected(images: NDArray[np.uint8], seed: int = 0) -> NDArray[np.float32]:
    """(n, 4 + classes, anchors): what the network gives for uint8 pictures."""
    weight, bias = weights(seed)
    n, _, side, _ = images.shape
    cells = (images.astype(np.float32) / 255).reshape(n, 3, side // CELL, CELL, side // CELL, CELL).mean(axis=(3, 5))
    raw = np.einsum("oc,ncp->nop", weight, cells.reshape(n, 3, -1)) + bias[:, None]
    return np.asarray(1 / (1 + np.exp(-raw)), dtype=np.float32)


def pictures(count: int, size: int = SIZE, seed: int = 1) -> NDArray[np.uint8]:
    """(count, 3, size, size) uint8 with cells from dark to bright."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (count, 3, size // CELL, size // CELL), dtype=np.uint8)
    return np.ascontiguousarray(levels.repeat(CELL, axis=2).repeat(CELL, axis=3))
