"""The whole way on this machine: real agent processes, a tiny detector."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from tests.device.paces import short
from tests.lab.sshd import script
from toolchain import errors
from toolchain.device.bench import bench
from toolchain.device.infer import infer
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.predictions import Predictions, candidates

ONE = On(threads=1)


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_infer_gives_what_the_network_gives(images: Path, tmp_path: Path, batch: int | str) -> None:
    engine = tinynet.save_detector(tmp_path / "engine.onnx", batch=batch, size="side")
    result = infer(engine, images, tmp_path / "out.npz", ONE)
    found = Predictions.load(tmp_path / "out.npz")
    rows, counts = candidates(tinynet.expected(np.load(images)))
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.rows, rows, rtol=1e-4)
    assert 0 < len(found.rows) < 11 * tinynet.ANCHORS
    assert (result.images, result.provider) == (11, "CPUExecutionProvider")
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("network", "kind"),
    [({"nan": True}, errors.DeviceError), ({"anchors": False}, errors.DeviceError), ({"size": 64}, errors.DataError)],
)
def test_infer_refuses_wrong_outputs(images: Path, tmp_path: Path, network: dict[str, Any], kind: type[Exception]) -> None:
    engine = tinynet.save_detector(tmp_path / "engine.onnx", **network)
    with pytest.raises(kind):
        infer(engine, images, tmp_path / "out.npz", ONE)
    assert not (tmp_path / "out.npz").exists()


def test_infer_refuses_wrong_pictures(engines: dict[str, Path], tmp_path: Path) -> None:
    for name, data in {"float.npy": np.zeros((1, 3, 32, 32)), "empty.npy": np.zeros((0, 3, 32, 32), dtype=np.uint8)}.items():
        np.save(tmp_path / name, data)
        with pytest.raises(errors.DataError):
            infer(engines["one"], tmp_path / name, tmp_path / "out.npz")
    (tmp_path / "text.npy").write_text("no")
    with pytest.raises(errors.DataError):
        infer(engines["one"], tmp_path / "text.npy", tmp_path / "out.npz")


def test_provider_that_is_not_there(engines: dict[str, Path], images: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ProviderError, match="CPUExecutionProvider"):
        infer(engines["one"], images, tmp_path / "out.npz", On(provider="CUDAExecutionProvider"))
    with pytest.raises(errors.ProviderError):
        bench(engines, tmp_path / "out", On(provider="TensorrtExecutionProvider"), short())


def test_engine_that_cannot_be_loaded(images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(errors.DeviceError, match="could not load"):
        infer(tmp_path / "bad.onnx", images, tmp_path / "out.npz")


def test_agent_is_fetched_once_and_a_damaged_copy_is_replaced(tmp_path: Path) -> None:
    for damage in (None, b"damaged"):
        with connect("local", cache=str(tmp_path / "cache")) as device, device.session() as session:
            assert session.hello.pid != os.getpid()
        (agent,) = (tmp_path / "cache" / "agent").iterdir()
        whole = agent.read_bytes()
        if damage:
            assert whole != damage
        agent.write_bytes(damage or b"damaged")
    with connect("local", cache=str(tmp_path / "cache")) as device, device.session():
        assert agent.read_bytes() == whole


def test_killed_agent_is_told_from_one_out_of_memory() -> None:
    with connect("local") as device, device.session() as session:
        os.kill(session.hello.pid, signal.SIGKILL)
        with pytest.raises(errors.DeviceError, match="killed by someone"):
            session.request("probe", timeout_s=30)


def test_hung_agent_is_given_up() -> None:
    with connect("local") as device, device.session() as session:
        os.kill(session.hello.pid, signal.SIGSTOP)
        with pytest.raises(errors.RemoteTimeoutError):
            session.request("probe", timeout_s=0.3)
        with pytest.raises(ProcessLookupError):
            os.kill(session.hello.pid, 0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("exit 127", errors.RuntimeMissingError),
        ("echo hello; exit 0", errors.ProtocolError),
        ("echo hello; exec sleep 60", errors.RemoteTimeoutError),
        ("kill -9 $$", errors.OutOfMemoryError),
    ],
)
def test_python_that_is_none(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    fake = script(tmp_path / "python", text)
    with connect("local", python=fake, start_s=1.0) as device, pytest.raises(kind):
        device.session()


def test_python_that_is_not_there(tmp_path: Path) -> None:
    with connect("local", python=str(tmp_path / "none")) as device, pytest.raises(errors.RuntimeMissingError):
        device.session()


def test_python_without_numpy_and_runtime(engines: dict[str, Path], images: Path, tmp_path: Path) -> None:
    bare = script(tmp_path / "python", 'exec {python} -S "$@"')
    with pytest.raises(errors.RuntimeMissingError, match="numpy"):
        infer(engines["one"], images, tmp_path / "out.npz", On(python=bare))
    with connect("local", python=bare) as device, device.session() as session:
        found = session.request("probe", timeout_s=60)
        assert "onnxruntime" in found["runtimes"]
        assert not any(found["runtimes"].values())
    assert "onnxruntime" in found["unreadable"]["runtimes.onnxruntime"]


def test_noise_before_the_protocol(tmp_path: Path) -> None:
    noisy = script(tmp_path / "python", "echo Welcome; printf 'no end of line'; exec {python} \"$@\"")
    with connect("local", python=noisy) as device, device.session() as session:
        assert session.request("probe", timeout_s=60)["python"] == sys.version.split()[0]


def test_unknown_operation_is_refused_and_the_agent_goes_on() -> None:
    with connect("local") as device, device.session() as session:
        for op in ("reboot", "go"):
            with pytest.raises(errors.ProtocolError):
                session.request(op, timeout_s=60, runs=1)
        with pytest.raises(errors.ProtocolError, match="not an output of this agent"):
            session.request("get", timeout_s=60, path="/etc/passwd")
        assert session.request("state", timeout_s=60)["time_unix"] > 0


def test_root_of_the_devices_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("0.25 0.5 0.75 1/100 4242\n")
    with connect("local", root=str(tmp_path)) as device, device.session() as session:
        assert session.request("state", timeout_s=60)["load_average"] == [0.25, 0.5, 0.75]
    monkeypatch.setenv("EDGE_DEVICE_ROOT", str(tmp_path))
    with connect("local") as device, device.session() as session:
        assert session.request("state", timeout_s=60)["load_average"] == [0.25, 0.5, 0.75]
    with pytest.raises(errors.UsageError, match="absolute"):
        connect("local", root="sys")
