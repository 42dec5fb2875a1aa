"""The exported file: what it computes, who can read it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from tests.export.conftest import SIZE, STRIDE
from tests.helpers import NAMES, tiny_model
from toolchain.errors import ExportError
from toolchain.export.edits import shorten_dfl
from toolchain.export.exporter import FILE, export_onnx
from toolchain.export.session import cpu_session


def export(module: Any, out: Path, pictures: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "imgsz": SIZE,
        "names": NAMES,
        "stride": STRIDE,
        "parity_images": pictures,
        "simplify": False,
    } | changes
    return export_onnx(module, out, **wanted)


@pytest.fixture(scope="module")
def exported(network: Any, pictures: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("exported")
    return folder / FILE, export(network, folder, pictures, simplify=True)


def test_report_and_interface(exported: tuple[Path, dict[str, Any]]) -> None:
    path, report = exported
    session = cpu_session(path)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", [1, 3, SIZE, SIZE])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("output0", [1, 7, 80])]
    assert report["size_bytes"] == path.stat().st_size
    assert report["parity"]["images"] == 3
    assert 0 <= report["parity"]["score_max_abs"] < 1e-4
    assert 0 < report["parity"]["box_max_abs_px"] < 0.01
    assert report["simplifier"]["used"] == "onnxsim", report["simplifier"]["failures"]
    assert report["nodes"] <= report["simplifier"]["nodes_before"]


def test_batch_norm_is_folded(exported: tuple[Path, dict[str, Any]]) -> None:
    kinds = {node.op_type for node in onnx.load(exported[0]).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


def test_stock_ultralytics_reads_the_file(exported: tuple[Path, dict[str, Any]], pictures: NDArray[np.uint8]) -> None:
    from ultralytics import YOLO

    model = YOLO(str(exported[0]))  # no task given: it is read from the metadata
    assert model.task == "detect"
    image = np.ascontiguousarray(pictures[0].transpose(1, 2, 0)[..., ::-1])
    [result] = model.predict(image, imgsz=SIZE, conf=0.01, verbose=False)
    assert result.names == NAMES
    assert result.orig_shape == (SIZE, SIZE)


def test_module_is_left_as_it_was(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    module = tiny_model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export(module, tmp_path, pictures)
    assert list(before) == list(module.state_dict())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.model[0].parameters())
    assert not module.model[-1].export
    module.train()
    module(torch.zeros(1, 3, SIZE, SIZE))["boxes"].sum().backward()  # still trains: no inference tensors were left behind


def test_free_batch_computes_each_picture_alone(network: Any, pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    export(network, tmp_path, pictures, dynamic_batch=True, simplify=True)
    session = cpu_session(tmp_path / FILE)
    assert session.get_inputs()[0].shape == ["batch", 3, SIZE, SIZE]
    assert session.get_outputs()[0].shape[0] == "batch"
    batch = pictures.astype(np.float32) / 255
    together = session.run(None, {"images": batch})[0]
    alone = np.concatenate([session.run(None, {"images": picture[None]})[0] for picture in batch])
    np.testing.assert_allclose(together, alone, atol=1e-3)


@pytest.mark.parametrize("opset", [13, 20])
def test_ends_of_the_opset_range(network: Any, pictures: NDArray[np.uint8], tmp_path: Path, opset: int) -> None:
    assert export(network, tmp_path, pictures, opset=opset)["opset"] == opset
    model = onnx.load(tmp_path / FILE)
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [opset]
    assert model.ir_version <= 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"opset": 12}, "13 to 20"),
        ({"opset": 21}, "13 to 20"),
        ({"imgsz": 70}, "nearest: 64"),
        ({"imgsz": 75}, "nearest: 80"),
        ({"imgsz": 0}, "nearest: 16"),
        ({"names": {0: "only"}}, "4 + 1 classes"),
    ],
)
def test_bad_requests(network: Any, pictures: NDArray[np.uint8], tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportError, match=words.replace("+", r"\+")):
        export(network, tmp_path, pictures, **changes)
    assert not list(tmp_path.iterdir())


def test_refuses_training_mode_and_half_precision(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="training=True"):
        export(tiny_model().train(), tmp_path, pictures)
    with pytest.raises(ExportError, match="float16"):
        export(tiny_model().half(), tmp_path, pictures)


def test_refuses_what_is_no_detector(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no detection head"):
        export(torch.nn.Conv2d(3, 8, 3).eval(), tmp_path, pictures)


def test_short_dfl_is_the_same_function(exported: tuple[Path, dict[str, Any]], pictures: NDArray[np.uint8]) -> None:
    model = onnx.load(exported[0])
    batch = pictures[:1].astype(np.float32) / 255
    before = cpu_session(model).run(None, {"images": batch})[0]
    assert shorten_dfl(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "Softmax" not in {node.op_type for node in model.graph.node}
    after = cpu_session(model).run(None, {"images": batch})[0]
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=1e-3)
    np.testing.assert_array_equal(after[:, 4:], before[:, 4:])
    assert shorten_dfl(model) == 0


def test_short_dfl_on_request(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    report = export(tiny_model(), tmp_path, pictures, short_dfl=True)
    assert report["dfl_shortened"] == 1
    assert "Softmax" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_short_dfl_survives_extreme_logits(exported: tuple[Path, dict[str, Any]], pictures: NDArray[np.uint8]) -> None:
    model = onnx.load(exported[0])
    for tensor in model.graph.initializer:  # the last convs of the box branch: logits of thousands
        if ".cv2." in tensor.name and tensor.name.endswith(".2.bias"):
            values = np.random.default_rng(0).normal(0, 3000, tensor.dims).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    batch = pictures[:1].astype(np.float32) / 255
    before = cpu_session(model).run(None, {"images": batch})[0]
    assert shorten_dfl(model) == 1
    after = cpu_session(model).run(None, {"images": batch})[0]
    assert np.isfinite(after).all()
    assert np.abs(before).max() > 1
