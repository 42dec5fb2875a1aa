"""A device that lies: real conversations are recorded once and replayed with one thing in them changed.

Whatever comes, the host ends with a result it can stand for or with one of its own errors, and its terminal stays sane.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests import tinynet
from tests.device.plant_runs import FIELDS, short, target_for
from tests.lab.plant import Board, start_plant
from tests.lab.product import SHORT
from tests.lab.sense import Ina3221
from tests.lab.waveform import constant
from toolchain.device import bench as bench_module
from toolchain.device import doctor, energy
from toolchain.device import infer as infer_module
from toolchain.device import profile as profile_module
from toolchain.device.bench import Extras, bench
from toolchain.device.channel import Ended
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.infer import infer
from toolchain.device.messages import MARKER
from toolchain.device.profile import profile
from toolchain.device.remote import connect
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.errors import ToolchainError
from toolchain.predictions import Predictions
from toolchain.report.doctor_page import doctor_page

ON = On(threads=1)
Said = list[Any]  # messages and raw bytes of one session, in order
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**400, -1.5, 0.0, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\x1b[2J\x07",
    "../../etc/passwd", "/etc/passwd\n", "\ud800", [], {}, [[]], [None], {"": {}}, [0.0] * 1000,
    json.loads("[" * 200 + "]" * 200),
]  # fmt: skip


def record(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> list[Said]:
    """What each session of the device says while `work` runs, in the order the sessions were opened."""
    sessions: list[Said] = []
    message, raw, order = AgentSession.message, AgentSession.raw, AgentSession._order

    def ordered(self: AgentSession, *rest: Any) -> Any:
        self.said = []  # type: ignore[attr-defined]
        sessions.append(self.said)  # type: ignore[attr-defined]
        return order(self, *rest)

    def heard(self: AgentSession, *rest: Any) -> Any:
        found = message(self, *rest)
        self.said.append(copy.deepcopy(found))  # type: ignore[attr-defined]
        return found

    def bytes_heard(self: AgentSession, *rest: Any) -> bytes:
        found = raw(self, *rest)
        self.said.append(found)  # type: ignore[attr-defined]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(AgentSession, "_order", ordered)
        patch.setattr(AgentSession, "message", heard)
        patch.setattr(AgentSession, "raw", bytes_heard)
        work()
    return [[one for one in said if not (isinstance(one, dict) and "need" in one)] for said in sessions]


class Replayed:
    """A process that says what was recorded, whatever it is asked, and then ends."""

    quiet = False

    def __init__(self, said: Said) -> None:
        self.blocks = [one if isinstance(one, bytes) else MARKER + text(one) + b"\n" for one in said]

    def read(self, timeout_s: float) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""

    def write(self, data: bytes, timeout_s: float) -> None:
        pass

    def keep(self, every_s: float) -> None:
        pass

    def finish(self, timeout_s: float) -> Ended:
        return Ended(0, None, "")

    def kill(self) -> None:
        pass


def text(message: Any) -> bytes:
    return message.encode("utf-8", "surrogatepass") if isinstance(message, str) else json.dumps(message).encode()


class ReplayedDevice:
    name = "local"

    def __init__(self, sessions: list[Said]) -> None:
        self.said = list(sessions)

    def session(self) -> AgentSession:
        return self.sessions(1)[0]

    def sessions(self, count: int) -> list[AgentSession]:
        said = [self.said.pop(0) if self.said else [] for _ in range(count)]
        return [session.greeted() for session in [AgentSession(Replayed(one), self.name, local=True) for one in said]]

    def __enter__(self) -> ReplayedDevice:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something can be changed: every key and the first and last entry of every list."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from places(value[index], (*path, index))


def change(data: st.DataObject, sessions: list[Said]) -> list[Said]:
    """One lie, anywhere."""
    lying = copy.deepcopy(sessions)
    said = lying[data.draw(st.integers(0, len(lying) - 1))]
    index = data.draw(st.integers(0, len(said) - 1))
    how = data.draw(st.sampled_from(["put", "put", "put", "drop", "double", "grow", "bytes", "silence", "swap"]))
    if how == "silence":
        del said[index:]
    elif how == "double":
        said.insert(index, copy.deepcopy(said[index]))
    elif how == "swap":
        other = data.draw(st.integers(0, len(said) - 1))
        said[index], said[other] = said[other], said[index]
    elif how == "bytes" or isinstance(said[index], bytes):
        said[index] = data.draw(st.binary(max_size=300)) + b"\n"
    else:
        path = data.draw(st.sampled_from(sorted(places(said[index]), key=repr)))
        if not path:
            said[index] = data.draw(st.sampled_from(HOSTILE[:-1]))
            return lying
        holder = said[index]
        for step in path[:-1]:
            holder = holder[step]
        if how == "put":
            holder[path[-1]] = data.draw(st.sampled_from(HOSTILE))
        elif how == "drop":
            del holder[path[-1]]
        elif isinstance(holder[path[-1]], (int, float)) and not isinstance(holder[path[-1]], bool):
            holder[path[-1]] *= data.draw(st.sampled_from([-1, 0, 2, 1000]))
        else:
            holder[path[-1]] = [holder[path[-1]]] * 3
    return lying


@contextlib.contextmanager
def only_own_errors() -> Iterator[None]:
    shown = ""
    try:
        yield
    except ToolchainError as error:
        shown = str(error)
    assert all(c.isprintable() or c == "\n" for c in shown), repr(shown)
    assert len(shown) < 10_000


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder inside another, which must stay as it is."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path)
    tinynet.save_detector(tmp_path / "engine.onnx", batch="batch")
    np.save(tmp_path / "images.npy", tinynet.pictures(100))
    return tmp_path / "inside"


few = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def lies(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, said: list[Said], work: Callable[[], Any], right: Callable[[Any], None]
) -> None:
    """`work` against one lie after the other: a result that is `right`, or an error of ours."""
    monkeypatch.setattr(module, "connect", lambda *_, **__: ReplayedDevice(said))
    right(work())  # the replay itself works

    @settings(few, max_examples=60)
    @given(st.data())
    def lied_to(data: st.DataObject) -> None:
        lying = change(data, said)
        monkeypatch.setattr(module, "connect", lambda *_, **__: ReplayedDevice(lying))
        with only_own_errors():
            right(work())

    lied_to()


def test_inference(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, images, out = place.parent / "engine.onnx", place.parent / "images.npy", place / "out.npz"
    said = record(monkeypatch, lambda: infer(engine, images, out, ON))
    good, around = Predictions.load(out), sorted(path.name for path in place.parent.iterdir())
    monkeypatch.setattr(infer_module, "connect", lambda *_, **__: ReplayedDevice(said))
    infer(engine, images, out, ON)  # the replay itself works

    @few
    @given(st.data())
    def lied_to(data: st.DataObject) -> None:
        lying = change(data, said)
        monkeypatch.setattr(infer_module, "connect", lambda *_, **__: ReplayedDevice(lying))
        out.unlink(missing_ok=True)
        with only_own_errors():
            result = infer(engine, images, out, ON)
            assert result.images == 100
            np.testing.assert_array_equal(Predictions.load(out).rows, good.rows)  # its hash was checked
        assert sorted(path.name for path in place.parent.iterdir()) == around

    lied_to()


def test_benchmark(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "PAUSE_S", 0.0)
    pace = replace(SHORT, rounds=2)
    number = [0]

    def run() -> Any:
        number[0] += 1
        return bench(
            {"one": place.parent / "engine.onnx"}, place / str(number[0]), ON, pace, extras=Extras(aa_control=False), imgsz=32
        )

    said = record(monkeypatch, run)
    around = sorted(path.name for path in place.parent.iterdir())
    monkeypatch.setattr(bench_module, "connect", lambda *_, **__: ReplayedDevice(said))
    run()

    @settings(few, max_examples=60)
    @given(st.data())
    def lied_to(data: st.DataObject) -> None:
        lying = change(data, said)
        monkeypatch.setattr(bench_module, "connect", lambda *_, **__: ReplayedDevice(lying))
        with only_own_errors():
            latency = run().engines["one"].latency_ms
            assert latency.n >= 2 * pace.runs
            assert latency.p50.value is None or 0 < latency.p50.value < float("inf")
        assert sorted(path.name for path in place.parent.iterdir()) == around

    lied_to()


def test_profile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Any:
        return profile(place.parent / "engine.onnx", ON, runs=2, warmup_runs=1, imgsz=32)

    def right(nodes: Any) -> None:
        assert all(0 <= node.min_ms <= node.mean_ms < float("inf") for node in nodes)

    lies(profile_module, monkeypatch, record(monkeypatch, run), run, right)


def test_examination(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = record(monkeypatch, doctor.examine)

    @settings(few, max_examples=60)
    @given(st.data())
    def lied_to(data: st.DataObject) -> None:
        lying = change(data, said)
        monkeypatch.setattr(doctor, "connect", lambda *_, **__: ReplayedDevice(lying))
        console = Console(file=io.StringIO(), width=80)
        with only_own_errors():
            exam = doctor.examine().to_json()
            json.dumps(exam, allow_nan=False)
            console.print(doctor_page(exam))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert all(c.isprintable() or c == "\n" for c in shown), repr(shown)

    lied_to()


def test_energy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(place / "cache"))  # a window that is not taken home stays there for a day
    board, number = Board(place.parent / "board", constant(6.0), sensor=Ina3221(0.1), rails={"VDD_IN": 1.0}), [0]
    request = EnergyRequest(repeats=1, rate_hz=20.0, phases=short(idle_s=0.6, lead_in_s=0.2, window_s=0.6, updates=3))
    target, engine = target_for(board), place.parent / "engine.onnx"

    def measured_on(device: Any) -> Any:
        number[0] += 1
        fields = {"one": {**FIELDS, "imgsz": 32}}
        return energy.measure(
            device, {"one": engine}, place / str(number[0]), request, target=target, fields=fields, imgsz=32
        )["one"]  # fmt: skip

    def measure() -> None:
        with start_plant(place.parent / "plant", {"b": board}), connect("local", root=str(board.root)) as device:
            measured_on(device)

    said = record(monkeypatch, measure)
    around = sorted(path.name for path in place.parent.iterdir())
    measured_on(ReplayedDevice(said))  # the replay itself works

    @settings(few, max_examples=60)
    @given(st.data())
    def lied_to(data: st.DataObject) -> None:
        with only_own_errors():
            result = measured_on(ReplayedDevice(change(data, said)))
            json.dumps(result.to_json(), allow_nan=False)
            assert result.valid == (result.energy_total_mj is not None)
        assert sorted(path.name for path in place.parent.iterdir()) == around

    lied_to()


@given(st.lists(st.binary(max_size=200), max_size=8))
@settings(few, max_examples=200)
def test_any_bytes_at_all(blocks: list[bytes]) -> None:
    session = AgentSession(Replayed([HELLO]), "dev", local=False).greeted()
    session._channel.blocks += [block or b"\n" for block in blocks]  # type: ignore[attr-defined]
    with only_own_errors():
        session.request("probe", timeout_s=1)


HELLO = {"hello": {"protocol": 2, "python": "3.6.9", "arch": "aarch64", "pid": 7, "boot_id": None, "oom_kills": None}}


def test_recording_is_complete(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with connect("local") as device, device.session() as session:
            session.request("state", timeout_s=60)

    ((hello, state),) = record(monkeypatch, work)
    assert "hello" in hello
    assert "ok" in state
