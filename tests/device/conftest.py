from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import tinynet
from tests.lab.sshd import Sshd, start_sshd
from tests.tensorrt_fakes import lab


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the home folder."""
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path_factory.getbasetemp() / "device-cache"))


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Path]:
    """Two tiny detectors; the first is the baseline."""
    return {"one": tinynet.save_detector(tmp_path / "one.onnx"), "two": tinynet.save_detector(tmp_path / "two.onnx", seed=2)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eleven pictures as the toolchain prepares them."""
    np.save(tmp_path / "images.npy", tinynet.pictures(11))
    return tmp_path / "images.npy"


@pytest.fixture(scope="session")
def noisy_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A device whose login scripts print to stdout, the last time without ending the line."""
    shout = "ForceCommand echo Welcome; echo '{\"id\": 1}'; printf 'last login: '; eval \"$SSH_ORIGINAL_COMMAND\""
    server = start_sshd(tmp_path_factory.mktemp("noisy") / "d", shout)
    yield server
    server.end()


@pytest.fixture
def dev(lab_ssh: Sshd) -> Sshd:
    """The usual device, reachable as `dev`."""
    return lab_ssh


@pytest.fixture(scope="session")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for CUDA's runtime, built once."""
    return lab.build_cudart(tmp_path_factory.mktemp("cudart"))


@pytest.fixture
def trt10(cudart: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A device with TensorRT 10.3; the environment makes another of it."""
    with lab.fake_machine(monkeypatch, cudart, "10.3.0"):
        monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "device"))
        yield monkeypatch
