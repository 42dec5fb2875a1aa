"""Benchmarks on this machine: real agent processes, a tiny detector."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from tests.device.paces import short
from tests.helpers import tiny_dataset
from tests.lab.sshd import Sshd
from toolchain import cli, errors, requests, verbs
from toolchain.device import bundle
from toolchain.device.bench import Extras, bench
from toolchain.device.bundle_files import infer as shipped
from toolchain.device.conditions import Conditions
from toolchain.device.end_to_end import Picture
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.pace import Pace
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.measurement.record import read_records
from toolchain.stage import file_sha256

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


def whole_pace(**changes: Any) -> Pace:
    return short(end_to_end=True, **changes)


def test_whole_detections_are_timed_apart(engines: dict[str, Path], tmp_path: Path) -> None:
    picture = Picture(height=60, width=80)
    result = bench(engines, tmp_path / "out", ONE, whole_pace(runs=3), extras=Extras(picture=picture))
    one, two = (result.engines[label].end_to_end for label in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.speedup is None
    assert two.speedup is not None
    assert two.speedup.rounds == 6
    assert one.picture_shape == [60, 80, 3]
    assert one.latency_ms.n == 18
    data = json.loads((tmp_path / "out" / one.samples).read_text())
    assert one.samples == "end-to-end/one.json"
    for entry in data["rounds"]:
        for whole, *parts in zip(
            *(entry[key] for key in ("latency_ms", "prepare_ms", "inference_ms", "suppress_ms")), strict=True
        ):
            assert whole == pytest.approx(sum(parts), abs=1e-3)
    assert {path.name for path in (tmp_path / "out" / "end-to-end").iterdir()} == {"one.json", "two.json"}
    assert result.settings["picture"]["height"] == 60


def test_whole_detections_of_a_picture_find_what_the_network_finds(engines: dict[str, Path], tmp_path: Path) -> None:
    bright = np.ascontiguousarray(tinynet.pictures(1)[0].transpose(1, 2, 0))
    np.save(tmp_path / "picture.npy", bright)
    picture = Picture(tmp_path / "picture.npy")
    result = bench(engines, tmp_path / "out", ONE, whole_pace(rounds=1), extras=Extras(picture=picture))
    found = result.engines["one"].end_to_end
    assert found is not None
    decoded = tinynet.expected(tinynet.pictures(1))[0]
    wanted = shipped.suppress(decoded, bundle.MIN_SCORE, bundle.NMS_IOU, bundle.MAX_DETECTIONS)[0]
    assert found.boxes == len(wanted) > 0
    assert result.settings["picture"]["sha256"] == file_sha256(picture.file)


def test_whole_detections_go_on_where_they_were(
    engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, passes = AgentSession.request, [0]

    def request(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        passes[0] += op == "whole"
        if op == "whole" and passes[0] == 4:
            raise errors.ConnectionLostError("cut")
        return original(self, op, **fields)

    monkeypatch.setattr(AgentSession, "request", request)
    with pytest.raises(errors.ConnectionLostError):
        bench(engines, tmp_path / "out", ONE, whole_pace())
    passes[0] = 100
    result = bench(engines, tmp_path / "out", ONE, whole_pace())
    assert passes[0] - 100 == 10
    assert result.rounds == 6
    assert result.sessions == 2


def test_more_rounds_may_follow_but_no_other_passes(engines: dict[str, Path], tmp_path: Path) -> None:
    bench(engines, tmp_path / "out", ONE, short(1, 2))
    assert bench(engines, tmp_path / "out", ONE, short(3, 2)).rounds == 3
    with pytest.raises(errors.RunFolderError, match=r"pace\.lead_runs is 1, was 0"):
        bench(engines, tmp_path / "out", ONE, short(3, 2, lead_runs=1))


def test_passes_take_their_time_and_the_warm_up_is_told(engines: dict[str, Path], tmp_path: Path) -> None:
    result = bench(engines, tmp_path / "out", ONE, short(2, 3, pass_s=0.05, warmup_runs=7, settle_cap_s=0.3))
    one = result.engines["one"]
    for entry in load_samples(tmp_path / "out")["one"]["rounds"]:
        assert entry["start_s"][-1] + entry["latency_ms"][-1] / 1000 - entry["start_s"][0] >= 0.049
    assert one.warmup["runs"] >= 25
    assert one.warmup["stopped"] in ("steady", "cap")
    assert one.input_shape == [1, 3, 32, 32]
    assert one.gpu_mb is None
    assert one.gpu_reason
    assert one.energy["reason"] == "not_requested"


def test_a_device_that_is_not_the_one_named(engines: dict[str, Path], tmp_path: Path) -> None:
    on = On(threads=1, target="jetson-nano")
    with pytest.raises(errors.MeasurementError, match="is not a jetson-nano"):
        bench(engines, tmp_path / "out", on, short(1))
    result = bench(engines, tmp_path / "out", on, short(1), conditions=Conditions(keep_unstable=True))
    assert any(flag.startswith("not the device named") for flag in result.flags)
    assert result.target == {"name": "jetson-nano", "verified_on_hardware": False}


def throttling(monkeypatch: pytest.MonkeyPatch, *, live: int = 0) -> None:
    """A device whose counter grows with every look at it."""
    original, looks = AgentSession.request, [0]

    def request(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        answer = original(self, op, **fields)
        if op == "state":
            looks[0] += 1
            answer["throttle"] = {
                "oc1": {"kind": "count", "value": looks[0], "fatal": True, "source": "/sys/x"},
                "hot": {"kind": "live", "value": live, "fatal": True, "source": "/sys/y"},
            }
        return answer

    monkeypatch.setattr(AgentSession, "request", request)


def test_a_run_in_which_the_device_throttled_is_no_record(
    engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttling(monkeypatch)
    for keep in (False, True):
        out = tmp_path / str(keep)
        result = verbs.bench(engines, out, on=ONE, pace=short(), conditions=Conditions(keep_unstable=keep))
        assert not result.valid
        assert "oc1" in result.unstable[0]
        assert set(result.unstable) <= set(result.reasons)
        records = read_records(out / "records.jsonl")
        assert bool(records) == keep
        assert all(not one.valid and "oc1" in one.reasons[0] for one in records if one.kind == "latency")
        data = json.loads((out / "bench.json").read_text())
        if keep:
            requests.check_usable(data)
        else:
            with pytest.raises(errors.MeasurementError, match="oc1"):
                requests.check_usable(data)


def test_a_device_that_throttles_already_is_refused(
    engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttling(monkeypatch, live=1)
    with pytest.raises(errors.MeasurementError, match="slowed down"):
        bench(engines, tmp_path / "out", ONE, short())


def test_records_say_what_makes_them_true(engines: dict[str, Path], tmp_path: Path) -> None:
    asked = {
        "conditions": Conditions(keep_unstable=True),
        "command": "toolchain bench",
        "extras": Extras(picture=Picture(None, 40, 50)),
    }
    verbs.bench(engines, tmp_path / "out", on=ONE, pace=whole_pace(), **asked)
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert [(one.subject, one.kind) for one in records] == [
        (label, kind) for label in ("one", "two") for kind in ("latency", "end_to_end", "size")
    ]
    latency = records[3]
    assert latency.subject_sha256 == file_sha256(engines["two"])
    assert latency.versions["onnxruntime"] == latency.extra["runtime_version"]
    assert latency.samples_path == "samples/two.json"
    assert latency.state_before["boot_id"]
    assert latency.state_after["boot_id"]
    assert latency.extra["command"] == "toolchain bench"
    assert latency.extra["pace"]["name"] == "quick"
    assert latency.extra["settings"]["threads"] == 1
    assert latency.extra["speedup"]["rounds"] == 6
    assert records[4].samples_path == "end-to-end/two.json"
    assert records[4].extra["picture_shape"] == [40, 50, 3]


@pytest.mark.parametrize(("more", "code"), [([], 10), (["--keep-unstable"], 0)])
def test_exit_code_tells_whether_to_use_it(
    engines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    more: list[str], code: int,
) -> None:  # fmt: skip
    """Two rounds cannot pass the control."""
    words = f"bench one={engines['one']} --profile quick --rounds 2 --runs 2 --out {tmp_path / 'out'} --json --wait 60".split()
    monkeypatch.setattr("sys.argv", ["toolchain", *words, *more])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert (ended.value.code or 0) == code
    assert json.loads(shown.out)["valid"] is False
    assert ("must not be used" in shown.err) == (code == 10)
    assert json.loads(shown.out)["command"].startswith("toolchain bench one=")


def test_accuracy_needs_a_data_set(
    engines: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["toolchain", "bench", str(engines["one"]), "--accuracy"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_accuracy_of_the_engines_own_outputs_in_the_same_call(engines: dict[str, Path], tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data", {"val": 2}, size=(64, 48))
    asked: dict[str, Any] = {"accuracy": True, "data": data, "conditions": Conditions(keep_unstable=True)}
    result = verbs.bench(engines, tmp_path / "out", on=ONE, pace=whole_pace(rounds=1), **asked)
    alone = verbs.evaluate(engines["two"], tmp_path / "alone", data=data, imgsz=tinynet.SIZE, on=ONE)
    found = result.engines["two"].accuracy
    assert found is not None
    assert (found["map50_95"], found["split"], found["images"]) == (alone["map50_95"], "val", 2)
    whole = result.engines["one"].end_to_end
    assert whole is not None
    assert whole.picture_shape == [64, 48, 3]
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["engines"]["two"]["accuracy"]["images"] == 2
    kinds = [one.kind for one in read_records(tmp_path / "out" / "records.jsonl") if one.subject == "two"]
    assert kinds == ["latency", "end_to_end", "accuracy", "size"]


def test_energy_without_a_sensor_says_so_and_costs_no_time(engines: dict[str, Path], tmp_path: Path) -> None:
    extras = Extras(energy=EnergyRequest("search"))
    result = bench(engines, tmp_path / "out", ONE, short(1), extras=extras)
    assert result.engines["one"].energy["status"] == "not_measured"
    assert result.engines["one"].energy["energy_total_mj"] is None
    again = bench(engines, tmp_path / "out", ONE, short(1), extras=extras)
    assert again.engines["two"].energy == result.engines["two"].energy


@pytest.mark.ssh
def test_whole_detections_over_ssh(lab_ssh: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "picture.npy", np.full((20, 30, 3), 200, dtype=np.uint8))
    place = On("dev", threads=1, python=sys.executable)
    result = bench(
        engines, tmp_path / "out", place, whole_pace(rounds=1), extras=Extras(picture=Picture(tmp_path / "picture.npy"))
    )
    found = result.engines["two"].end_to_end
    assert found is not None
    assert found.picture_shape == [20, 30, 3]
