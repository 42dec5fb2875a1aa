"""The whole verb: the best of all recipes, layers left in float, tables used again, and what is said when the gate refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.helpers import tiny_dataset
from toolchain import verbs
from toolchain.config import Int8Section
from toolchain.device import probe as probing
from toolchain.device.settings import On
from toolchain.errors import AccuracyGateError, QuantizationError, UsageError
from toolchain.quantization.recipe import recipes_for
from toolchain.verbs import accuracy, quantizing
from toolchain.yolo.dataset import load_dataset

IMGSZ = 64  # of `place`
TENSORRT = On(runtime="tensorrt")
pytestmark = pytest.mark.usefixtures("one_processor")
Maps = Callable[[str, int, str], float]  # engine's name, convs in INT8, split -> mAP50-95


def int8_convs(engine: Path) -> int:
    graph = onnx.load(engine).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(node.op_type == "Conv" and node.input[1] in dequantized for node in graph.node)


def judged_by(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Accuracy as `maps` has it, in place of running engines; returns the splits that are asked for."""
    asked: list[str] = []

    def accuracy(engine: Path, out: Path, *, dataset: Any, split: str, name: str, **_: Any) -> dict[str, Any]:
        asked.append(split)
        return {"map50_95": maps(engine.stem, int8_convs(engine), split), "images": len(dataset.images(split)), "engine": {}}

    monkeypatch.setattr(quantizing, "engine_accuracy", accuracy)
    return asked


def run(place: Path, out: Path, model: Path | None = None, data: Path | None = None, **keys: Any) -> dict[str, Any]:
    section = {key: keys.pop(key) for key in ("recipe", "max_drop", "mixed", "keep_float") if key in keys}
    out.mkdir(exist_ok=True)
    return verbs.quantize(
        model or place / "onnx" / "model.onnx", out, data=data or place / "data" / "data.yaml", imgsz=IMGSZ,
        int8=Int8Section(**section), **keys,
    )  # fmt: skip


def test_the_default_recipe_and_the_engines_own_outputs(place: Path, tmp_path: Path) -> None:
    report = run(place, tmp_path)
    assert report["recipe"] == "percentile"
    assert report["float"]["engine"]["provider"] == report["int8"]["engine"]["provider"] == "CPUExecutionProvider"
    assert report["gate"]["drop"] <= 0.01
    assert report["tried"] == [f"percentile: {report['int8']['map50_95']:.4f} on val"]
    assert report["mixed"] is None


def test_auto_keeps_the_best_on_training_pictures_that_did_not_calibrate(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged_by(lambda name, convs, split: 0.6 if "mse" in name else 0.5, monkeypatch)
    report = run(place, tmp_path, recipe="auto")
    names = recipes_for(report["rules"])
    assert report["recipe"] == report["method"] == "mse"
    assert [trial["recipe"] for trial in report["trials"]] == names
    assert asked == ["held-out"] * len(names) + ["val"] * 2
    used = {Path(image["file"]) for image in json.loads((tmp_path / "calibration.json").read_text())["images"]}
    train = set(load_dataset(place / "data" / "data.yaml").images("train"))
    assert used < train
    assert {trial["images"] for trial in report["trials"]} == {len(train) - len(used)} == {3}


@pytest.mark.slow
def test_auto_really_runs_the_engines(place: Path, tmp_path: Path) -> None:
    report = run(place, tmp_path, recipe="auto")
    assert all(0 <= trial["map50_95"] <= 1 for trial in report["trials"])


def test_mixed_leaves_the_fewest_layers_in_float(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = run(place, tmp_path / "all")
    convs = int8_convs(tmp_path / "all" / "model.int8.onnx")
    judged_by(lambda name, left, split: 0.5 - 0.01 * left, monkeypatch)
    report = run(place, tmp_path, max_drop=0.01 * (convs - 5) + 1e-6, mixed=True)
    assert len(report["mixed"]["left_float"]) == 5
    assert int8_convs(tmp_path / "model.int8.onnx") == convs - 5
    assert report["mixed"]["left_float"] == [row["layer"] for row in report["mixed"]["layers"][:5]]
    assert len(report["mixed"]["layers"]) == convs
    assert "profile on local" in report["mixed"]["saved_by"] or "multiply-adds" in report["mixed"]["saved_by"]
    assert report["nodes_float"] > everything["nodes_float"]
    kept = json.loads((tmp_path / "calibration.json").read_text())["kept_float"]
    assert set(report["mixed"]["left_float"]) <= set(kept)
    assert any("layers in float: 5:" in line for line in report["tried"])


def test_mixed_changes_nothing_where_the_gate_is_passed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(lambda name, left, split: 0.5, monkeypatch)
    assert run(place, tmp_path, mixed=True)["mixed"] is None


def test_refused_says_what_was_tried_and_ships_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(lambda name, left, split: 0.3 if left else 0.5, monkeypatch)
    with pytest.raises(AccuracyGateError) as caught:
        run(place, tmp_path, recipe="minmax", mixed=True)
    record = json.loads((tmp_path / "refused.json").read_text())
    assert not (tmp_path / "model.int8.onnx").exists()
    assert (tmp_path / "refused.int8.onnx").exists()
    assert record["mixed"]["left_float"] is None
    assert record["tried"][0] == "minmax: 0.3000 on val"
    assert len(record["tried"]) > 3
    assert len(record["noisiest"]) > 10
    assert record["noisiest"][0]["layer"] in str(caught.value)
    assert "layers in float: 1:" in str(caught.value)


def test_a_table_is_used_again_and_refused_elsewhere(place: Path, tmp_path: Path) -> None:
    first = run(place, tmp_path / "a", recipe="mse")
    table = tmp_path / "a" / "calibration.json"
    again = run(place, tmp_path / "b", table=table)
    assert (again["recipe"], again["sha256"]) == ("mse", first["sha256"])
    other = onnx.load(place / "onnx" / "model.onnx")
    other.doc_string = "another"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(QuantizationError, match="of another model"):
        run(place, tmp_path / "c", model=tmp_path / "other.onnx", table=table)
    with pytest.raises(QuantizationError, match="another runtime"):
        run(place, tmp_path / "c", table=table, on=TENSORRT)
    for recipe in ("minmax", "auto"):
        with pytest.raises(UsageError, match="another method"):
            run(place, tmp_path / "c", table=table, recipe=recipe)
    assert not list((tmp_path / "c").iterdir())


def test_a_cache_for_tensorrt(place: Path, tmp_path: Path) -> None:
    report = run(
        place, tmp_path, on=TENSORRT, recipe="entropy", trt_cache=tmp_path / "new" / "calibration.cache", trt_version="8.6.1"
    )
    assert report["rules"] == "tensorrt"
    head, *lines = (tmp_path / "new" / "calibration.cache").read_text().splitlines()
    assert head == "TRT-8601-EntropyCalibration2"
    assert lines[0].startswith("images: ")
    assert len(lines) > 60


def test_pictures_that_are_judged_on_never_calibrate_silently(place: Path, tmp_path: Path) -> None:
    yaml = place / "data" / "same.yaml"
    yaml.write_text((place / "data" / "data.yaml").read_text().replace("val: images/val", "val: images/train"))
    report = run(place, tmp_path, data=yaml)
    assert any("12 of 12 calibration pictures are also in 'val'" in text for text in report["warnings"])
    assert not any("also in" in text for text in run(place, tmp_path)["warnings"])


def test_too_few_pictures_to_compare(place: Path, tmp_path: Path) -> None:
    few = tiny_dataset(tmp_path / "few", {"train": 7, "val": 2}, size=(IMGSZ, IMGSZ))
    with pytest.raises(QuantizationError, match="too few training pictures"):
        run(place, tmp_path / "out", data=few, recipe="auto")


def test_a_runtime_the_host_lacks_places_and_onnxruntime_judges(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    found = {"runtimes": {"ncnn": None}, "unreadable": {"runtimes.ncnn": "No module named 'ncnn'"}}
    monkeypatch.setattr(probing, "probe", lambda host, python: found)
    report = run(place, tmp_path, on=On(runtime="ncnn"), max_drop=1.0)
    assert (report["rules"], report["judged_by"]) == ("ncnn", "onnxruntime")
    assert "judged by ONNX Runtime: local cannot run ncnn (No module named 'ncnn')" in report["warnings"][0]


def test_a_runtime_that_is_there_judges(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = run(place, tmp_path, on=On(runtime="openvino"), max_drop=1.0)
    assert (report["rules"], report["judged_by"], report["int8"]["engine"]["provider"]) == ("openvino", "openvino", "CPU")
    assert not any("judged by" in text for text in report["warnings"])


def test_a_target_of_another_architecture_is_what_it_is_placed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", lambda host, python: {"arch": "x86_64", "cpu_flags": ["avx512_vnni"]})
    features = [accuracy.cpu_features(On(runtime="onnxruntime", target=name)) for name in ("raspberry-pi-5", "intel-n100")]
    assert features == [{"vnni": False, "rules": "onnxruntime-arm"}, {"vnni": True, "rules": "onnxruntime-x86"}]


@pytest.mark.parametrize(
    ("flags", "rules"),
    [(["avx512_vnni", "amx_int8"], "openvino"), (["avx512_vnni"], "openvino-unsigned"), (["avx2"], "openvino-unsigned")],
)
def test_openvino_has_rules_of_its_own_where_the_processor_lacks_amx(
    flags: list[str], rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "probe", lambda host, python: {"arch": "x86_64", "cpu_flags": flags})
    assert accuracy.cpu_features(On(runtime="openvino"))["rules"] == rules
