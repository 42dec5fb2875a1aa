"""The rules for OpenVINO, checked by the graph it compiled: what was meant to be INT8 is, and nothing between it is float."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.agent import runtimes
from toolchain.device.settings import On
from toolchain.export.session import cpu_session
from toolchain.imaging import float_batches
from toolchain.quantization.quantize import quantize
from toolchain.verbs.accuracy import cpu_features

rt = runtimes.find("openvino")
try:
    rt.version()
except ImportError as error:
    pytest.skip(f"openvino is not installed: {error}", allow_module_level=True)
INT8 = ("i8", "u8")


@pytest.fixture(scope="module")
def folder(float_file: Path, picture_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What quantizing for OpenVINO on this processor wrote."""
    out = tmp_path_factory.mktemp("int8")
    quantize(float_file, picture_files, out, imgsz=64, **cpu_features(On(runtime="openvino")))
    return out


@pytest.fixture(scope="module")
def layers(folder: Path) -> tuple[list[dict], set[str]]:
    """Layers of the compiled graph, and the ONNX nodes that were left in float."""
    engine = rt.load(str(folder / "model.int8.onnx"), "CPU", 1)
    return rt.rows(engine.compiled), set(json.loads((folder / "calibration.json").read_text())["kept_float"])


def made_of(row: dict) -> set[str]:
    return {name.removesuffix("/WithoutBiases") for name in row["made_of"].split(",")}


def test_every_convolution_that_was_meant_to_be_is_int8(layers: tuple[list[dict], set[str]]) -> None:
    rows, kept = layers
    convs = [row for row in rows if row["kind"] == "Convolution"]
    wrong = [row["name"] for row in convs if (row["precision"] in INT8) == bool(made_of(row) & kept)]
    assert sum(row["precision"] in INT8 for row in convs) > 10
    assert wrong == []


def test_silu_is_fused_and_no_float_lies_between(layers: tuple[list[dict], set[str]]) -> None:
    """Only the picture's own quantization is a layer by itself; what moves values moves 8 bits."""
    rows, kept = layers
    inside = [row for row in rows if row["kind"] not in ("Const", "Input", "Output", "Reorder") and not made_of(row) & kept]
    floats = [row["name"] for row in inside if row["precision"] not in INT8 and "/model." in row["made_of"]]
    assert floats == []
    assert not [row["name"] for row in inside if row["kind"] == "Subgraph" and "/model." in row["made_of"]]


def test_it_computes_what_the_graph_says(folder: Path, float_file: Path, picture_files: list[Path]) -> None:
    """Kernels that saturate, or that lose a scale, are far off; those that round a tie the other way are not."""
    engine = rt.load(str(folder / "model.int8.onnx"), "CPU", 1)
    batches = list(float_batches(picture_files[:6], 64))

    def as_written(file: Path) -> NDArray[np.float32]:
        session = cpu_session(file, optimise=False)
        return np.stack([session.run(None, {session.get_inputs()[0].name: batch})[0] for batch in batches])

    found = np.stack([engine.run(batch)[0].copy() for batch in batches])
    word, exact = as_written(folder / "model.int8.onnx"), as_written(float_file)
    assert np.abs(found - word).mean() < 0.5 * np.abs(word - exact).mean()
