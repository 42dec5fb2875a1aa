"""A plan's way over ssh: built there, fetched by its hash, brought back to a device that lost it, put into service."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests import tinynet
from tests.device.paces import short
from tests.lab.sshd import Sshd
from tests.tensorrt_fakes import lab
from toolchain import verbs
from toolchain.device import bundle
from toolchain.device.bench import Extras
from toolchain.device.deploy import deploy
from toolchain.device.manifest import engine_of
from toolchain.device.settings import On
from toolchain.stage import file_sha256


def machine(folder: Path, version: str) -> On:
    """The device of the lab, with a Python that finds the stand-in for TensorRT."""
    values = {"EDGE_FAKE_TENSORRT": version, "EDGE_LIBCUDART": lab.build_cudart(folder), "PYTHONPATH": lab.HERE}
    python = folder / f"python-{version}"
    words = shlex.join(["env", *(f"{name}={value}" for name, value in values.items()), sys.executable])
    python.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    python.chmod(0o755)
    return On("dev", runtime="tensorrt", threads=1, python=str(python), patience_s=0.0)


@pytest.mark.slow
def test_there_and_back(dev: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))
    on = machine(tmp_path, "10.3.0")
    bundle.build(
        tinynet.save_detector(tmp_path / "net.onnx"), tmp_path / "b", on, labels=["a", "b", "c"], imgsz=32, precision="fp16"
    )
    shutil.rmtree(tmp_path / "cache")
    found = deploy(tmp_path / "b", on, to=str(tmp_path / "there"), name="det")
    assert found.engine is not None
    assert (found.engine.built, found.tried.detections > 0) == (False, True)
    one = verbs.bench({"x": tmp_path / "b"}, tmp_path / "out", on=on, pace=short(2), extras=Extras(aa_control=False)).engines["x"]
    assert one.options["plan_sha256"] == file_sha256(engine_of(tmp_path / "b"))
    other = machine(tmp_path, "10.7.0")
    assert deploy(tmp_path / "b", other, to=str(tmp_path / "there"), name="det").engine.built  # type: ignore[union-attr]
