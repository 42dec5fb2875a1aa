"""ONNX Runtime's profile as the contract's runs, and runs as rows of nodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolchain.agent import profile as module
from toolchain.agent import runtimes
from toolchain.agent.main import Job
from toolchain.agent.profile import merge, profile
from toolchain.agent.wire import AgentError
from toolchain.device.profile import MAX_RUNS, RUNTIMES

rt = runtimes.find("onnxruntime")


def node(name: str, ts: int, dur: int, op: str = "Conv", shape: list[int] | None = None, **args: Any) -> dict[str, Any]:
    outputs = {} if shape is None else {"output_type_shape": [{"float": shape}]}
    more = {"op_name": op, "provider": "CPUExecutionProvider", **outputs, **args}
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": more}


def run(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


EVENTS = [  # in the order ONNX Runtime writes them: at the end of each
    {"cat": "Session", "name": "session_initialization", "ts": 1, "dur": 90, "args": {}},
    node("/a/Conv_fence_before", 101, 1),
    node("/a/Conv_kernel_time", 102, 20, shape=[1, 8, 4, 4]),
    node("/body/Add_kernel_time", 125, 10, op="Add"),
    node("/loop/Loop_kernel_time", 124, 30, op="Loop"),
    {"cat": "Session", "name": "SequentialExecutor::Execute", "ts": 100, "dur": 58, "args": {}},
    run(99, 60),
    node("/a/Conv_kernel_time", 202, 10, shape=[1, 8, 4, 4]),
    node("/body/Add_kernel_time", 215, 10, op="Add"),
    node("/loop/Loop_kernel_time", 214, 40, op="Loop"),
    run(199, 70),
]


def test_events_become_runs_without_fences_and_bodies() -> None:
    first, second = rt.runs_of(EVENTS)
    assert (first[0], second[0]) == (0.06, 0.07)
    assert [(n["name"], n["op"], n["ms"]) for n in first[1]] == [("/a/Conv", "Conv", 0.02), ("/loop/Loop", "Loop", 0.03)]
    assert first[1][0]["shape"] == [1, 8, 4, 4]
    assert first[1][1]["shape"] is None


def test_what_an_old_runtime_does_not_record_is_none() -> None:
    event = node("x_kernel_time", 2, 1)
    event["args"] = {"op_name": "Conv"}
    assert rt.runs_of([event, run(1, 5)])[0][1] == [{"name": "x", "op": "Conv", "provider": None, "shape": None, "ms": 0.001}]


def test_runs_are_merged_node_by_node() -> None:
    rows = merge(rt.runs_of(EVENTS))
    assert rows["total_ms"] == [0.06, 0.07]
    assert [row["ms"] for row in rows["nodes"]] == [[0.02, 0.01], [0.03, 0.04]]


def test_nodes_of_one_name_stay_apart() -> None:
    runs = rt.runs_of([node("Reorder_kernel_time", 2, 1), node("Reorder_kernel_time", 4, 2), run(1, 9)])
    assert [row["ms"] for row in merge(runs)["nodes"]] == [[0.001], [0.002]]


@pytest.mark.parametrize("events", [[*EVENTS[:-1], node("/new/Conv_kernel_time", 256, 2), run(199, 70)], [run(1, 5)]])
def test_runs_that_cannot_be_compared(events: list[dict[str, Any]]) -> None:
    with pytest.raises(AgentError, match="nodes"):
        merge(rt.runs_of(events))


def test_far_too_many_nodes() -> None:
    events = [node(f"{i}_kernel_time", 2 * i, 1) for i in range(module.MAX_NODES + 1)]
    with pytest.raises(AgentError, match="4096"):
        merge(rt.runs_of([*events, run(0, 3 * len(events))]))


def job(tmp_path: Path, **changes: Any) -> Job:
    request = {"id": 1, "runtime": "onnxruntime", "provider": "CPUExecutionProvider", "threads": 1, "path": "/nothing"}
    return Job({**request, "runs": 2, "warmup_runs": 1, **changes}, None, {}, str(tmp_path))


def test_a_runtime_that_cannot_tell_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find", lambda name: SimpleNamespace())
    with pytest.raises(AgentError, match="does not tell the time") as caught:
        profile(job(tmp_path, runtime="other"))
    assert caught.value.kind == "engine"


@pytest.mark.parametrize("change", [{"runs": 0}, {"runs": MAX_RUNS + 1}, {"warmup_runs": -1}, {"runs": True}, {"runs": None}])
def test_counts_are_bounded(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(AgentError):
        profile(job(tmp_path, **change))


def test_nothing_stays_behind_when_the_engine_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        profile(job(tmp_path))
    assert caught.value.kind == "engine"
    assert list((tmp_path / "out").iterdir()) == []


def test_runs_the_runtime_did_not_record_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    left = tmp_path / "left"

    class Engine:
        provider, version = "p", "1"

        def run(self, array: object) -> None: ...

        def end_profile(self) -> list[Any]:
            return rt.runs_of(EVENTS)

    def opened(job: Job, profile_to: str) -> tuple[Engine, float]:
        Path(profile_to + "_2026.json").write_text("[]")
        left.write_text(profile_to)
        return Engine(), 1.0

    monkeypatch.setattr(module.engines, "open_engine", opened)
    monkeypatch.setattr(module.engines, "random_input", lambda engine, imgsz: np.zeros(1))
    with pytest.raises(AgentError, match="2 of 3 runs"):
        profile(job(tmp_path))
    assert left.read_text().startswith(str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_host_knows_which_runtimes_can_tell() -> None:
    assert [name for name in runtimes.names() if getattr(runtimes.find(name), "PROFILES", False)] == sorted(RUNTIMES)
    assert MAX_RUNS == module.MAX_RUNS
