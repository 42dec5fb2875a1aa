"""The whole way on this machine: real agent processes, a tiny detector."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from tests.lab.sshd import script
from toolchain import errors
from toolchain.device.bench import bench
from toolchain.device.infer import infer
from toolchain.device.remote import connect
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.predictions import Predictions, candidates

ONE = On(threads=1)
QUICK: dict[str, Any] = {"on": ONE, "warmup_runs": 2, "warmup_s": 0.0, "timeout_s": 60.0}


def load_samples(out: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "samples").glob("*.json")}


def test_bench_takes_turns_and_keeps_everything(engines: dict[str, Path], tmp_path: Path) -> None:
    result = bench(engines, tmp_path / "out", rounds=6, runs=5, **QUICK)
    samples = load_samples(tmp_path / "out")
    assert set(samples) == {"one", "two", "one.control"}
    spans = []
    for label, data in samples.items():
        assert [len(entry["latency_ms"]) for entry in data["rounds"]] == [5] * 6
        for number, entry in enumerate(data["rounds"]):
            spans.append(
                (entry["start_s"][0], entry["start_s"][-1] + entry["latency_ms"][-1] / 1000, label, number, entry["position"])
            )
    spans.sort()
    for (_, end, *_), (start, *_) in pairwise(spans):
        assert end < start, "two engines worked at the same time"
    assert [number for *_, number, _ in spans] == [number for number in range(6) for _ in range(3)]
    assert [position for *_, position in spans] == [0, 1, 2] * 6
    assert [label for *_, label, _, _ in spans][:6] == ["one", "two", "one.control", "one.control", "two", "one"]
    assert list(result.engines) == ["one", "two"]
    assert result.engines["one"].speedup is None
    speedup = result.engines["two"].speedup
    assert speedup is not None
    assert speedup.rounds == 6
    assert result.control is not None
    assert result.valid == result.control.contains(1)
    assert result.engines["two"].latency_ms.n == 30
    assert result.engines["two"].size_bytes == engines["two"].stat().st_size
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == json.loads(json.dumps(result.to_json()))


def test_bench_goes_on_after_a_lost_link(engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, turns = AgentSession.request, [0]

    def request(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        turns[0] += op == "go"
        if op == "go" and turns[0] == 6:  # round 1, turn 3: after two whole turns of that round
            raise errors.ConnectionLostError("cut")
        return original(self, op, **fields)

    monkeypatch.setattr(AgentSession, "request", request)
    with pytest.raises(errors.ConnectionLostError):
        bench(engines, tmp_path / "out", rounds=6, runs=2, **QUICK)
    before = load_samples(tmp_path / "out")
    assert [len(data["rounds"]) for data in before.values()] == [1, 1, 1]
    turns[0] = 100
    result = bench(engines, tmp_path / "out", rounds=6, runs=2, **QUICK)
    after = load_samples(tmp_path / "out")
    assert all(after[label]["rounds"][:1] == before[label]["rounds"] for label in before)
    assert turns[0] - 100 == 15
    assert (result.rounds, result.sessions) == (6, 2)
    monkeypatch.setattr("toolchain.device.bench.connect", None)  # nothing is left to measure
    assert bench(engines, tmp_path / "out", rounds=6, runs=2, **QUICK) == result


def test_bench_never_mixes_two_benchmarks(engines: dict[str, Path], tmp_path: Path) -> None:
    bench(engines, tmp_path / "out", rounds=1, runs=1, **QUICK)
    with pytest.raises(errors.RunFolderError, match="another benchmark"):
        bench(engines, tmp_path / "out", rounds=1, runs=2, **QUICK)
    tinynet.save_detector(engines["two"], seed=9)
    with pytest.raises(errors.RunFolderError, match="another benchmark"):
        bench(engines, tmp_path / "out", rounds=1, runs=1, **QUICK)


def test_bench_of_another_device_does_not_go_on(engines: dict[str, Path], tmp_path: Path) -> None:
    bench(engines, tmp_path / "out", rounds=1, runs=1, **QUICK)
    path = tmp_path / "out" / "sessions.json"
    sessions = json.loads(path.read_text())
    sessions[0]["device"]["cpu_model"] = "another"
    path.write_text(json.dumps(sessions))
    with pytest.raises(errors.RunFolderError, match="another device"):
        bench(engines, tmp_path / "out", rounds=2, runs=1, **QUICK)


def test_bench_with_few_rounds_does_not_pass_the_control(engines: dict[str, Path], tmp_path: Path) -> None:
    result = bench(engines, tmp_path / "out", rounds=2, runs=1, **QUICK)
    assert not result.valid
    assert "too few" in result.reasons[0]
    alone = bench({"one": engines["one"]}, tmp_path / "alone", rounds=2, runs=3, aa_control=False, **QUICK)
    assert alone.valid
    assert alone.control is None


@pytest.mark.parametrize(
    "change",
    [{"rounds": 0}, {"runs": 0}, {"on": On(threads=0)}, {"warmup_s": -1.0}, {"warmup_runs": -1}],
    ids=lambda change: next(iter(change)),
)
def test_bench_refuses_bad_counts(engines: dict[str, Path], tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError, match=next(iter(change)).replace("on", "threads")):
        bench(engines, tmp_path / "out", **{**QUICK, **change})


@pytest.mark.parametrize("label", ["", "../x", "a b", "x.control"])
def test_bench_refuses_bad_labels(engines: dict[str, Path], tmp_path: Path, label: str) -> None:
    with pytest.raises(errors.UsageError, match="label"):
        bench({label: engines["one"]}, tmp_path / "out")


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
        bench(engines, tmp_path / "out", **{**QUICK, "on": On(provider="TensorrtExecutionProvider")})


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
    assert found["runtimes"] == {"onnxruntime": None}
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
