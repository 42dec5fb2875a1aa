"""Engines shared out among devices of one model: each once, a dead device's go to the others, unlike devices are refused."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from toolchain.device import sharing
from toolchain.device.settings import On
from toolchain.device.sharing import sweep_shared
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import DeviceError, MeasurementError, UnreachableError, UsageError

PROBE: dict[str, Any] = {
    "arch": "aarch64", "cpu_model": "Cortex-A76", "cpu_flags": ["asimd"], "cores": 4, "board": "Raspberry Pi 5", "hostname": "pi",
    "runtimes": {"onnxruntime": {"version": "1.20"}}, "state": {"boot_id": None, "power_mode": None},
}  # fmt: skip


class Boards:
    """Made devices: their probes, their ratios, and after how many engines one dies."""

    def __init__(self) -> None:
        self.probes: dict[str, Any] = {}
        self.ratio: dict[str, float] = {}
        self.dies_after: dict[str, int] = {}
        self.timed: list[tuple[str, str]] = []

    def probe(self, host: str, python: str | None = None) -> Any:
        if self.dies_after.get(host) == -1:
            raise UnreachableError("no route", got=host)
        return self.probes.get(host, PROBE)

    def measure(
        self, engines: Iterable[Candidate], reference: Path, on: On, earlier_ms: Sequence[float] = ()
    ) -> Iterator[Timing]:
        for done, one in enumerate(engines):
            one.make()
            if self.dies_after.get(on.host) == done:
                raise UnreachableError("the power is gone", got=on.host)
            time.sleep(0.01)
            self.timed.append((on.host, one.label))
            ratio = self.ratio.get(on.host, 0.5)
            yield Timing(one.label, one.about, "", ratio, 0.001, True, [ratio], [1.0], 1)


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> Boards:
    made = Boards()
    monkeypatch.setattr(sharing, "probe", made.probe)
    monkeypatch.setattr(sharing, "measure", made.measure)
    return made


def share(folder: Path, hosts: list[str], count: int = 8) -> list[Timing]:
    engines = [Candidate(f"e{i}", lambda: folder / "x.onnx", {"i": i}) for i in range(count)]
    return sweep_shared(engines, folder / "r.onnx", folder / "t.jsonl", on=On(patience_s=0), hosts=hosts, identity="r")


def written(folder: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]
    return [(row["on"]["host"], row["label"]) for row in rows]


def test_each_engine_is_timed_once_and_all_devices_work(boards: Boards, tmp_path: Path) -> None:
    found = share(tmp_path, ["a", "b", "c"])
    assert [one.about["i"] for one in found] == list(range(8))
    assert sorted(label for _, label in written(tmp_path)) == sorted(f"e{i}" for i in range(8))
    assert {host for host, _ in written(tmp_path)} == {"a", "b", "c"}
    boards.timed.clear()
    assert share(tmp_path, ["a", "b", "c"]) == found
    assert boards.timed == []


def test_a_dead_device_leaves_its_engines_to_the_others(boards: Boards, tmp_path: Path) -> None:
    boards.dies_after["b"] = 1
    share(tmp_path, ["a", "b"])
    assert sorted(label for _, label in written(tmp_path)) == sorted(f"e{i}" for i in range(8))
    assert [host for host, _ in written(tmp_path)].count("b") == 1


def test_an_engine_in_the_hands_of_the_last_to_work_is_not_forgotten(
    boards: Boards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One device dies when the other has found nothing left to do."""
    taken, ended, real = threading.Event(), threading.Event(), boards.measure

    def measure(engines: Iterable[Candidate], reference: Path, on: On, earlier_ms: Sequence[float] = ()) -> Iterator[Timing]:
        if on.host == "b":
            next(iter(engines))
            taken.set()
            assert ended.wait(10)
            raise UnreachableError("the power is gone", got="b")
        assert taken.wait(10)
        yield from real(engines, reference, on)
        ended.set()

    monkeypatch.setattr(sharing, "measure", measure)
    monkeypatch.setattr(sharing, "_check_agreement", lambda engine, reference, on, hosts: hosts)
    assert [one.about["i"] for one in share(tmp_path, ["a", "b"], count=5)] == list(range(5))
    assert [host for host, _ in written(tmp_path)] == ["a"] * 5


def test_a_device_that_was_never_there_is_left_out(boards: Boards, tmp_path: Path) -> None:
    boards.dies_after["b"] = -1
    share(tmp_path, ["a", "b"])
    assert {host for host, _ in written(tmp_path)} == {"a"}


def test_when_all_are_dead_what_was_timed_is_kept(boards: Boards, tmp_path: Path) -> None:
    boards.dies_after = {"a": 2, "b": 1}
    with pytest.raises(DeviceError, match="2 of 2 devices"):
        share(tmp_path, ["a", "b"])
    assert len(written(tmp_path)) == 3
    boards.dies_after.clear()
    boards.timed.clear()
    assert len(share(tmp_path, ["a", "b"])) == 8
    assert len(written(tmp_path)) == 8


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("cpu_model", "Cortex-A72", "cpu_model: 'Cortex-A76' on a, 'Cortex-A72' on b"),
        ("board", "Raspberry Pi 4", "board: "),
        ("runtimes", {"onnxruntime": {"version": "1.18"}}, "onnxruntime: '1.20' on a, '1.18' on b"),
        ("state", {"boot_id": None, "power_mode": {"name": "15W"}}, "power mode: None on a, '15W' on b"),
    ],
)
def test_devices_that_differ_are_refused(boards: Boards, tmp_path: Path, key: str, value: Any, text: str) -> None:
    boards.probes["b"] = {**PROBE, key: value}
    with pytest.raises(UsageError, match="devices that differ") as raised:
        share(tmp_path, ["a", "b"])
    assert text in str(raised.value)
    assert boards.timed == []


def test_two_names_of_one_device_are_refused(boards: Boards, tmp_path: Path) -> None:
    same = copy.deepcopy(PROBE)
    same["state"]["boot_id"] = "1234"
    boards.probes = {"b": same, "c": same}
    with pytest.raises(UsageError, match=r"two names of one device\n.*b and c"):
        share(tmp_path, ["a", "b", "c"])


def test_devices_that_disagree_are_refused(boards: Boards, tmp_path: Path) -> None:
    boards.ratio["b"] = 0.52
    with pytest.raises(MeasurementError, match="differ by more than 2%"):
        share(tmp_path, ["a", "b"])
    assert not (tmp_path / "t.jsonl").exists()


def test_a_single_engine_is_timed_on_the_first(boards: Boards, tmp_path: Path) -> None:
    share(tmp_path, ["a", "b"], count=1)
    assert boards.timed == [("a", "e0")]
