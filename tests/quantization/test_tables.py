"""Calibration tables: made once, found again, and refused where they do not belong."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.quantization.conftest import SIZE
from toolchain.errors import QuantizationError, UsageError
from toolchain.quantization import quantizer as module
from toolchain.quantization import tables
from toolchain.quantization.quantizer import CALIBRATION, Quantizer
from toolchain.quantization.recipe import Recipe, load_recipe
from toolchain.quantization.trt_cache import trt_cache


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))


def quantizer(model: Path, images: list[Path], **changes: Any) -> Quantizer:
    return Quantizer(model, images, **({"imgsz": SIZE, "rules": "onnxruntime-x86", "vnni": False} | changes))


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every pass over pictures."""
    passes: list[int] = []
    real = module.observe

    def observe(*args: Any, **keys: Any) -> Any:
        passes.append(1)
        return real(*args, **keys)

    monkeypatch.setattr(module, "observe", observe)
    return passes


def test_a_second_calibration_reads_no_picture(
    float_file: Path, picture_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, recipe = count_passes(monkeypatch), load_recipe("entropy")
    first = quantizer(float_file, picture_files[:4]).table(recipe)
    assert quantizer(float_file, picture_files[:4]).table(recipe) == first
    assert len(passes) == 1


def test_recipes_share_one_pass(float_file: Path, picture_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    passes, made = count_passes(monkeypatch), quantizer(float_file, picture_files[:4])
    found = {name: made.table(load_recipe(name)).ranges for name in ("minmax", "mse", "percentile", "entropy")}
    assert len(passes) == 1
    assert found["minmax"] != found["mse"]


@pytest.mark.parametrize("what", ["picture", "model", "method", "rules", "percentile"])
def test_any_change_calibrates_anew(
    float_file: Path, picture_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    passes, recipe = count_passes(monkeypatch), load_recipe("percentile")
    quantizer(float_file, picture_files[:4]).table(recipe)
    model, images, changes = float_file, picture_files[:4], {}
    if what == "picture":
        images = picture_files[1:5]
    elif what == "model":
        changed = onnx.load(float_file)
        changed.doc_string = "other"
        model = tmp_path / "other.onnx"
        onnx.save(changed, model)
    elif what == "rules":
        changes = {"rules": "tensorrt"}
    else:
        values = {"method": "mse", "percentile": None} if what == "method" else {"percentile": 99.0}
        recipe = recipe.model_copy(update=values)
    quantizer(model, images, **changes).table(recipe)
    assert len(passes) == 2


def test_a_damaged_table_counts_as_none(
    float_file: Path, picture_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, recipe = count_passes(monkeypatch), load_recipe("minmax")
    whole = quantizer(float_file, picture_files[:3]).table(recipe)
    [file] = (tmp_path / "cache" / "calibration").iterdir()
    for text in (file.read_text()[:100], "{}"):
        file.write_text(text)
        assert quantizer(float_file, picture_files[:3]).table(recipe) == whole
    assert len(passes) == 3


def test_a_table_covers_any_choice_of_float_layers(float_file: Path, picture_files: list[Path]) -> None:
    made, recipe = quantizer(float_file, picture_files[:3]), load_recipe("minmax")
    table = made.table(recipe)
    for keep in ((), ("/model.2/*",), ("*Concat*",), ("/model.2/*", "/model.6/*")):
        quantized = made.place(table, recipe, keep)
        assert set(quantized.ranges) == set(quantized.placement.tensors)


def written(made: Quantizer, recipe: Recipe, out: Path) -> Path:
    table = made.table(recipe)
    made.write(made.place(table, recipe), table, recipe, recipe.method, out)
    return out / CALIBRATION


def test_reuse_and_refusal(float_file: Path, picture_files: list[Path], tmp_path: Path) -> None:
    recipe = load_recipe("minmax")
    made = quantizer(float_file, picture_files[:3])
    table = tables.load_table(written(made, recipe, tmp_path))
    assert table == made.table(recipe)
    want = made.origin(recipe, "")
    tables.check_fits(table, want)
    for change, words in (
        ({"model_sha256": "0" * 64}, "of another model"),
        ({"letterbox": tables.Frame(imgsz=96)}, "another size"),
        ({"tensors_sha256": "0" * 64}, "another runtime"),
    ):
        with pytest.raises(QuantizationError, match=words):
            tables.check_fits(table, want.model_copy(update=change))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"table": 3}', "\x00\xff", '{"table": {"ranges": {"a": [1, 2]}}}'])
def test_a_file_that_is_no_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(QuantizationError, match="not a calibration table"):
        tables.load_table(path)
    with pytest.raises(QuantizationError, match="not a calibration table"):
        tables.load_table(tmp_path / "absent.json")


def test_a_table_of_another_version(float_file: Path, picture_files: list[Path], tmp_path: Path) -> None:
    path = written(quantizer(float_file, picture_files[:2]), load_recipe("minmax"), tmp_path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(QuantizationError, match="another version"):
        tables.load_table(path)


def test_trt_cache_is_a_header_and_a_scale_a_tensor() -> None:
    text = trt_cache({"images": (0.0, 1.0), "/a/Conv_output_0": (-3.0, 2.0), "zero": (0.0, 0.0)}, "8.5.3")
    head, *lines = text.splitlines()
    assert head == "TRT-8503-EntropyCalibration2"
    assert lines[0] == "images: 3c010204"  # 1/127, as NVIDIA's own files have it for pictures in 0..1
    scales = {name: struct.unpack(">f", bytes.fromhex(word))[0] for name, word in (line.rsplit(": ", 1) for line in lines)}
    assert scales["/a/Conv_output_0"] == pytest.approx(3 / 127)
    assert scales["zero"] > 0
    assert trt_cache({}, "10.3.0.26").startswith("TRT-100300-")


@pytest.mark.parametrize("version", ["11.0.0", "7.2.3", "8.5", "ten"])
def test_trt_cache_refuses_versions_without_it(version: str) -> None:
    with pytest.raises(UsageError, match="TensorRT"):
        trt_cache({}, version)


def test_trt_cache_of_a_name_that_breaks_its_lines() -> None:
    with pytest.raises(QuantizationError, match="does not fit"):
        trt_cache({"a\nb": (0.0, 1.0)})


def test_every_tensor_before_the_tail_gets_a_range_for_tensorrt(float_file: Path, picture_files: list[Path]) -> None:
    made = quantizer(float_file, picture_files[:2], rules="tensorrt", every_tensor=True)
    found = made.table(load_recipe("entropy")).ranges
    ops = {name: node.op_type for node in made.graph.graph.node for name in node.output}
    assert {"Conv", "Sigmoid", "Mul", "Concat", "MaxPool", "Resize"} <= {ops[name] for name in found if name != "images"}
    assert "Softmax" not in {ops.get(name) for name in found}
    assert found["images"][1] <= 1
