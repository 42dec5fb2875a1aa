"""The device itself is in trouble: its disk, its memory, its processes, its clock, its Python, its login scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tinynet
from tests.lab.box import Box
from tests.lab.clock import YEAR_S, python_with_clock
from tests.lab.fake import boards
from tests.lab.faults import DEV, Rounds, Told, hasten, listen, measure, measured, nothing_lost, nothing_runs, struck, whole
from tests.lab.sshd import Sshd, script, start_sshd
from toolchain import errors, requests
from toolchain.device import session as session_module
from toolchain.device.infer import infer
from toolchain.device.recover import recover
from toolchain.predictions import Predictions

SHOUT = "ForceCommand echo Welcome; echo '{\"id\": 1}'; printf '\\036edge last login: '; eval \"$SSH_ORIGINAL_COMMAND\""
HERE = replace(DEV, python=sys.executable)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the device is this machine; a box has a home folder of its own."""
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    hasten(monkeypatch)
    return listen(monkeypatch)


def ssh(box: Box, command: str) -> str:
    words = ["ssh", "-F", str(box.config), "-o", "BatchMode=yes", "dev", command]
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60).stdout


def test_full_disk(make_box: Callable[..., Box], told: Told, tmp_path: Path) -> None:
    box = make_box(disk="16m")
    measure(tmp_path, rounds=2)
    kept = measured(tmp_path)
    ssh(box, "head -c 15500000 /dev/zero > /var/full")
    np.save(tmp_path / "images.npy", tinynet.pictures(1000))
    engine = tmp_path / "one.onnx"
    with pytest.raises(errors.DiskFullError, match=r"(?s)no space left on the device.*MB are needed"):
        recover(lambda: infer(engine, tmp_path / "images.npy", tmp_path / "out.npz", DEV), DEV)
    assert told.notes == [], "that is not tried again and again"
    assert nothing_lost(kept, tmp_path)
    ssh(box, "rm /var/full")
    assert recover(lambda: infer(engine, tmp_path / "images.npy", tmp_path / "out.npz", DEV), DEV).images == 1000
    assert measure(tmp_path, rounds=4).rounds == 4
    assert nothing_lost(kept, tmp_path)


def hungry(path: Path) -> Path:
    """A detector that takes 800 MB of memory."""
    shape = numpy_helper.from_array(np.array([200, 1024, 1024], dtype=np.int64), "shape")
    output = numpy_helper.from_array(np.zeros((1, 7, 16), dtype=np.float32), "zeros")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "shape"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0),
        helper.make_node("Add", ["zeros", "most"], ["output0"]),
    ]
    ends = [("images", [1, 3, 32, 32]), ("output0", [1, 7, 16])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in ends]
    graph = helper.make_graph(nodes, "hungry", values[:1], values[1:], [shape, output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_out_of_memory(make_box: Callable[..., Box], told: Told, tmp_path: Path) -> None:
    make_box(memory="400M")
    measure(tmp_path, rounds=2)
    kept = measured(tmp_path)
    np.save(tmp_path / "images.npy", tinynet.pictures(3))
    large = hungry(tmp_path / "large.onnx")
    with pytest.raises(errors.OutOfMemoryError, match=r"(?s)killed.*out of memory"):
        recover(lambda: infer(large, tmp_path / "images.npy", tmp_path / "out.npz", DEV), DEV)
    assert told.asked.count("infer") == 1, "it would only be killed again"
    assert measure(tmp_path, rounds=4).rounds == 4
    assert nothing_lost(kept, tmp_path)


def test_killed_agent(lab_box: Box, told: Told, tmp_path: Path) -> None:
    kept: Rounds = {}
    with (
        struck(lambda: whole(tmp_path) >= 2, lambda: (kept.update(measured(tmp_path)), lab_box.kill("python")), bool, 0),
        pytest.raises(errors.DeviceError, match="killed by someone") as caught,
    ):
        measure(tmp_path)
    assert type(caught.value) is errors.DeviceError
    assert told.notes == []
    assert measure(tmp_path).rounds == 12
    assert nothing_lost(kept, tmp_path)


def test_crash_of_everything_on_it(lab_box: Box, told: Told, tmp_path: Path) -> None:
    with (
        struck(lambda: whole(tmp_path) >= 2, lab_box.crash, bool, 0),
        pytest.raises(errors.ConnectionLostError, match=r"(?s)the link was cut; waited \d s.*refused"),
    ):
        measure(tmp_path, replace(DEV, patience_s=2.0))
    assert whole(tmp_path) >= 2


def test_corrupted_upload(lab_ssh: Sshd, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(tmp_path, HERE, rounds=2)
    kept, original = measured(tmp_path), session_module.AgentSession.send_raw
    engine, images = tinynet.save_detector(tmp_path / "three.onnx", seed=3), tmp_path / "images.npy"
    np.save(images, tinynet.pictures(3))
    with monkeypatch.context() as patch:
        zeros = lambda self, data, *rest, **more: original(self, bytes(len(data)), *rest, **more)  # noqa: E731
        patch.setattr(session_module.AgentSession, "send_raw", zeros)
        with pytest.raises(errors.ProtocolError, match=r"(?s)did not arrive whole.*damaged"):
            recover(lambda: infer(engine, images, tmp_path / "out.npz", HERE), HERE)
    assert nothing_lost(kept, tmp_path)
    assert infer(engine, images, tmp_path / "out.npz", HERE).images == 3


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_clock_that_jumps(lab_ssh: Sshd, told: Told, tmp_path: Path, jump_s: float) -> None:
    """The board's clock is set, by a year, again and again: nothing is timed by it, no file is thrown away or kept for ever."""
    python = python_with_clock(tmp_path / "shim", 0.0, jump_s)
    result = measure(tmp_path, replace(DEV, python=python), rounds=6)
    assert (result.rounds, result.sessions) == (6, 1)
    for rounds in measured(tmp_path).values():
        for one in rounds:
            assert all(0 < ms < 10_000 for ms in one["latency_ms"])
    np.save(tmp_path / "images.npy", tinynet.pictures(200))
    on = replace(DEV, python=python)
    infer(tmp_path / "one.onnx", tmp_path / "images.npy", tmp_path / "out.npz", on)
    assert len(Predictions.load(tmp_path / "out.npz").counts) == 200


def test_noise_of_login_scripts(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_sshd(tmp_path / "noisy", SHOUT)
    try:
        monkeypatch.setenv("EDGE_SSH_CONFIG", str(server.config))
        assert measure(tmp_path, HERE, rounds=2).rounds == 2
    finally:
        server.end()


def test_login_script_without_end(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_sshd(tmp_path / "noisy", "ForceCommand yes 'this login script never ends'")
    try:
        monkeypatch.setenv("EDGE_SSH_CONFIG", str(server.config))
        with pytest.raises(errors.ProtocolError, match=r"(?s)too much output.*never ends"):
            measure(tmp_path, HERE, rounds=2)
    finally:
        server.end()


def test_runtime_missing(lab_ssh: Sshd, told: Told, tmp_path: Path) -> None:
    measure(tmp_path, HERE, rounds=2)
    kept = measured(tmp_path)
    bare = script(tmp_path / "python", 'exec {python} -S "$@"')
    np.save(tmp_path / "images.npy", tinynet.pictures(3))
    with pytest.raises(errors.RuntimeMissingError, match=r"(?s)not installed there.*pip install"):
        recover(
            lambda: infer(tmp_path / "one.onnx", tmp_path / "images.npy", tmp_path / "out.npz", replace(DEV, python=bare)), HERE
        )
    assert nothing_lost(kept, tmp_path)


def test_runtime_of_another_version(lab_ssh: Sshd, told: Told, tmp_path: Path) -> None:
    measure(tmp_path, HERE, rounds=2)
    kept = measured(tmp_path)
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text("import onnxruntime\nonnxruntime.__version__ = '0.0.1'\n")
    python = script(tmp_path / "python", f'PYTHONPATH={tmp_path}/shim exec {{python}} "$@"')
    with pytest.raises(errors.RunFolderError, match=r"(?s)another device.*0\.0\.1"):
        measure(tmp_path, replace(DEV, python=python), rounds=4)
    assert nothing_lost(kept, tmp_path)
    assert measure(tmp_path, HERE, rounds=4).rounds == 4


def test_agents_are_gone_after_every_end(lab_box: Box, tmp_path: Path) -> None:
    measure(tmp_path, rounds=1)
    assert nothing_runs(lab_box)
    assert ssh(lab_box, "ls -A ~") == ".cache\n", "nothing outside the agent's own folder"
    assert ssh(lab_box, "ls -A ~/.cache") == "edge-toolchain\n"
    assert os.listdir(tmp_path / "bench"), "and what was measured is here"


def test_throttling_in_mid_window(lab_ssh: Sshd, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.plant("orin-nano", tmp_path / "board")
    monkeypatch.setenv("EDGE_DEVICE_ROOT", str(board))
    (counter,) = board.glob("sys/class/hwmon/*/oc1_event_cnt")
    kept: Rounds = {}

    def throttle() -> None:
        kept.update(measured(tmp_path))
        counter.write_text("3\n")

    with struck(lambda: whole(tmp_path) >= 2, throttle, bool, 0):
        result = measure(tmp_path, HERE)
    assert not result.valid
    assert any("throttled" in reason and "oc1" in reason and "0 to 3" in reason for reason in result.unstable), result.unstable
    assert result.rounds == 12, "all of it stays to be looked at"
    assert nothing_lost(kept, tmp_path)
    with pytest.raises(errors.MeasurementError, match="oc1"):
        requests.check_usable(result.to_json())
