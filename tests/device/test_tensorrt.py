"""TensorRT through the ordinary commands, on a machine that seems to have it: build, bench, infer, profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import tinynet
from tests.device.paces import short
from tests.tensorrt_fakes import lab
from toolchain import errors
from toolchain.device.bench import Extras, bench
from toolchain.device.conversion import Order, convert
from toolchain.device.infer import infer
from toolchain.device.profile import profile
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.predictions import Predictions

GPU = On(runtime="tensorrt", provider="gpu", threads=1)
SHORT = short(rounds=2, runs=3)


@pytest.fixture(params=[pytest.param(lab.VERSIONS[0], marks=pytest.mark.slow), lab.NEWEST])
def board(request: pytest.FixtureRequest, cudart: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with lab.fake_machine(monkeypatch, cudart, request.param):
        monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "device"))
        yield request.param


@pytest.fixture
def newest(cudart: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with lab.fake_machine(monkeypatch, cudart):
        monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "device"))
        yield


def test_detections_are_those_of_onnx_runtime(board: str, tmp_path: Path, images: Path) -> None:
    engine = tinynet.save_detector(tmp_path / "net.onnx", batch="batch")
    result = infer(engine, images, tmp_path / "gpu.npz", GPU, timeout_s=60.0)
    infer(engine, images, tmp_path / "cpu.npz", On(threads=1), timeout_s=60.0)
    one, other = (Predictions.load(tmp_path / f"{name}.npz") for name in ("gpu", "cpu"))
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_allclose(one.rows, other.rows, rtol=1e-5)
    assert (result.provider, result.versions["tensorrt"]) == ("gpu", board)


def test_layers(board: str, tmp_path: Path) -> None:
    engine = tinynet.save_detector(tmp_path / "net.onnx")
    nodes = profile(engine, GPU, runs=3, warmup_runs=1, timeout_s=60.0)
    assert [(node.op, node.provider, node.shape) for node in nodes[:1]] == [("Conv fp16", "gpu", (1, 8, 4, 4))]
    assert [node.op.split()[0] for node in nodes] == ["Conv", "Reformat", "Conv"]


def test_latency_there_and_on_the_gpu_alone(board: str, tmp_path: Path, engines: dict[str, Path]) -> None:
    result = bench(engines, tmp_path / "bench", GPU, SHORT, extras=Extras(aa_control=False), timeout_s=60.0)
    one = result.engines["one"]
    assert (one.provider, one.runtime_version) == ("gpu", board)
    assert one.options["cuda_graph"] == "yes"
    from toolchain.stage import read_json

    for entry in read_json(tmp_path / "bench" / "samples" / "one.json")["rounds"]:
        assert len(entry["device_ms"]) == len(entry["latency_ms"]) >= 3


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        ("no-driver", errors.DeviceError, "no usable CUDA driver"),
        ("build=none", errors.DeviceError, "did not build"),
        ("build=memory:1", errors.OutOfMemoryError, "tries"),
        ("context=none", errors.OutOfMemoryError, "no execution context"),
    ],
)
def test_errors_say_what_happened(
    newest: None, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, words: str, kind: type[Exception], text: str
) -> None:
    lab.misbehave(monkeypatch, words)
    with pytest.raises(kind, match=text):
        infer(tinynet.save_detector(tmp_path / "net.onnx"), images, tmp_path / "out.npz", GPU, timeout_s=60.0)


def test_a_graph_that_tensorrt_cannot_read(newest: None, tmp_path: Path, images: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\0" * 60)
    with pytest.raises(errors.ModelError, match="cannot read the graph"):
        infer(tmp_path / "net.onnx", images, tmp_path / "out.npz", GPU, timeout_s=60.0)


def test_what_is_made_is_said_and_kept(newest: None, tmp_path: Path) -> None:
    engine = tinynet.save_detector(tmp_path / "net.onnx")
    with connect("local") as device, device.session() as session:
        order = Order(engine, "tensorrt", "gpu")
        made, again = (convert(session, order) for _ in range(2))
        other = convert(session, replace(order, provider="gpu:workspace_mib=64"))
    assert (made.reused, again.reused, again.path) == (False, True, made.path)
    assert made.key != other.key
    assert made.made_of["here"]["tensorrt"] == lab.NEWEST  # type: ignore[index, call-overload, union-attr]


def test_what_would_be_refused_stays_here(newest: None, tmp_path: Path, images: Path) -> None:
    """The rules are asked before the graph travels; options that make the typing weak leave it to the device."""
    from tests.agent.test_tensorrt_build import save_quantized

    engine = save_quantized(tmp_path / "net.onnx", zero=3)
    with pytest.raises(errors.ExportError, match="would refuse"):
        infer(engine, images, tmp_path / "out.npz", GPU, timeout_s=60.0)
    assert not (tmp_path / "device" / "engines").exists()


def test_the_gpus_own_time_and_trtexecs(
    newest: None, tmp_path: Path, engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both with percentiles; that they are apart is said. The stand-in for trtexec says 1.5 ms of everything."""
    monkeypatch.setenv("EDGE_TRTEXEC", str(lab.HERE / "trtexec"))
    monkeypatch.setenv("FAKE_TRTEXEC_VERSION", "11.1")
    extras = Extras(aa_control=False, trtexec=True)
    result = bench(engines, tmp_path / "bench", GPU, short(rounds=6, runs=20), extras=extras, timeout_s=60.0)
    for label in engines:
        one = result.engines[label]
        assert one.device_ms is not None
        assert one.trtexec is not None
        assert one.device_ms.n == one.latency_ms.n
        assert one.device_ms.p50.value < one.p50_ms  # type: ignore[operator]
        assert (one.trtexec["status"], one.trtexec["compute_ms"]["p50"]["value"]) == ("measured", 1.5)
        assert {"--useSpinWait", "--noDataTransfers", "--useCudaGraph", "--separateProfileRun"} <= set(one.trtexec["words"])
        assert (tmp_path / "bench" / one.trtexec["samples"]).exists()
        assert any("by trtexec 1.50 ms" in flag for flag in one.flags)
    monkeypatch.setenv("FAKE_TRTEXEC_DO", "fail")
    again = bench(engines, tmp_path / "bench", GPU, short(rounds=6, runs=20), extras=extras, timeout_s=60.0)
    assert again.engines == result.engines, "what was measured is kept"


@pytest.mark.parametrize(
    ("do", "reason"), [pytest.param("fail", "ended with 1", marks=pytest.mark.slow), ("", "no trtexec on this device")]
)
def test_without_trtexec_the_rest_stands(
    newest: None, tmp_path: Path, engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, do: str, reason: str
) -> None:
    if do:
        monkeypatch.setenv("EDGE_TRTEXEC", str(lab.HERE / "trtexec"))
        monkeypatch.setenv("FAKE_TRTEXEC_DO", do)
    extras = Extras(aa_control=False, trtexec=True)
    one = bench(engines, tmp_path / "bench", GPU, SHORT, extras=extras, timeout_s=60.0).engines["one"]
    assert one.trtexec is not None
    assert one.trtexec["status"] == "not_measured"
    assert reason in one.trtexec["reason"]


def test_trtexec_times_plans_alone(tmp_path: Path, engines: dict[str, Path]) -> None:
    with pytest.raises(errors.UsageError, match="TensorRT's engines"):
        bench(engines, tmp_path / "bench", On(threads=1), SHORT, extras=Extras(aa_control=False, trtexec=True))
    one = bench(engines, tmp_path / "bench", On(threads=1), SHORT, extras=Extras(aa_control=False)).engines["one"]
    assert (one.device_ms, one.trtexec) == (None, None)


def test_trtexec_is_told_the_shape_that_was_timed(newest: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_TRTEXEC", str(lab.HERE / "trtexec"))
    monkeypatch.setenv("FAKE_TRTEXEC_VERSION", "11.1")
    engine = {"free": tinynet.save_detector(tmp_path / "free.onnx", batch="batch")}
    extras = Extras(aa_control=False, trtexec=True)
    one = bench(engine, tmp_path / "bench", GPU, SHORT, extras=extras, timeout_s=60.0).engines["free"]
    assert one.trtexec is not None
    assert "--shapes=images:1x3x32x32" in one.trtexec["words"]
