"""A resized engine has exactly the convolutions of the real cut, float and INT8."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.helpers import NAMES
from tests.pruning.cases import (
    CHAIN,
    IMGSZ,
    PICTURES,
    SHORT,
    deep,
    full,
    plan_of,
    random_scores,
    random_widths,
    subject,
    without,
)
from toolchain.errors import ExportError
from toolchain.export.exporter import export_onnx
from toolchain.export.resize import resize
from toolchain.export.session import cpu_session
from toolchain.pruning.apply import apply_plan
from toolchain.quantization.quantize import quantize
from toolchain.selection.shapes import engine_sizes


def exported(network: Any, folder: Path) -> Path:
    folder.mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, IMGSZ, IMGSZ), dtype=np.uint8)
    export_onnx(network, folder, imgsz=IMGSZ, names=NAMES, stride=16, parity_images=pictures)
    return folder / "model.onnx"


def shapes(model: onnx.ModelProto) -> Counter[tuple[str, ...]]:
    """Kinds of nodes with the shapes of the constants they read, in any order."""
    dims = {tensor.name: str(tuple(tensor.dims)) for tensor in model.graph.initializer}
    return Counter((node.op_type, *(dims[name] for name in node.input if name in dims)) for node in model.graph.node)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(subject()[0], tmp_path_factory.mktemp("dense") / "d")


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_graph_as_the_real_cut(dense: Path, tmp_path: Path, seed: int) -> None:
    stock, prunable, network = subject()
    widths = random_widths(network, seed, align=4)
    cut = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, seed), 4), PICTURES)
    real = onnx.load(exported(cut.network, tmp_path / "cut"))
    resized = resize(onnx.load(dense), engine_sizes(network, widths))
    assert shapes(resized) == shapes(real)
    onnx.checker.check_model(resized, full_check=True)


def test_an_int8_graph_is_resized_with_its_scales(dense: Path, tmp_path: Path, picture_files: list[Path]) -> None:
    network = subject()[2]
    quantize(dense, picture_files, tmp_path, imgsz=IMGSZ, recipe="percentile", vnni=True, rules="onnxruntime-x86")
    widths = random_widths(network, 3, align=4)
    resized = resize(onnx.load(tmp_path / "model.int8.onnx"), engine_sizes(network, widths))
    onnx.save(resized, tmp_path / "small.onnx")
    outputs = cpu_session(tmp_path / "small.onnx").run(None, {"images": np.zeros((1, 3, IMGSZ, IMGSZ), np.float32)})
    assert outputs[0].shape == (1, 7, 80)
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "model.int8.onnx").stat().st_size


DEPTHS = ({SHORT[0], SHORT[1]}, {CHAIN[2]}, {"model.2.m.0", SHORT[2], CHAIN[1]}, {"model.2.m.0", *SHORT, *CHAIN})


@pytest.fixture(scope="module")
def deep_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(deep()[0], tmp_path_factory.mktemp("deep") / "d")


@pytest.mark.parametrize("blocks", DEPTHS, ids=lambda blocks: "-".join(sorted(blocks)))
def test_the_same_graph_as_the_real_cut_without_bottlenecks(deep_dense: Path, tmp_path: Path, blocks: set[str]) -> None:
    stock, prunable, network = deep()
    widths = without(network, random_widths(network, 5, align=4), blocks)
    cut = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, 5), 4), PICTURES)
    real = onnx.load(exported(cut.network, tmp_path / "cut"))
    resized = resize(onnx.load(deep_dense), engine_sizes(network, widths))
    assert shapes(resized) == shapes(real)
    onnx.checker.check_model(resized, full_check=True)


def quantized(model: Path, out: Path, pictures: list[Path], rules: str) -> onnx.ModelProto:
    out.mkdir(exist_ok=True)
    quantize(model, pictures[:4], out, imgsz=IMGSZ, recipe="minmax", vnni=True, rules=rules)
    return onnx.load(out / "model.int8.onnx")


@pytest.mark.parametrize("rules", ["onnxruntime-x86", "openvino-unsigned", pytest.param("tensorrt", marks=pytest.mark.slow)])
def test_the_same_int8_graph_as_the_real_cut(deep_dense: Path, tmp_path: Path, picture_files: list[Path], rules: str) -> None:
    stock, prunable, network = deep()
    dense = quantized(deep_dense, tmp_path / "dense", picture_files, rules)
    for number, blocks in enumerate(DEPTHS[-2:]):
        widths = without(network, random_widths(network, 6, align=4), blocks)
        cut = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, 6), 4), PICTURES)
        real = quantized(exported(cut.network, tmp_path / f"cut{number}"), tmp_path, picture_files, rules)
        resized = resize(dense, engine_sizes(network, widths))
        assert shapes(resized) == shapes(real), blocks
        outputs = cpu_session(resized).run(None, {"images": np.zeros((1, 3, IMGSZ, IMGSZ), np.float32)})
        assert outputs[0].shape == (1, 7, 80)


def test_a_resized_graph_computes_what_its_shape_says(deep_dense: Path) -> None:
    """At full width a cut without shortcut leaves the other weights as they are: the outputs are the real cut's."""
    stock, prunable, network = deep()
    widths = without(network, full(network), {CHAIN[2]})
    cut = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, 0)), PICTURES).network
    found = cpu_session(resize(onnx.load(deep_dense), engine_sizes(network, widths))).run(None, {"images": PICTURES[:1].numpy()})
    np.testing.assert_allclose(found[0], cut(PICTURES[:1])[0].detach().numpy(), rtol=1e-3, atol=1e-3)


def test_nothing_grows_and_nothing_is_invented(dense: Path) -> None:
    model = onnx.load(dense)
    with pytest.raises(ExportError, match="cannot grow"):
        resize(model, {"model.0.conv": (3, 4096)})
    with pytest.raises(ExportError, match=r"model\.99"):
        resize(model, {"model.99.conv": (8, 8)})
