"""Benchmarks on this machine: real agent processes, a tiny detector."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from tests.device.paces import short
from toolchain import errors
from toolchain.device.bench import Extras, bench
from toolchain.device.session import AgentSession
from toolchain.device.settings import On

ONE = On(threads=1)


def load_samples(out: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "samples").glob("*.json")}


def test_bench_takes_turns_and_keeps_everything(engines: dict[str, Path], tmp_path: Path) -> None:
    result = bench(engines, tmp_path / "out", ONE, short(6, 5))
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
        bench(engines, tmp_path / "out", ONE, short(6, 2))
    before = load_samples(tmp_path / "out")
    assert [len(data["rounds"]) for data in before.values()] == [1, 1, 1]
    turns[0] = 100
    result = bench(engines, tmp_path / "out", ONE, short(6, 2))
    after = load_samples(tmp_path / "out")
    assert all(after[label]["rounds"][:1] == before[label]["rounds"] for label in before)
    assert turns[0] - 100 == 15
    assert (result.rounds, result.sessions) == (6, 2)
    monkeypatch.setattr("toolchain.device.bench.connect", None)  # nothing is left to measure
    assert bench(engines, tmp_path / "out", ONE, short(6, 2)) == result


def test_bench_never_mixes_two_benchmarks(engines: dict[str, Path], tmp_path: Path) -> None:
    bench(engines, tmp_path / "out", ONE, short(1, 1))
    with pytest.raises(errors.RunFolderError, match="another benchmark"):
        bench(engines, tmp_path / "out", ONE, short(1, 2))
    tinynet.save_detector(engines["two"], seed=9)
    with pytest.raises(errors.RunFolderError, match="another benchmark"):
        bench(engines, tmp_path / "out", ONE, short(1, 1))


def test_bench_of_another_device_does_not_go_on(engines: dict[str, Path], tmp_path: Path) -> None:
    bench(engines, tmp_path / "out", ONE, short(1, 1))
    path = tmp_path / "out" / "sessions.json"
    sessions = json.loads(path.read_text())
    sessions[0]["device"]["cpu_model"] = "another"
    path.write_text(json.dumps(sessions))
    with pytest.raises(errors.RunFolderError, match="another device"):
        bench(engines, tmp_path / "out", ONE, short(2, 1))


def test_bench_with_few_rounds_does_not_pass_the_control(engines: dict[str, Path], tmp_path: Path) -> None:
    result = bench(engines, tmp_path / "out", ONE, short(2, 1))
    assert not result.valid
    assert "too few" in result.reasons[0]
    alone = bench({"one": engines["one"]}, tmp_path / "alone", ONE, short(2, 3), extras=Extras(aa_control=False))
    assert alone.valid
    assert alone.control is None


@pytest.mark.parametrize("change", [{"rounds": 0}, {"runs": 0}, {"warmup_s": -1.0}, {"warmup_runs": -1}, {"pass_s": 1e6}])
def test_bad_counts_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError, match=next(iter(change))):
        short(**change)


def test_bad_threads_are_refused(engines: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="threads"):
        bench(engines, tmp_path / "out", On(threads=0), short())


@pytest.mark.parametrize("label", ["", "../x", "a b", "x.control"])
def test_bench_refuses_bad_labels(engines: dict[str, Path], tmp_path: Path, label: str) -> None:
    with pytest.raises(errors.UsageError, match="label"):
        bench({label: engines["one"]}, tmp_path / "out")
