"""Bundles with TensorRT: a plan only where it is at home, one built at installation elsewhere, and nothing of others loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from tests.device.paces import short
from tests.tensorrt_fakes import lab
from toolchain import errors, verbs
from toolchain.device import bundle
from toolchain.device.agent_package import sources_of
from toolchain.device.bench import Extras
from toolchain.device.deploy import deploy, deployed, rollback
from toolchain.device.manifest import engine_of, verify
from toolchain.device.plan_loader import closure, plan_loader
from toolchain.device.settings import On
from toolchain.stage import file_sha256

GPU = On(runtime="tensorrt", provider="gpu", threads=1)
ABOUT: dict[str, Any] = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}
EIGHT, TEN, OTHER_TEN, ELEVEN = lab.VERSIONS[0], "10.3.0", "10.7.0", lab.NEWEST
WITHOUT_US = (
    "import runpy, sys; sys.modules['toolchain'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def become(trt10: pytest.MonkeyPatch, version: str = TEN, *, minor: str = "7") -> None:
    """Another device from now on, with nothing in its cache."""
    trt10.setenv("EDGE_FAKE_TENSORRT", version)
    trt10.setenv("FAKE_CUDART_MINOR", minor)


@pytest.fixture(scope="module")
def made(cudart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle built with TensorRT 10.3; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, lab.fake_machine(patch, cudart, TEN):
        patch.setenv("EDGE_DEVICE_CACHE", str(folder / "device"))
        bundle.build(tinynet.save_detector(folder / "net.onnx"), folder / "bundle", GPU, **ABOUT)
    return folder / "bundle"


def infer(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """infer.py as a program of its own, in which this toolchain cannot be imported."""
    words = (sys.executable, "-c", WITHOUT_US, str(folder / "infer.py"), str(folder / "sample.ppm"), *words)
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")


def about(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))


def test_what_is_in_a_bundle(made: Path) -> None:
    manifest = verify(made)
    assert (manifest.engine, manifest.source) == ("engine.plan", "engine.onnx")
    assert {path.name for path in made.iterdir()} == {*manifest.files, "manifest.json"}
    assert {"engine.plan", "engine.json", "plan_loader.zip"} <= set(manifest.files)
    assert manifest.conversion is not None
    assert (manifest.conversion.provider, manifest.conversion.order, manifest.conversion.calibration) == ("gpu", {}, None)
    beside = about(made, "engine.json")
    assert beside["plan_sha256"] == file_sha256(engine_of(made)) == manifest.runtime.options["plan_sha256"]
    here = beside["made_of"]["here"]
    assert {"tensorrt", "compute", "board", "power_mode", "l4t", "cuda_driver"} <= set(here)
    assert (here["tensorrt"], here["compute"], beside["made_of"]["onnx_sha256"]) == (
        TEN,
        "8.7",
        file_sha256(made / "engine.onnx"),
    )


@pytest.mark.parametrize("version", [EIGHT, pytest.param(TEN, marks=pytest.mark.slow), ELEVEN])
def test_infer_runs_the_plan_by_itself(trt10: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    become(trt10, version)
    bundle.build(tinynet.save_detector(tmp_path / "net.onnx"), tmp_path / "b", GPU, **ABOUT)
    answer = infer(tmp_path / "b", "--min-score", "0.1")
    assert answer.returncode == 0, answer.stderr
    expected = about(tmp_path / "b", "expected.json")["detections"]
    found = [one for one in json.loads(answer.stdout)["detections"] if one["score"] > 0.25]
    assert [one["class"] for one in found] == [one["class"] for one in expected] != []
    np.testing.assert_allclose([one["box"] for one in found], [one["box"] for one in expected], rtol=1e-5)


def test_infer_refuses_what_is_not_at_home(trt10: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    """Before TensorRT sees it: here TensorRT would say something else."""
    shutil.copytree(made, tmp_path / "own")
    lab.misbehave(trt10, "deserialize=none")
    become(trt10, OTHER_TEN)
    other = infer(tmp_path / "own")
    assert (other.returncode, f"built elsewhere: tensorrt {TEN}, here {OTHER_TEN}" in other.stderr) == (2, True), other.stderr
    become(trt10, minor="2")
    assert "built elsewhere: compute 8.7, here 8.2" in infer(tmp_path / "own").stderr
    become(trt10)
    assert "does not load the plan" in infer(tmp_path / "own").stderr
    plan = tmp_path / "own" / "engine.plan"
    plan.write_bytes(plan.read_bytes() + b"x")
    assert "engine.plan was changed" in infer(tmp_path / "own").stderr


def test_infer_without_tensorrt(made: Path) -> None:
    code = WITHOUT_US.replace("['toolchain'] = None", "['tensorrt'] = None")
    done = subprocess.run(
        [sys.executable, "-c", code, str(made / "infer.py"), str(made / "sample.ppm")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "ImportError" in done.stderr) == (3, True), done.stderr


def test_the_same_kind_of_device_takes_the_plan(trt10: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    lab.misbehave(trt10, "build=none")  # nothing must be built
    found = deploy(made, GPU, to=str(tmp_path / "there"), name="det")
    assert found.engine is not None
    assert (found.engine.built, found.engine.why, found.tried.detections > 0) == (False, [], True)
    assert not list((tmp_path / "there" / "det" / "current").glob("built-here*"))


@pytest.mark.parametrize(
    ("version", "minor", "why"),
    [
        (OTHER_TEN, "7", f"tensorrt {TEN}, here {OTHER_TEN}"),
        (ELEVEN, "7", f"tensorrt {TEN}, here {ELEVEN}"),
        pytest.param(TEN, "2", "compute 8.7, here 8.2", marks=pytest.mark.slow),
    ],
)
def test_another_device_builds_its_own(
    trt10: pytest.MonkeyPatch, made: Path, tmp_path: Path, version: str, minor: str, why: str
) -> None:
    become(trt10, version, minor=minor)
    found = deploy(made, GPU, to=str(tmp_path / "there"), name="det")
    assert found.engine is not None
    assert (found.engine.built, found.engine.reused) == (True, False)
    assert why in found.engine.why[0]
    current = tmp_path / "there" / "det" / "current"
    assert (current / "built-here.plan").stat().st_mode == (current / "manifest.json").stat().st_mode
    assert about(current, "built-here.json")["made_of"]["here"]["tensorrt"] == version
    assert infer(current).returncode == 0
    (tmp_path / "there" / "det" / "versions" / found.version / ".part-left").write_bytes(b"half")
    again = deploy(made, GPU, to=str(tmp_path / "there"), name="det")
    assert (again.switched, again.engine and again.engine.reused) == (False, True)
    assert not (current / ".part-left").exists()


def test_a_build_that_fails_leaves_what_is_in_service(trt10: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "there")
    first = deploy(made, GPU, to=to, name="det")
    bundle.build(tinynet.save_detector(tmp_path / "two.onnx", seed=2), tmp_path / "two", GPU, **ABOUT)
    become(trt10, minor="2")
    lab.misbehave(trt10, "build=none")
    with pytest.raises(errors.DeviceError, match=rf"{first.version} stays in service"):
        deploy(tmp_path / "two", GPU, to=to, name="det")
    (model,) = deployed(GPU, to=to)
    assert ([first.version], "engine_build") == (model.history, model.failures[0].kind)
    lab.misbehave(trt10, "")
    assert deploy(tmp_path / "two", GPU, to=to, name="det").before == first.version


@pytest.mark.slow
def test_going_back_after_the_system_was_renewed(trt10: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    """The version before is built anew for it."""
    to = str(tmp_path / "there")
    first = deploy(made, GPU, to=to, name="det")
    bundle.build(tinynet.save_detector(tmp_path / "two.onnx", seed=2), tmp_path / "two", GPU, **ABOUT)
    deploy(tmp_path / "two", GPU, to=to, name="det")
    become(trt10, OTHER_TEN)
    back = rollback("det", GPU, to=to)
    assert (back.version, back.engine and back.engine.built) == (first.version, True)
    assert infer(tmp_path / "there" / "det" / "current").returncode == 0


def test_a_bundle_without_its_plan(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle.build(tinynet.save_detector(tmp_path / "net.onnx"), tmp_path / "b", GPU, **ABOUT, keep_plan=False)
    manifest = verify(tmp_path / "b")
    assert (manifest.engine, "engine.plan" in manifest.files, "engine.json" in manifest.files) == ("engine.onnx", False, False)
    assert "toolchain deploy" in infer(tmp_path / "b").stderr
    found = deploy(tmp_path / "b", GPU, to=str(tmp_path / "there"), name="det")
    assert found.engine is not None
    assert (found.engine.built, found.engine.reused, found.engine.why) == (True, True, ["the bundle holds none"])


def test_ranges_travel_where_int8_is_implicit(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pictures calibrate once; another device builds from the cache that came of them, the same one takes the plan."""
    np.save(tmp_path / "images.npy", tinynet.pictures(5))
    on = replace(GPU, provider="gpu:precision=int8", calibration=tmp_path / "images.npy")
    bundle.build(tinynet.save_detector(tmp_path / "net.onnx"), tmp_path / "b", on, **{**ABOUT, "precision": "int8"})
    assert (tmp_path / "b" / "calibration.cache").read_bytes().startswith(b"TRT-8502-EntropyCalibration2\n")
    assert not deploy(tmp_path / "b", GPU, to=str(tmp_path / "there"), name="det").engine.built  # type: ignore[union-attr]
    become(trt10, minor="2")
    assert deploy(tmp_path / "b", GPU, to=str(tmp_path / "there"), name="det").engine.built  # type: ignore[union-attr]
    built = about(tmp_path / "there" / "det" / "current", "built-here.json")["made_of"]
    assert built["calibration_sha256"] == file_sha256(tmp_path / "b" / "calibration.cache")
    become(trt10, ELEVEN)
    with pytest.raises(errors.DeployError, match="the graph itself must say its types"):
        deploy(tmp_path / "b", GPU, to=str(tmp_path / "there"), name="det")


def test_every_command_takes_the_plan_of_a_bundle(trt10: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    """And only where it is at home."""
    lab.misbehave(trt10, "build=none")
    measured = verbs.bench({"x": made}, tmp_path / "out", on=GPU, pace=short(2), extras=Extras(aa_control=False))
    one = measured.engines["x"]
    assert one.options["plan_sha256"] == one.sha256 == file_sha256(made / "engine.plan")
    become(trt10, OTHER_TEN)
    with pytest.raises(errors.DeviceError, match="built elsewhere"):
        verbs.bench({"x": made}, tmp_path / "other", on=GPU, pace=short(2), extras=Extras(aa_control=False))
    shutil.copy(made / "engine.plan", tmp_path / "alone.plan")
    with pytest.raises(errors.UsageError, match="where it was built"):
        verbs.bench({"x": tmp_path / "alone.plan"}, tmp_path / "alone", on=GPU, pace=short(2))


def test_the_loader_holds_what_it_imports_and_no_more() -> None:
    from importlib import resources

    names = closure(sources_of(resources.files("toolchain.agent"), ""), "trt/standalone.py")
    assert {"trt/engine.py", "trt/cudart.py", "trt/plans.py", "wire.py", "__init__.py", "trt/__init__.py"} <= names
    assert not names & {"main.py", "deploy.py", "trt/build_net.py", "trt/ladder.py", "clean.py"}
    assert plan_loader() == plan_loader()
