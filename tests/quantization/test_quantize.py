"""The whole stage on files, and every way it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.helpers import NAMES
from tests.quantization.conftest import SIZE
from toolchain.errors import QuantizationError, UnknownNameError
from toolchain.export.session import cpu_session
from toolchain.quantization.pictures import draw
from toolchain.quantization.quantize import quantize
from toolchain.quantization.quantizer import CALIBRATION, FILE
from toolchain.quantization.rules import RULES
from toolchain.stage import file_sha256


def run(model: Path, images: list[Path], out: Path, **changes: Any) -> dict[str, Any]:
    wanted: dict[str, Any] = {"imgsz": SIZE, "recipe": "moving-average", "vnni": False} | changes
    return quantize(model, images, out, **wanted)


@pytest.mark.parametrize("rules", RULES)
def test_writes_model_and_calibration(float_file: Path, picture_files: list[Path], tmp_path: Path, rules: str) -> None:
    report = run(float_file, picture_files, tmp_path, rules=rules)
    record = json.loads((tmp_path / CALIBRATION).read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [CALIBRATION, FILE]
    assert report["sha256"] == file_sha256(tmp_path / FILE)
    assert report["images"] == len(record["images"]) == 24
    assert record["images"][0] == {"file": str(picture_files[0]), "sha256": file_sha256(picture_files[0])}
    assert record["model_sha256"] == file_sha256(float_file)
    assert record["recipe"]["method"] == "moving-average"
    assert all(low <= 0 <= high and low < high for low, high in record["ranges"].values())
    assert report["biases_corrected"] > 20
    assert report["dfl_shortened"] == int(RULES[rules].short_dfl)
    onnx.checker.check_model(onnx.load(tmp_path / FILE))


def test_output_is_close_and_file_smaller(
    float_file: Path, picture_files: list[Path], pictures: NDArray[np.float32], tmp_path: Path
) -> None:
    report = run(float_file, picture_files, tmp_path)
    assert report["size_bytes"] < 0.6 * float_file.stat().st_size
    want, have = cpu_session(float_file), cpu_session(tmp_path / FILE)
    for picture in pictures:
        a, b = (session.run(None, {"images": picture[None]})[0] for session in (want, have))
        assert np.abs(a[:, :4] - b[:, :4]).mean() < 0.5  # pixels of 64


def test_stock_ultralytics_reads_the_int8_file(float_file: Path, picture_files: list[Path], tmp_path: Path) -> None:
    from ultralytics import YOLO

    run(float_file, picture_files, tmp_path)
    model = YOLO(str(tmp_path / FILE))
    assert model.task == "detect"
    [result] = model.predict(str(picture_files[0]), imgsz=SIZE, conf=0.001, verbose=False)
    assert result.names == NAMES


def test_same_seed_same_file(float_file: Path, picture_files: list[Path], tmp_path: Path) -> None:
    hashes = []
    for number, order in enumerate((picture_files, picture_files[::-1])):
        out = tmp_path / str(number)
        out.mkdir()
        hashes.append(run(float_file, order, out)["sha256"])
    assert hashes[0] == hashes[1]


def test_few_pictures_are_said(
    float_file: Path, picture_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(float_file, picture_files[:3], tmp_path)
    assert report["warnings"] == ["calibrated on 3 pictures only; ranges are steadier with 100 or more"]
    assert "3 pictures only" in capsys.readouterr().err


def test_draw_is_seeded_and_without_repetition() -> None:
    files = [Path(f"{i}.png") for i in range(50)]
    assert draw(files, 10, 0) == draw(files[::-1], 10, 0)
    assert draw(files, 10, 0) != draw(files, 10, 1)
    assert len(set(draw(files, 10, 0))) == 10
    assert draw(files, 500, 3) == sorted(files)
    assert draw([files[0]] * 5, 5, 0) == [files[0]]


def test_keep_float_reaches_the_graph(float_file: Path, picture_files: list[Path], tmp_path: Path) -> None:
    report = run(float_file, picture_files[:2], tmp_path, keep_float=["/model.10/*"])
    model = onnx.load(tmp_path / FILE)
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.name.startswith("/model.10/"):
            assert producer.get(node.input[1], "constant") == "constant"
    kept = json.loads((tmp_path / CALIBRATION).read_text())["kept_float"]
    assert kept["/model.10/cv2.0/cv2.0.0/conv/Conv"] == "asked: /model.10/*"
    assert report["nodes_float"] == len(kept)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"images": []}, QuantizationError, "no calibration pictures"),
        ({"imgsz": 96}, QuantizationError, r"\(n, 3, 96, 96\)"),
        ({"recipe": "entropi"}, UnknownNameError, "did you mean entropy"),
        ({"rules": "tensort"}, UnknownNameError, "did you mean tensorrt"),
        ({"keep_float": ["nothing"]}, QuantizationError, "no layer matches"),
    ],
)
def test_bad_requests_leave_nothing(
    float_file: Path, picture_files: list[Path], tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments = {"images": picture_files[:2]} | changes
    with pytest.raises(error, match=words):
        run(float_file, arguments.pop("images"), tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_refuses_files_that_are_not_float_onnx(float_file: Path, picture_files: list[Path], tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a model")
    with pytest.raises(QuantizationError, match="not a readable ONNX file"):
        run(junk, picture_files, tmp_path)
    with pytest.raises(QuantizationError, match="not a readable ONNX file"):
        run(tmp_path / "absent.onnx", picture_files, tmp_path)
    run(float_file, picture_files[:2], tmp_path)
    with pytest.raises(QuantizationError, match="quantized already"):
        run(tmp_path / FILE, picture_files, tmp_path)
