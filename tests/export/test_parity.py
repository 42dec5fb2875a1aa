"""A file that computes something else is refused, with boxes and scores told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.export.conftest import SIZE
from toolchain.errors import ExportError, ParityError
from toolchain.export.parity import parity
from toolchain.export.tracing import prepare, trace


@pytest.fixture(scope="module")
def traced(network: Any) -> onnx.ModelProto:
    return trace(prepare(network), imgsz=SIZE, opset=17, dynamic_batch=False, classes=3)


def shifted(model: onnx.ModelProto, part: str, by: float) -> onnx.ModelProto:
    """The last convs of one branch of the head with another bias."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = [t for t in copy.graph.initializer if f".{part}." in t.name and t.name.endswith(".2.bias")]
    assert found  # equal biases share one tensor
    for tensor in found:
        value = numpy_helper.to_array(tensor) + np.linspace(0, by, tensor.dims[0], dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return copy


def test_equal_graphs_pass(network: Any, traced: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    report = parity(network, traced, pictures)
    assert report["score_max_abs"] < 1e-5
    assert report["tolerance_box_px"] == pytest.approx(0.05)


def test_changed_scores_fail(network: Any, traced: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ParityError, match=r"scores differ by [1-9]\.\d+e-0[12]"):
        parity(network, shifted(traced, "cv3", 10.0), pictures)


def test_changed_boxes_fail_though_scores_agree(network: Any, traced: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ParityError, match=r"scores differ by 0\.00e\+00|scores differ by \d\.\d+e-(0[5-9]|1\d)"):
        parity(network, shifted(traced, "cv2", 5.0), pictures)


def test_tolerance_is_what_was_asked(network: Any, traced: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    assert parity(network, shifted(traced, "cv3", 4.0), pictures, tolerance=0.5)["score_max_abs"] > 1e-3


def test_nan_is_never_parity(network: Any, traced: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ParityError, match="nan"):
        parity(network, shifted(traced, "cv3", float("nan")), pictures, tolerance=1e9)


def test_needs_pictures(network: Any, traced: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ExportError, match="at least one real image"):
        parity(network, traced, pictures[:0])
