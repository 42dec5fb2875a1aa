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
from toolchain.device.runtimes import COMPARED
from toolchain.device.settings import PROVIDERS

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


def engine_of(runtime: ModuleType, graph: Path) -> Path:
    """What the runtime reads, made of the graph."""
    if runtime.NAME != "ncnn":
        return graph
    pytest.importorskip("pnnx")
    from toolchain.export.ncnn import to_ncnn

    return to_ncnn(graph, graph.with_suffix(".ncnn"))


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
    if installed.NAME == "ncnn" and batch != 1:
        pytest.skip("ncnn has no batches")
    graph = tinynet.save_detector(tmp_path / "engine.onnx", batch=batch)
    engine = installed.load(str(engine_of(installed, graph)), provider, 1)
    assert engine.provider == provider
    assert engine.version == installed.version()
    assert all(isinstance(value, (str, int, float, bool)) for value in engine.options.values())
    (tensor,) = engine.inputs
    assert (tensor["name"], tensor["shape"][1:], tensor["type"]) == ("images", [3, 32, 32], "float32")
    assert isinstance(tensor["shape"][0], int) == isinstance(batch, int)
    images = tinynet.pictures(batch if isinstance(batch, int) else 3)
    for picture in (images, images[::-1]):  # the second run must not hang on to the first
        (output,) = engine.run(np.ascontiguousarray(picture.astype(np.float32) / np.float32(255)))
        np.testing.assert_allclose(output, tinynet.expected(picture), rtol=1e-4, atol=1e-6)


def test_options_of_a_provider() -> None:
    assert runtimes.split("CPU") == ("CPU", {})
    assert runtimes.split("GPU.0:A=1,B=x=y") == ("GPU.0", {"A": "1", "B": "x=y"})
    for bad in ("CPU:A", "CPU:=1", "CPU:A=", "CPU:A=1,,B=2"):
        with pytest.raises(AgentError) as caught:
            runtimes.split(bad)
        assert caught.value.kind == "provider"


def test_option_that_the_provider_does_not_have_is_refused(installed: ModuleType, provider: str, tmp_path: Path) -> None:
    if installed.NAME == "onnxruntime":
        pytest.skip("its CPU provider passes over options it does not know")
    graph = tinynet.save_detector(tmp_path / "engine.onnx")
    with pytest.raises(AgentError, match="no_such_option") as caught:
        installed.load(str(engine_of(installed, graph)), provider + ":no_such_option=1", 1)
    assert caught.value.kind == "provider"


def test_the_host_names_usual_providers_of_runtimes_that_exist() -> None:
    assert set(PROVIDERS) == set(COMPARED)
    assert set(PROVIDERS) <= set(NAMES)
    assert all(COMPARED[name][0] == usual for name, usual in PROVIDERS.items())


def test_provider_that_is_not_there_is_refused(installed: ModuleType, tmp_path: Path) -> None:
    path = tinynet.save_detector(tmp_path / "engine.onnx")
    with pytest.raises(AgentError) as caught:
        installed.load(str(path), "NoSuchProvider", 1)
    assert caught.value.kind == "provider"


def test_file_that_is_no_engine(installed: ModuleType, provider: str, tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(AgentError) as caught:
        installed.load(str(tmp_path / "engine.onnx"), provider, 1)
    assert caught.value.kind == "engine"
