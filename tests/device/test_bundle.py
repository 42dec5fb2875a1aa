"""A bundle is whole or it is not there, and its infer.py sees what the host's own code sees."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import toolchain.device
from tests import tinynet
from toolchain import errors, imaging, verbs
from toolchain.device import bundle
from toolchain.device.manifest import attach, engine_of, verify
from toolchain.device.pace import pace_of
from toolchain.device.settings import PROVIDERS, On
from toolchain.measurement.record import Record
from toolchain.predictions import candidates
from toolchain.stage import file_sha256
from toolchain.yolo.evaluate import suppress

ONE = On(threads=1, target="host-cpu")
ABOUT: dict[str, Any] = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}
SCRIPT = Path(toolchain.device.__file__).parent / "bundle_files" / "infer.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("made")
    bundle.build(tinynet.save_detector(folder / "one.onnx"), folder / "bundle", ONE, **ABOUT)
    return folder / "bundle"


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(scope="module")
def script() -> Any:
    """infer.py as a module."""
    spec = importlib.util.spec_from_file_location("bundle_infer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_bundle_says_everything_about_itself(made: Path) -> None:
    manifest = verify(made)
    assert set(manifest.files) | {"manifest.json"} == {path.name for path in made.iterdir()}
    assert manifest.inputs == [{"name": "images", "shape": [1, 3, 32, 32], "type": "float32"}]
    assert manifest.tried["output_shapes"] == [[1, 7, 16]]
    assert (manifest.engine, manifest.source) == ("engine.onnx", "engine.onnx")
    assert (made / "labels.txt").read_text() == "a\nb\nc\n"
    assert (made / "infer.py").read_bytes() == SCRIPT.read_bytes()
    assert manifest.target == "host-cpu"
    assert manifest.device["runtimes"]["onnxruntime"]["version"] == manifest.runtime.version
    assert json.loads((made / "expected.json").read_text())["detections"]
    assert not list(made.parent.glob(".bundle-*")), "nothing is left of the making"


@pytest.mark.parametrize("name", ["engine.onnx", "labels.txt", "processing.json", "infer.py", "sample.ppm", "expected.json"])
def test_every_changed_or_missing_file_is_noticed(own: Path, name: str) -> None:
    (own / name).write_bytes((own / name).read_bytes() + b" ")
    with pytest.raises(errors.RunFolderError, match="changed"):
        verify(own)
    (own / name).unlink()
    with pytest.raises(errors.RunFolderError, match="missing"):
        engine_of(own)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"precision": "int8"}, "manifest was changed"),
        ({"format": 1}, "not a bundle of this version"),
        ({"files": {"../one.onnx": {"sha256": "0" * 64, "size_bytes": 1}}}, "not what it must be"),
        ({"surprise": 1}, "not what it must be"),
    ],
)
def test_a_manifest_that_was_changed(own: Path, change: dict[str, Any], text: str) -> None:
    data = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(errors.RunFolderError, match=text):
        verify(own)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(errors.RunFolderError, match="not a bundle"):
        verify(tmp_path)


@pytest.mark.parametrize("change", [{"labels": ["a"]}, {"imgsz": 64}, {"labels": ["a", "b\n", "c"]}])
def test_an_engine_that_does_not_fit_its_description(tmp_path: Path, change: dict[str, Any]) -> None:
    engine = tinynet.save_detector(tmp_path / "one.onnx")
    with pytest.raises(errors.ModelError):
        bundle.build(engine, tmp_path / "bundle", ONE, **{**ABOUT, **change})
    assert [path.name for path in tmp_path.iterdir()] == ["one.onnx"]


def test_building_again_replaces_a_bundle_and_nothing_else(made: Path, own: Path, tmp_path: Path) -> None:
    bundle.build(tinynet.save_detector(tmp_path / "two.onnx", seed=2), own, ONE, **ABOUT)
    assert verify(own).files["engine.onnx"] != verify(made).files["engine.onnx"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(errors.RunFolderError, match="something else"):
        bundle.build(tmp_path / "two.onnx", tmp_path / "photos", ONE, **ABOUT)


def test_a_failed_build_leaves_the_older_bundle(made: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.DeviceError):
        bundle.build(tinynet.save_detector(tmp_path / "nan.onnx", nan=True), own, ONE, **ABOUT)
    assert verify(own) == verify(made)


def record(engine: Path, **changes: Any) -> Record:
    values = {
        "kind": "latency",
        "subject": "x",
        "subject_sha256": file_sha256(engine),
        "device": {"hostname": "pi"},
        "value": 8.0,
    }
    return Record(**{**values, "unit": "ms", **changes})


def test_measurements_are_kept_beside_the_engine_they_are_of(own: Path) -> None:
    engine = own / "engine.onnx"
    attach(own, [record(engine), record(engine, device={"hostname": "nano"})])
    attach(own, [record(engine, value=7.0)])
    kept = verify(own).measurements
    assert [(one["device"]["hostname"], one["value"]) for one in kept] == [("pi", 7.0), ("nano", 8.0)]
    with pytest.raises(errors.MeasurementError, match="another engine"):
        attach(own, [replace(record(engine), subject_sha256="0" * 64)])
    with pytest.raises(errors.MeasurementError, match="throttled"):
        attach(own, [record(engine, valid=False, reasons=("throttled",))])
    assert verify(own).measurements == kept


def test_results_of_a_benchmark_go_into_its_bundles(own: Path, tmp_path: Path) -> None:
    measured = verbs.bench({"x": own}, tmp_path / "out", on=ONE, pace=pace_of("quick", rounds=1, runs=20)).to_json()
    bundles = verbs.bundles_of({"x": own, "y": own / "engine.onnx"})
    verbs.attach_results(bundles, [{**measured, "valid": False, "reasons": ["busy"]}])
    assert [one["kind"] for one in verify(own).measurements] == ["size"], "what must not be used stays out"
    verbs.attach_results(bundles, [{**measured, "valid": True, "reasons": []}])
    assert sorted(one["kind"] for one in verify(own).measurements) == ["latency", "size"]
    with pytest.raises(errors.UsageError, match="no bundle"):
        verbs.bundles_of({"y": own / "engine.onnx"})


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """BGR noise with some structure."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


@pytest.mark.parametrize("size", [(480, 640), (33, 500), (32, 32), (20, 11), (1, 300), (719, 1281)])
def test_letterbox_is_the_hosts_to_one_grey_level(script: Any, size: tuple[int, int]) -> None:
    image = picture(*size)
    ours, placed = imaging.letterbox(image, 64)
    theirs, scale, left, top = script.letterbox(image, 64, imaging.PAD_VALUE)
    assert (scale, left, top) == (placed.scale, placed.left, placed.top)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("classes", "anchors"), [(1, 40), (2, 300), (5, 700)])
@pytest.mark.parametrize("min_score", [0.001, 0.25])
def test_suppression_is_evaluations(script: Any, classes: int, anchors: int, min_score: float) -> None:
    rng = np.random.default_rng(classes)
    boxes = np.concatenate([rng.uniform(0, 320, (2, anchors)), rng.uniform(10, 120, (2, anchors))])
    output = np.concatenate([boxes, rng.beta(0.5, 2, (classes, anchors))]).astype(np.float32)
    rows, _ = candidates(output[None])
    ours = suppress(rows, min_score).numpy()
    found, scores, kinds = script.suppress(output, min_score, 0.7, 300)
    assert len(ours) == len(scores) > 10
    np.testing.assert_array_equal(ours[:, 5], kinds)
    np.testing.assert_allclose(ours[:, 4], scores)
    np.testing.assert_allclose(ours[:, :4], found, atol=1e-3)


@pytest.mark.parametrize("suffix", ["png", "ppm", "npy"])
def test_infer_sees_what_the_host_sees(made: Path, tmp_path: Path, suffix: str) -> None:
    """The whole way: file, letterbox, engine, suppression, back to pixels of the picture."""
    image = picture(45, 80)
    path = tmp_path / f"image.{suffix}"
    if suffix == "npy":
        np.save(path, image[..., ::-1])
    else:
        cv2.imwrite(str(path), image)
    words = [sys.executable, str(made / "infer.py"), str(path), "--min-score", "0.1"]
    said = subprocess.run(words, capture_output=True, check=True, cwd="/").stdout
    answer = json.loads(said)
    pixels, placed = imaging.network_input(image, 32)
    wanted = suppress(candidates(tinynet.expected(pixels[None]))[0], 0.1).numpy()
    assert len(answer["detections"]) == len(wanted) > 0
    for one, want in zip(answer["detections"], wanted, strict=True):
        box = (want[:4] - [placed.left, placed.top] * 2) / placed.scale
        np.testing.assert_allclose(one["box"], np.clip(box, 0, [80, 45, 80, 45]), atol=0.6)
        assert (one["class"], one["label"]) == (want[5], "abc"[int(want[5])])
        assert one["score"] == pytest.approx(want[4], abs=0.02)
    assert (answer["height"], answer["width"]) == (45, 80)
    assert set(answer["times"]) == {"load_ms", "prepare_ms", "inference_ms", "suppress_ms"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"P6 2 2 255 " + bytes(11), "11 bytes of pixels"),
        (b"P3 2 2 255 " + bytes(12), "not a binary PPM"),
        (b"P6 2 2 65535 " + bytes(24), "not a binary PPM"),
    ],
)
def test_bad_pictures(script: Any, tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "x.ppm").write_bytes(data)
    with pytest.raises(script.BundleError, match=text):
        script.read_image(str(tmp_path / "x.ppm"))


def test_ppm_with_comments(script: Any, tmp_path: Path) -> None:
    (tmp_path / "x.ppm").write_bytes(b"P6\n# by hand\n2 1\n# again\n255\n" + bytes(range(6)))
    np.testing.assert_array_equal(script.read_image(str(tmp_path / "x.ppm")), np.arange(6, dtype=np.uint8).reshape(1, 2, 3))


def test_infer_refuses_a_changed_engine(own: Path) -> None:
    (own / "engine.onnx").write_bytes((own / "engine.onnx").read_bytes() + b"x")
    words = [sys.executable, str(own / "infer.py"), str(own / "sample.ppm")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "engine.onnx was changed" in done.stderr


def test_infer_without_the_runtime(own: Path) -> None:
    words = [
        sys.executable,
        "-c",
        "import runpy, sys; sys.modules['onnxruntime'] = None; runpy.run_path(sys.argv[1], run_name='__main__')",
    ]
    done = subprocess.run([*words, str(own / "infer.py"), "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "infer.py: ImportError: " in done.stderr
    assert "Traceback" not in done.stderr


def test_infer_needs_only_what_a_board_has() -> None:
    pytest.importorskip("vermin")
    code = "import vermin; vermin.main()"
    words = [sys.executable, "-c", code, "-t=3.6-", "--no-tips", "--violations", str(SCRIPT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    allowed = set(sys.stdlib_module_names) | {"numpy", "cv2", "PIL", *PROVIDERS}
    imported = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))}
    assert {name.split(".")[0] for name in imported} - {"infer"} <= allowed


@pytest.mark.parametrize("kind", ["big", "small"])
def test_a_real_picture_as_sample(tmp_path: Path, kind: str) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), picture(300, 400) if kind == "big" else picture(20, 30))
    bundle.build(tinynet.save_detector(tmp_path / "one.onnx"), tmp_path / "b", ONE, sample=tmp_path / "photo.png", **ABOUT)
    kept = cv2.imread(str(tmp_path / "b" / "sample.ppm"))
    assert kept is not None
    assert kept.shape == ((36, 48, 3) if kind == "big" else (20, 30, 3))
