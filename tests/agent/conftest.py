"""Machines that seem to have TensorRT. Building goes on in this process, which is quicker, but on those that are `apart`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tensorrt_fakes.lab import NEWEST, VERSIONS, build_cudart, fake_machine, fake_pycuda
from toolchain.agent.trt import build_net, gpu, ladder, pycuda_driver


@pytest.fixture(scope="session")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for libcudart."""
    return build_cudart(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(scope="session")
def kept_plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent's folder for all tests that only need a plan."""
    return tmp_path_factory.mktemp("plans")


def build_here(build: ladder.Build, request: dict[str, Any]) -> dict[str, Any]:
    """What child.main does."""
    plan, timing, known = build_net.build(request["path"], request, build._tell, lambda: False)
    Path(request["plan"]).write_bytes(plan)
    Path(request["timing_out"]).write_bytes(timing)
    return {"event": "built", "known": known}


@pytest.fixture(params=VERSIONS)
def each_version(request: pytest.FixtureRequest, cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each TensorRT in turn."""
    monkeypatch.setattr(ladder.Build, "run", build_here)
    with fake_machine(monkeypatch, cudart, request.param):
        yield request.param


@pytest.fixture
def newest(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The newest TensorRT."""
    monkeypatch.setattr(ladder.Build, "run", build_here)
    with fake_machine(monkeypatch, cudart):
        yield NEWEST


@pytest.fixture
def oldest(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The oldest TensorRT."""
    monkeypatch.setattr(ladder.Build, "run", build_here)
    with fake_machine(monkeypatch, cudart, VERSIONS[0]):
        yield VERSIONS[0]


@pytest.fixture
def apart(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The newest TensorRT, building in processes of their own."""
    with fake_machine(monkeypatch, cudart):
        yield NEWEST


@pytest.fixture
def pycuda_here(cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pycuda can be imported. What the test leaves behind is freed before its context goes, or the fake complains."""
    with fake_pycuda(monkeypatch, cudart):
        yield
        monkeypatch.delenv("FAKE_CUDART_FAIL", raising=False)
        gc.collect()  # errors hold the frames that they came through
        pycuda_driver.close()


@pytest.fixture
def by_pycuda(pycuda_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """pycuda is asked for."""
    monkeypatch.setenv(gpu.CHOICE, "pycuda")
