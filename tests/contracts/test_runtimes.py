"""Every file toolchain/agent/runtimes/rt_NAME.py keeps the contract written in that folder's __init__.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests import tinynet
from toolchain.agent import runtimes
from toolchain.agent.wire import AgentError
from toolchain.device.agent_package import agent_package

NAMES = runtimes.names()


@pytest.fixture(params=NAMES)
def runtime(request: pytest.FixtureRequest) -> ModuleType:
    return runtimes.find(request.param)


@pytest.fixture
def installed(runtime: ModuleType) -> ModuleType:
    """Skips where the runtime itself is not installed."""
    try:
        runtime.version()
    except ImportError as error:
        pytest.skip(f"{runtime.NAME} is not installed: {error}")
    return runtime


def test_runtimes_are_found_by_file_name_in_the_folder_and_in_the_zip(tmp_path: Path) -> None:
    assert "onnxruntime" in NAMES
    (tmp_path / "agent.pyz").write_bytes(agent_package().data)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from edge_agent import runtimes; print(*runtimes.names())"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "agent.pyz")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == NAMES


def test_unknown_runtime() -> None:
    with pytest.raises(AgentError, match="onnxruntime"):
        runtimes.find("onnxruntme")


def test_constants(runtime: ModuleType) -> None:
    assert f"rt_{runtime.NAME}" == runtime.__name__.rsplit(".", 1)[1]
    assert set(runtime.PRECISIONS) <= {"fp32", "fp16", "int8"}
    assert "fp32" in runtime.PRECISIONS


def test_version_and_providers(installed: ModuleType) -> None:
    assert isinstance(installed.version(), str)
    assert all(isinstance(name, str) for name in installed.providers())
    assert installed.providers()


@pytest.fixture
def provider(installed: ModuleType) -> str:
    """One that every machine has."""
    return next((name for name in installed.providers() if "cpu" in name.lower()), installed.providers()[0])


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_engine_runs_and_describes_itself(installed: ModuleType, provider: str, tmp_path: Path, batch: int | str) -> None:
    engine = installed.load(str(tinynet.save_detector(tmp_path / "engine.onnx", batch=batch)), provider, 1)
    assert engine.provider == provider
    assert engine.version == installed.version()
    assert all(isinstance(value, (str, int, float, bool)) for value in engine.options.values())
    (tensor,) = engine.inputs
    assert (tensor["name"], tensor["shape"][1:], tensor["type"]) == ("images", [3, 32, 32], "float32")
    assert isinstance(tensor["shape"][0], int) == isinstance(batch, int)
    images = tinynet.pictures(batch if isinstance(batch, int) else 3)
    (output,) = engine.run(images.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(output, tinynet.expected(images), rtol=1e-4, atol=1e-6)


def test_provider_that_is_not_there_is_refused(installed: ModuleType, tmp_path: Path) -> None:
    path = tinynet.save_detector(tmp_path / "engine.onnx")
    with pytest.raises(AgentError) as caught:
        installed.load(str(path), "NoSuchProvider", 1)
    assert caught.value.kind == "provider"


def test_provider_that_silently_falls_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    runtime = runtimes.find("onnxruntime")
    path = tinynet.save_detector(tmp_path / "engine.onnx")
    monkeypatch.setattr(runtime, "providers", lambda: ["CUDAExecutionProvider"])
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: original(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(AgentError, match="uses CPUExecutionProvider") as caught:
        runtime.load(str(path), "CUDAExecutionProvider", 1)
    assert caught.value.kind == "provider"


def test_file_that_is_no_engine(installed: ModuleType, provider: str, tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(AgentError) as caught:
        installed.load(str(tmp_path / "engine.onnx"), provider, 1)
    assert caught.value.kind == "engine"
