"""Plans loaded and run on a strict fake of nine TensorRTs: which calls are made, and what is done when one fails."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from tests.tensorrt_fakes.lab import VERSIONS, build_cudart, fake_machine, misbehave
from toolchain.agent import runtimes
from toolchain.agent.wire import AgentError

rt = runtimes.find("tensorrt")


def pictures(count: int = 1, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What goes in, and what a true engine gives."""
    images = tinynet.pictures(count, seed=seed)
    return images.astype(np.float32) / np.float32(255), tinynet.expected(images)


def load(plans: Path, *, batch: int | str = 1, **more: Any) -> Any:
    path = tinynet.save_detector(plans / f"{batch}.onnx", batch=batch)
    return rt.load(str(path), "gpu", 1, cache=str(plans), **more)


def test_graph_to_outputs(each_version: str, kept_plans: Path) -> None:
    engine = load(kept_plans)
    assert (engine.provider, engine.version) == ("gpu", each_version)
    assert engine.inputs == [{"name": "images", "shape": [1, 3, 32, 32], "type": "float32"}]
    for seed in (1, 2, 3):
        array, wanted = pictures(seed=seed)
        (output,) = engine.run(array)
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-6)
        assert engine.device_ms > 0
    assert (engine.options["cuda"], engine.options["cuda_graph"]) == ("libcudart", "yes")
    assert engine.options["typing"] == ("weak" if each_version.startswith("8.") else "strong")
    assert all(isinstance(value, (str, int, float, bool)) for value in engine.options.values())


def test_free_batch(each_version: str, kept_plans: Path) -> None:
    engine = load(kept_plans, batch="batch")
    assert engine.inputs[0]["shape"] == [None, 3, 32, 32]
    for count in (1, 3, 3, 8, 1):
        array, wanted = pictures(count)
        np.testing.assert_allclose(engine.run(array)[0], wanted, rtol=1e-4, atol=1e-6)
        assert engine.options["cuda_graph"] == "yes"
    with pytest.raises(AgentError, match="outside the plan's profile") as caught:
        engine.run(pictures(9)[0])
    assert caught.value.kind == "engine"
    np.testing.assert_allclose(engine.run(pictures(2)[0])[0], pictures(2)[1], rtol=1e-4, atol=1e-6)


def test_buffers_do_not_pile_up(newest: str, cudart: Path, kept_plans: Path) -> None:
    live = ctypes.CDLL(str(cudart)).fakeLive
    engine = load(kept_plans, batch="batch")
    counts = []
    for count in (1, 2, 3, 1, 2, 3):
        engine.run(pictures(count)[0])
        counts.append(live())
    assert len(set(counts)) == 1


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        ("deserialize=none", "foreign_plan", "does not load"),
        ("context=none", "out_of_memory", "no execution context"),
        ("shape=false", "engine", "refused"),
        ("address=false", "engine", "address"),
        ("enqueue=false", "engine", "enqueue refused"),
        ("no-driver", "no_cuda", "error: 35"),
        ("output=BF16", "engine", "output0 has type BF16"),
    ],
)
def test_every_refusal_is_heard(
    each_version: str, kept_plans: Path, monkeypatch: pytest.MonkeyPatch, words: str, kind: str, text: str
) -> None:
    if words == "output=BF16" and each_version.startswith("8."):
        pytest.skip("8 has no BF16")
    load(kept_plans)  # a plan is there
    misbehave(monkeypatch, words)
    with pytest.raises(AgentError, match=text) as caught:
        load(kept_plans).run(pictures()[0])
    assert caught.value.kind == kind


def test_long_outputs_have_room(newest: str, kept_plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misbehave(monkeypatch, "output=INT64")
    (output,) = load(kept_plans).run(pictures()[0])
    assert output.dtype == np.int64
    np.testing.assert_array_equal(output, pictures()[1].astype(np.int64))


def test_without_a_graph_the_record_says_so(newest: str, kept_plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misbehave(monkeypatch, "capture=fail")
    engine = load(kept_plans)
    engine.run(pictures()[0])
    assert engine.options["cuda_graph"].startswith("no: TensorRT did not take")


def test_a_libcudart_without_graphs(kept_plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_machine(monkeypatch, build_cudart(kept_plans, "-DNO_GRAPHS"), VERSIONS[0]):
        engine = load(kept_plans)
        for seed in (1, 2):
            array, wanted = pictures(seed=seed)
            np.testing.assert_allclose(engine.run(array)[0], wanted, rtol=1e-4, atol=1e-6)
        assert "lacks cuda" in engine.options["cuda_graph"]


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_by_pycuda(by_pycuda: None, cudart: Path, kept_plans: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    live, counts = ctypes.CDLL(str(cudart)).fakeLive, []
    with fake_machine(monkeypatch, cudart, version):
        engine = load(kept_plans, batch="batch")
        for count in (1, 1, 3, 1, 3):
            array, wanted = pictures(count)
            np.testing.assert_allclose(engine.run(array)[0], wanted, rtol=1e-4, atol=1e-6)
            assert engine.device_ms > 0
            assert (engine.options["cuda"], engine.options["cuda_graph"]) == ("pycuda 2026.1", "yes")
            counts.append(live())
        assert len(set(counts)) == 1
        monkeypatch.setenv("FAKE_CUDART_FAIL", "cuMemAlloc:2")
        with pytest.raises(AgentError, match="cuMemAlloc failed") as caught:
            engine.run(pictures(2)[0])
        assert caught.value.kind == "out_of_memory"


def test_a_pycuda_without_graphs(newest: str, by_pycuda: None, kept_plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PYCUDA_OLD", "graphs")
    engine = load(kept_plans)
    for seed in (1, 2):
        array, wanted = pictures(seed=seed)
        np.testing.assert_allclose(engine.run(array)[0], wanted, rtol=1e-4, atol=1e-6)
    assert engine.options["cuda_graph"].startswith("no: pycuda 2026.1 lacks Stream.begin_capture")


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMallocHost"])
def test_no_memory_on_the_gpu(newest: str, kept_plans: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    engine = load(kept_plans)
    monkeypatch.setenv("FAKE_CUDART_FAIL", f"{call}:2")
    with pytest.raises(AgentError, match=call) as caught:
        engine.run(pictures()[0])
    assert caught.value.kind == "out_of_memory"


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaGraphLaunch", "cudaEventElapsedTime"])
def test_every_status_is_looked_at(newest: str, kept_plans: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    engine = load(kept_plans)
    engine.run(pictures()[0])
    monkeypatch.setenv("FAKE_CUDART_FAIL", f"{call}:719")
    with pytest.raises(AgentError, match=rf"{call}.*\(719\)"):
        engine.run(pictures()[0])


def test_layer_times(each_version: str, kept_plans: Path) -> None:
    engine = load(kept_plans, profile_to="unused")
    for _ in range(3):
        engine.run(pictures()[0])
    runs = engine.end_profile()
    assert len(runs) == 3
    for total, nodes in runs:
        assert [(node["op"], node["shape"], node["provider"]) for node in nodes[:1]] == [("Conv fp16", [1, 8, 4, 4], "gpu")]
        assert sum(node["ms"] for node in nodes) <= total


def test_wrong_input(newest: str, kept_plans: Path) -> None:
    engine = load(kept_plans)
    with pytest.raises(AgentError, match="float64"):
        engine.run(pictures()[0].astype(np.float64))


def test_providers(newest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rt.providers()[0] == "gpu"
    path = str(tinynet.save_detector(tmp_path / "a.onnx"))
    for name in ("cuda", "dla", "dla0"):
        with pytest.raises(AgentError) as caught:
            rt.load(path, name, 1)
        assert caught.value.kind == "provider"
    misbehave(monkeypatch, "dla=1")
    assert rt.load(path, "dla0", 1, cache=str(tmp_path)).provider == "dla0"
    with pytest.raises(AgentError, match="1 DLA cores"):
        rt.load(path, "dla1", 1)


def test_contract_without_a_cache(newest: str, tmp_path: Path) -> None:
    path = tinynet.save_detector(tmp_path / "a.onnx", batch=2)
    engine = rt.load(str(path), "gpu", 1)
    np.testing.assert_allclose(engine.run(pictures(2)[0])[0], pictures(2)[1], rtol=1e-4, atol=1e-6)
