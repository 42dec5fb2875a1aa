"""Every kind of graph that the toolchain writes for TensorRT, of a tiny YOLOv8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.helpers import NAMES, tiny_model
from toolchain.export.metadata import detection_metadata, write_metadata
from toolchain.export.tracing import prepare, trace
from toolchain.quantization.calibrate import observe, ranges
from toolchain.quantization.qdq import place, plan_placement, share_ranges
from toolchain.quantization.rules import RULES

SIZE = 64


def pictures(count: int = 4) -> NDArray[np.float32]:
    """(n, 3, 64, 64) float32 in 0..1, smooth."""
    import cv2

    coarse = np.random.default_rng(1).random((count, 8, 8, 3), dtype=np.float32)
    fine = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for picture in coarse]
    return np.ascontiguousarray(np.stack(fine).transpose(0, 3, 1, 2))


def float_graph(module: object, *, dynamic: bool = False, opset: int = 17) -> onnx.ModelProto:
    model = trace(prepare(module), imgsz=SIZE, opset=opset, dynamic_batch=dynamic, classes=len(NAMES))
    write_metadata(model, detection_metadata(NAMES, imgsz=SIZE, stride=16, dynamic=dynamic))
    return onnx.shape_inference.infer_shapes(model)


def weak_int8(model: onnx.ModelProto, rules: str = "tensorrt") -> onnx.ModelProto:
    """Q/DQ in float32, as `toolchain quantize --runtime tensorrt` places them."""
    row = RULES[rules]
    placement = plan_placement(model, row)
    found = ranges(observe(model, [pictures()], placement.observed), "minmax", before_silu=placement.before_silu)
    return place(model, share_ranges(found, placement), placement, row, vnni=False)


@pytest.fixture(scope="session")
def tiny_graph() -> onnx.ModelProto:
    return float_graph(tiny_model())


@pytest.fixture(scope="session")
def tiny_int8(tiny_graph: onnx.ModelProto) -> onnx.ModelProto:
    return weak_int8(tiny_graph)
