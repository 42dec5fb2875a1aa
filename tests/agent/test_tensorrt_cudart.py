"""CUDA's calls by ctypes and by pycuda, on stand-ins for both, and on the real ones where they are installed."""

from __future__ import annotations

import ctypes
import glob
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tensorrt_fakes.lab import build_cudart
from toolchain.agent.trt import cudart as module
from toolchain.agent.trt import gpu, pycuda_driver
from toolchain.agent.wire import AgentError

PYCUDA = "pycuda 2026.1"
DRIVER = {  # pycuda's calls in the exercise, and what the failure of each is; the first four are made once a process
    "cuInit": "no_cuda", "cuDeviceGet": "no_cuda", "cuDevicePrimaryCtxRetain": "no_cuda", "cuCtxPushCurrent": "no_cuda",
    "cuMemHostAlloc": "engine", "cuMemAlloc": "engine", "cuStreamCreate": "engine", "cuEventCreate": "engine",
    "cuEventRecord": "engine", "cuMemcpyHtoDAsync": "engine", "cuMemcpyDtoHAsync": "engine", "cuStreamSynchronize": "engine",
    "cuEventElapsedTime": "engine", "cuStreamBeginCapture": "engine", "cuStreamEndCapture": "engine",
    "cuGraphInstantiate": "engine", "cuGraphLaunch": "engine",
    "cuDeviceGetAttribute": "engine", "cuDriverGetVersion": "engine", "cuMemGetInfo": "engine",
}  # fmt: skip
UNUSED = {"cudaGetErrorString", "cudaGetErrorName", "cudaDeviceSynchronize", "cudaGetDeviceCount", "cudaEventSynchronize"}


@pytest.fixture
def library(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(module.OVERRIDE, str(cudart))
    return cudart


@pytest.fixture(params=["libcudart", "pycuda"])
def either(request: pytest.FixtureRequest, library: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each library in turn; how its name begins in the record."""
    if request.param == "pycuda":
        request.getfixturevalue("by_pycuda")
    return str(request.param)


@pytest.fixture
def live(cudart: Path) -> Callable[[], int]:
    """How many handles and pieces of memory are open."""
    count: Callable[[], int] = ctypes.CDLL(str(cudart)).fakeLive
    return count


def test_copies_and_graphs(either: str, live: Callable[[], int]) -> None:
    before = live()
    found = gpu.exercise()
    assert live() == before
    assert (found["cuda"].split()[0], found["graphs"]) == (either, "ok")
    assert found["copied_ms"] > 0
    assert found["identity"] == {
        "cuda_runtime": 12060, "cuda_driver": 12060, "compute": "8.7", "multiprocessors": 8, "integrated": True,
        "memory_bytes": 8 << 30,
    }  # fmt: skip
    assert found["memory"][0] <= found["memory"][1] == 8 << 30


def test_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.OVERRIDE, str(build_cudart(tmp_path, "-DNO_GRAPHS")))
    assert "lacks cudaStreamBeginCapture" in gpu.exercise()["graphs"]


def test_a_pycuda_without_graphs(by_pycuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PYCUDA_OLD", "graphs")
    assert f"{PYCUDA} lacks Stream.begin_capture" in gpu.exercise()["graphs"]
    with pytest.raises(AgentError, match=r"lacks Stream\.begin_capture"):
        gpu.open_cuda().stream().capture(list)


@pytest.mark.parametrize("call", sorted({*module.SIGNATURES, *module.GRAPHS} - UNUSED))
def test_every_failing_call_is_named(library: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setenv("FAKE_CUDART_FAIL", f"{call}:35")
    with pytest.raises(AgentError, match=rf"{call}: cudaErrorInsufficientDriver \(35\)") as caught:
        gpu.exercise()
    assert caught.value.kind == "no_cuda"


@pytest.mark.parametrize("call", DRIVER)
def test_every_failing_call_of_pycuda_is_named(by_pycuda: None, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    for code, kind in ((719, DRIVER[call]), (2, "out_of_memory")):
        monkeypatch.setenv("FAKE_CUDART_FAIL", f"{call}:{code}")
        with pytest.raises(AgentError, match=f"{call} failed: ") as caught:
            gpu.exercise()
        assert caught.value.kind == kind


def test_what_users_are_given(either: str, live: Callable[[], int]) -> None:
    cuda = gpu.open_cuda()
    before = live()
    block, empty, stream = cuda.block(24), cuda.block(0), cuda.stream()
    assert isinstance(block.device, int)
    assert isinstance(stream.handle, int)
    assert block.device
    assert stream.handle
    view = block.view("float32", (2, 3))
    view[...] = 1.5
    block.to_device(stream)
    stream.wait()
    view[...] = 0
    block.to_host(stream)
    stream.wait()
    assert view.tolist() == [[1.5] * 3] * 2
    for one in (block, empty, stream):
        one.free()
    assert block.device is None
    assert live() == before


def test_half_a_block_is_freed(either: str, live: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = gpu.open_cuda()
    before = live()
    monkeypatch.setenv("FAKE_CUDART_FAIL", "cudaMalloc:2" if either == "libcudart" else "cuMemAlloc:2")
    with pytest.raises(AgentError, match="out of memory") as caught:
        cuda.block(64)
    assert caught.value.kind == "out_of_memory"
    assert live() == before


def test_a_capture_that_fails_leaves_the_stream_usable(either: str) -> None:
    cuda = gpu.open_cuda()
    stream, block = cuda.stream(), cuda.block(64)

    def fail() -> None:
        raise AgentError("engine", "no")

    with pytest.raises(AgentError, match="no"):
        stream.capture(fail)
    block.to_device(stream)
    stream.wait()


def test_libcudart_comes_first(library: Path, pycuda_here: None) -> None:
    assert gpu.open_cuda().name == "libcudart"
    assert "pycuda" not in sys.modules


def test_pycuda_where_there_is_no_libcudart(pycuda_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.OVERRIDE, raising=False)
    monkeypatch.setattr(module, "candidates", lambda: ["/nowhere/libcudart.so"])
    assert gpu.open_cuda().name == PYCUDA


def test_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.OVERRIDE, raising=False)
    monkeypatch.setattr(module, "candidates", list)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(AgentError, match=r"no libcudart.* EDGE_LIBCUDART .*pycuda does not import") as caught:
        gpu.open_cuda()
    assert caught.value.kind == "no_cuda"


def test_nothing_stands_in_for_what_was_asked_for(pycuda_here: None, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.CHOICE, "cupy")
    with pytest.raises(AgentError, match="EDGE_CUDA=cupy: libcudart or pycuda expected"):
        gpu.open_cuda()
    monkeypatch.setenv(gpu.CHOICE, "pycuda")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(AgentError, match="pycuda does not import"):
        gpu.open_cuda()
    monkeypatch.delitem(sys.modules, "pycuda")
    monkeypatch.setenv(gpu.CHOICE, "libcudart")
    monkeypatch.setattr(module, "candidates", list)
    with pytest.raises(AgentError, match="no libcudart"):
        gpu.open_cuda()
    monkeypatch.undo()


def test_no_library(pycuda_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.OVERRIDE, "/nowhere/libcudart.so")
    with pytest.raises(AgentError, match="EDGE_LIBCUDART=/nowhere") as caught:
        gpu.open_cuda()
    assert caught.value.kind == "no_cuda"


def test_a_library_that_lacks_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cudart: Path, pycuda_here: None) -> None:
    source = tmp_path / "few.c"
    source.write_text("int cudaFree(void *p) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "few.so", source], check=True)
    monkeypatch.setenv(module.OVERRIDE, str(tmp_path / "few.so"))
    with pytest.raises(AgentError, match="lacks cudaDeviceGetAttribute"):
        gpu.open_cuda()


def test_a_pycuda_that_is_too_old(by_pycuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PYCUDA_OLD", "primary")
    with pytest.raises(AgentError, match=r"retain_primary_context: 2020\.1 or later"):
        gpu.open_cuda()


def test_pycuda_has_one_context_and_gives_it_back(by_pycuda: None) -> None:
    cudas = [gpu.open_cuda() for _ in range(3)]
    cudas[0].block(8), cudas[1].stream()
    kept = cudas[2].block(8)
    import pycuda.driver as driver

    assert len(driver._contexts()) == 1
    pycuda_driver.close()
    assert (driver._contexts(), driver._living, kept.device) == ([], [], None)
    gpu.exercise()


def test_another_thread_is_told_why(by_pycuda: None) -> None:
    block, stream = gpu.open_cuda().block(8), gpu.open_cuda().stream()
    said = []

    def copy() -> None:
        try:
            block.to_device(stream)
        except AgentError as error:
            said.append(str(error))

    thread = threading.Thread(target=copy)
    thread.start()
    thread.join()
    assert said
    assert "invalid device context; with pycuda" in said[0]


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_process_with_pycuda_ends_well(by_pycuda: None) -> None:
    """pycuda aborts where a context is left; here a block, a stream and a graph are left too."""
    done = in_a_process(
        "from toolchain.agent.trt import gpu\n"
        "cuda = gpu.open_cuda()\n"
        "block, stream = cuda.block(8), cuda.stream()\n"
        "graph = stream.capture(lambda: block.to_host(stream))\n"
        "print(cuda.name)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, PYCUDA + "\n", "")


def test_the_real_library_without_a_driver() -> None:
    """Where pip has put one; in a process of its own, as it stays loaded."""
    real = [path for folder in sys.path for path in glob.glob(f"{folder}/nvidia/*/lib/libcudart.so.1[0-9]*")]
    if not real or Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists():
        pytest.skip("no libcudart from pip here, or a driver")
    code = (
        "from toolchain.agent.trt import cudart, gpu\n"
        "try: gpu.exercise()\n"
        "except cudart.CudaError as error: print(error.kind, error)"
    )
    done = in_a_process(code, **{module.OVERRIDE: real[0]})
    assert done.stdout.startswith("no_cuda cudaSetDevice"), done.stdout + done.stderr


def test_the_real_pycuda() -> None:
    code = (
        "import json\n"
        "from toolchain.agent.trt import cudart, gpu\n"
        "from toolchain.agent.wire import AgentError\n"
        "try: said = gpu.exercise()\n"
        "except cudart.MissingError as error: said = {'missing': str(error)}\n"
        "except AgentError as error: said = {'kind': error.kind, 'text': str(error)}\n"
        "print(json.dumps(said))"
    )
    done = in_a_process(code, **{gpu.CHOICE: "pycuda"})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    if "missing" in said:
        pytest.skip(said["missing"])
    if Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists():
        assert said["cuda"].startswith("pycuda "), said
    else:
        assert said["kind"] == "no_cuda", said
