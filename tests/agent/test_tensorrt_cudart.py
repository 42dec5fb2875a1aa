"""CUDA's calls by ctypes, on a stand-in for libcudart, and on the real library where it is installed without a driver."""

from __future__ import annotations

import glob
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tensorrt_fakes.lab import build_cudart
from toolchain.agent.trt import cudart as module
from toolchain.agent.wire import AgentError


@pytest.fixture
def library(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(module.OVERRIDE, str(cudart))
    return cudart


def test_copies_and_graphs(library: Path) -> None:
    found = module.exercise()
    assert (found["library"], found["graphs"]) == (str(library), "ok")
    assert found["identity"] == {
        "cuda_runtime": 12060, "cuda_driver": 12060, "compute": "8.7", "multiprocessors": 8, "integrated": True,
        "memory_bytes": 8 << 30,
    }  # fmt: skip


def test_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.OVERRIDE, str(build_cudart(tmp_path, "-DNO_GRAPHS")))
    assert "lacks cudaStreamBeginCapture" in module.exercise()["graphs"]


@pytest.mark.parametrize(
    "call", sorted(set(module.SIGNATURES) - {"cudaGetErrorString", "cudaGetErrorName", "cudaDeviceSynchronize"})
)
def test_every_failing_call_is_named(library: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    used = {"cudaGetDeviceCount", "cudaStreamDestroy", "cudaEventDestroy", "cudaEventSynchronize"}
    if call in used:
        pytest.skip("not part of the exercise")
    monkeypatch.setenv("FAKE_CUDART_FAIL", f"{call}:35")
    with pytest.raises(AgentError, match=rf"{call}: cudaErrorInsufficientDriver \(35\)") as caught:
        module.exercise()
    assert caught.value.kind == "no_cuda"


def test_a_capture_that_fails_leaves_the_stream_usable(library: Path) -> None:
    cuda = module.Cuda()
    stream, block = module.Stream(cuda), module.Block(cuda, 64)

    def fail() -> None:
        raise AgentError("engine", "no")

    with pytest.raises(AgentError, match="no"):
        cuda.capture(stream.handle, fail)
    block.to_device(stream.handle)
    stream.wait()


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.OVERRIDE, "/nowhere/libcudart.so")
    with pytest.raises(AgentError, match="EDGE_LIBCUDART") as caught:
        module.Cuda()
    assert caught.value.kind == "no_cuda"


def test_a_library_that_lacks_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cudart: Path) -> None:
    source = tmp_path / "few.c"
    source.write_text("int cudaFree(void *p) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "few.so", source], check=True)
    monkeypatch.setenv(module.OVERRIDE, str(tmp_path / "few.so"))
    with pytest.raises(AgentError, match="lacks cudaDeviceGetAttribute"):
        module.Cuda()


def test_the_real_library_without_a_driver() -> None:
    """Where pip has put one; in a process of its own, as it stays loaded."""
    real = [path for folder in sys.path for path in glob.glob(f"{folder}/nvidia/*/lib/libcudart.so.1[0-9]*")]
    if not real or Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists():
        pytest.skip("no libcudart from pip here, or a driver")
    code = (
        "from toolchain.agent.trt import cudart\n"
        "try: cudart.exercise()\n"
        "except cudart.CudaError as error: print(error.kind, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={module.OVERRIDE: real[0]}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("no_cuda cudaSetDevice"), done.stdout
