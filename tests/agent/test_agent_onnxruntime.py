"""ONNX Runtime's other providers: options reach it, and nothing ever falls back to the CPU. Played by stand-ins: no GPU here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import pytest

from tests import tinynet
from toolchain.agent import runtimes
from toolchain.agent.wire import AgentError

rt = runtimes.find("onnxruntime")
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return str(tinynet.save_detector(tmp_path / "engine.onnx"))


class Session:
    """Answers like ONNX Runtime's, on a machine whose state the tests choose."""

    starts = True  # the provider's libraries and driver are there
    leaves = False  # some nodes have no kernel for it
    asked: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, path: str, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
        assert enable_fallback == 0
        try:
            strict = options.get_session_config_entry(rt.STRICT) == "1"
        except RuntimeError:  # not set
            strict = False
        self.asked.append((providers, strict))
        if strict and (self.leaves or not self.starts):
            raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP")
        self._name = providers[0][0]

    def get_providers(self) -> list[str]:
        return [self._name, CPU] if self.starts else [CPU]

    def disable_fallback(self) -> None: ...

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    session = type("Session", (Session,), {"asked": []})
    monkeypatch.setattr(rt, "providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return session


def test_provider_and_its_options_reach_the_session_which_may_not_use_the_cpu(machine: type[Session], graph: str) -> None:
    spec = f"{CUDA}:cudnn_conv_algo_search=EXHAUSTIVE,device_id=0"
    engine = rt.load(graph, spec, 2)
    assert machine.asked == [([(CUDA, {"cudnn_conv_algo_search": "EXHAUSTIVE", "device_id": "0"})], True)]
    assert engine.provider == spec
    assert engine.options["device_id"] == "0"


def test_the_cpu_is_no_fallback_of_itself(machine: type[Session], graph: str) -> None:
    rt.load(graph, CPU, 1)
    assert machine.asked == [([(CPU, {})], False)]


@pytest.mark.parametrize(
    ("state", "said"),
    [({"starts": False}, "cannot start.*CPUExecutionProvider"), ({"leaves": True}, "cannot run every node")],
)
def test_what_would_run_on_the_cpu_is_refused_with_the_reason(
    machine: type[Session], graph: str, state: dict[str, bool], said: str
) -> None:
    for key, value in state.items():
        setattr(machine, key, value)
    with pytest.raises(AgentError, match=said) as caught:
        rt.load(graph, CUDA, 1)
    assert caught.value.kind == "provider"


def test_a_version_that_cannot_promise_it_is_refused(machine: type[Session], graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rt, "version", lambda: "1.15.1")
    with pytest.raises(AgentError, match=r"1\.16 or later") as caught:
        rt.load(graph, CUDA, 1)
    assert caught.value.kind == "provider"
    rt.load(graph, CPU, 1)


def test_a_session_that_says_another_provider_is_refused(
    machine: type[Session], graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "get_providers", lambda self: [CPU])
    with pytest.raises(AgentError, match="the session uses CPUExecutionProvider"):
        rt.load(graph, CUDA, 1)


def test_onnxruntime_knows_the_entry_that_forbids_the_cpu(graph: str) -> None:
    """On the real one: with the entry set, and no provider but the one it adds by itself, nothing may run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(rt.STRICT, "1")
    with pytest.raises(Exception, match="CPU EP"):
        onnxruntime.InferenceSession(graph, options, providers=[])
