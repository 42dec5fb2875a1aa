"""A tiny YOLOv8 as a float ONNX file, pictures for it, and a data set with a network that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.helpers import NAMES, live_model, tiny_dataset, tiny_model
from toolchain import verbs
from toolchain.device.settings import On
from toolchain.export.metadata import detection_metadata, write_metadata
from toolchain.export.tracing import prepare, trace
from toolchain.verbs import quantizing
from toolchain.yolo.checkpoint import save_checkpoint

SIZE = 64


@pytest.fixture(scope="session")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = trace(prepare(tiny_model()), imgsz=SIZE, opset=17, dynamic_batch=False, classes=3)
    write_metadata(model, detection_metadata(NAMES, imgsz=SIZE, stride=16))
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.fixture
def float_model(float_file: Path) -> onnx.ModelProto:
    return onnx.load(float_file)


@pytest.fixture(scope="session")
def picture_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """24 coloured pictures of several shapes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(24):
        coarse = rng.integers(0, 256, (4 + index % 3, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index:02d}.png"), cv2.resize(coarse, (70, 50), interpolation=cv2.INTER_CUBIC))
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def pictures() -> NDArray[np.float32]:
    """(6, 3, 64, 64) float32 in 0..1, smooth."""
    rng = np.random.default_rng(1)
    coarse = rng.random((6, 8, 8, 3), dtype=np.float32)
    fine: list[Any] = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for picture in coarse]
    return np.ascontiguousarray(np.stack(fine).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`onnx/model.onnx` and `data/` with 12 training pictures."""
    root = tmp_path_factory.mktemp("job")
    save_checkpoint(root / "dense.pt", live_model(), names=NAMES, train_args={"imgsz": SIZE}, extra={})
    tiny_dataset(root / "data", {"train": 12, "val": 3}, size=(SIZE, SIZE))
    (root / "onnx").mkdir()
    verbs.export(root / "dense.pt", root / "onnx", data=root / "data" / "data.yaml", imgsz=SIZE)
    return root


@pytest.fixture
def one_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and a processor that is the same everywhere."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))

    def features(on: On) -> dict[str, Any]:
        return {"vnni": False, "rules": "onnxruntime-x86" if on.runtime == "onnxruntime" else on.runtime}

    monkeypatch.setattr(quantizing, "cpu_features", features)
