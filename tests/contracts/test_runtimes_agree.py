"""Every runtime computes what ONNX Runtime computes, on a small YOLOv8 as the toolchain exports it, and its mAP is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from tests.contracts.test_runtimes import engine_of
from tests.helpers import NAMES, live_model, tiny_dataset
from toolchain import verbs
from toolchain.agent import runtimes
from toolchain.device.settings import PROVIDERS, On
from toolchain.export.metadata import detection_metadata, write_metadata
from toolchain.export.tracing import prepare, trace
from toolchain.imaging import prepare_set
from toolchain.yolo.dataset import load_dataset

SIZE = 64
BOX_PIXELS, SCORE = 0.01, 1e-4  # largest differences of float engines
OTHERS = [name for name in PROVIDERS if name != "onnxruntime"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = trace(prepare(live_model()), imgsz=SIZE, opset=17, dynamic_batch=False, classes=3)
    write_metadata(model, detection_metadata(NAMES, imgsz=SIZE, stride=16))
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset(tmp_path_factory.mktemp("data"), {"train": 2, "val": 6})


@pytest.fixture(params=OTHERS)
def runtime(request: pytest.FixtureRequest) -> ModuleType:
    module = runtimes.find(request.param)
    try:
        module.version()
    except ImportError as error:
        pytest.skip(f"{request.param} is not installed: {error}")
    if PROVIDERS[request.param].startswith("gpu"):
        pytest.skip("no GPU here")
    return module


def test_outputs(runtime: ModuleType, graph: Path, data: Path, tmp_path: Path) -> None:
    """On noise and on pictures."""
    other = runtime.load(str(engine_of(runtime, graph)), PROVIDERS[runtime.NAME], 1)
    reference = runtimes.find("onnxruntime").load(str(graph), PROVIDERS["onnxruntime"], 1)
    prepare_set(load_dataset(data).images("val"), SIZE, tmp_path / "pictures.npy")
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, SIZE, SIZE), dtype=np.uint8)
    for picture in (*noise, *np.load(tmp_path / "pictures.npy")):
        array = np.ascontiguousarray(picture[None].astype(np.float32) / np.float32(255))
        (found,), (wanted,) = other.run(array), reference.run(array)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found[:, :4], wanted[:, :4], rtol=0, atol=BOX_PIXELS)
        np.testing.assert_allclose(found[:, 4:], wanted[:, 4:], rtol=0, atol=SCORE)


def test_map(runtime: ModuleType, graph: Path, data: Path, tmp_path: Path) -> None:
    """Through the agent, as `toolchain eval` asks it."""

    def judged(on: On) -> dict[str, Any]:
        return verbs.evaluate(graph, tmp_path / on.runtime, data=data, imgsz=SIZE, on=on)

    one = On(threads=1)
    wanted, found = judged(one), judged(replace(one, runtime=runtime.NAME, provider=""))
    assert found["map50_95"] == pytest.approx(wanted["map50_95"], abs=1e-3)
    assert found["engine"]["provider"] == PROVIDERS[runtime.NAME]
    assert runtime.NAME in found["engine"]["versions"]
