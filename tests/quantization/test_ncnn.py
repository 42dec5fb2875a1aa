"""The rules for ncnn, checked by the engine that is made of the graph: all its convolutions are INT8, all else reads floats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from toolchain.agent import runtimes
from toolchain.export.ncnn import to_ncnn
from toolchain.export.session import cpu_session
from toolchain.export.unquantize import unquantize
from toolchain.quantization.quantize import quantize

rt = runtimes.find("ncnn")


@pytest.fixture(scope="module")
def int8(float_file: Path, picture_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8")
    quantize(float_file, picture_files, out, imgsz=64, vnni=True, rules="ncnn")
    return out / "model.int8.onnx"


def test_convolutions_alone_are_quantized_and_the_head_is_float(int8: Path, float_file: Path) -> None:
    floats, convs = unquantize(onnx.load(int8))
    kept = json.loads((int8.parent / "calibration.json").read_text())["kept_float"]
    names = {node.name for node in onnx.load(float_file).graph.node if node.op_type == "Conv"}
    assert {conv.name for conv in convs} == names - set(kept)
    assert len(convs) > 10
    kinds = [sorted(node.op_type for node in model.graph.node) for model in (floats, onnx.load(float_file))]
    assert kinds[0] == kinds[1]


def test_what_is_float_reads_what_was_not_rounded(int8: Path) -> None:
    graph = onnx.load(int8).graph
    rounded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert {node.op_type for node in graph.node if rounded & set(node.input)} == {"Conv"}


def test_the_engine_gives_what_the_graph_says(
    int8: Path, float_file: Path, pictures: NDArray[np.float32], tmp_path: Path
) -> None:  # fmt: skip
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    engine = rt.load(str(to_ncnn(int8, tmp_path / "model.ncnn")), "cpu", 1)
    sessions = [cpu_session(onnx.load(path), optimise=False) for path in (int8, float_file)]
    graph, floats = (np.concatenate([s.run(None, {"images": one[None]})[0] for one in pictures]) for s in sessions)
    found = np.concatenate([engine.run(one[None])[0] for one in pictures])
    assert engine.options["int8_convolutions"] > 10
    assert np.abs(found - graph).mean() < 0.5 * np.abs(graph - floats).mean()
