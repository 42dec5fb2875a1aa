"""The load: phases of rest and inference, with stamps on whole inferences."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolchain.agent import energy
from toolchain.agent.main import Job
from toolchain.agent.wire import AgentError

PHASES = [["idle_before", 0.05, False], ["lead_in", 0.05, True], ["window", 0.1, True], ["idle_after", 0.05, False]]


class Engine:
    provider, version, options = "p", "1", {"threads": 1}

    def run(self, array: object) -> list[Any]:
        time.sleep(0.01)
        return []


class Heard:
    """Stands for the wire."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], raw: bytes = b"") -> None:
        self.sent.append(message["data"])


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(energy.engines, "open_engine", lambda job: (Engine(), 1.0))
    monkeypatch.setattr(energy.engines, "random_input", lambda engine, imgsz: np.zeros(1))
    return Heard()


def done(link: Heard, tmp_path: Path, **request: Any) -> tuple[dict[str, Any], Any]:
    answer = energy.energy(Job({"id": 1, "phases": PHASES, **request}, link, {}, str(tmp_path)))
    return answer, np.load(answer["path"])


def test_phases_follow_one_another_and_hold_whole_inferences(link: Heard, tmp_path: Path) -> None:
    answer, stamps = done(link, tmp_path)
    phases = answer["phases"]
    assert [phase["name"] for phase in phases] == [name for name, _, _ in PHASES]
    assert all(a["end_s"] == b["start_s"] for a, b in pairwise(phases))
    assert all(phase["end_s"] - phase["start_s"] >= seconds for phase, (_, seconds, _) in zip(phases, PHASES, strict=True))
    assert stamps.shape == (answer["inferences"], 2)
    assert (np.diff(stamps.ravel()) >= 0).all()
    window = phases[2]
    assert window["start_s"] in stamps[:, 1]
    assert window["end_s"] == stamps[-1, 1]
    assert stamps[0, 0] >= phases[1]["start_s"]
    assert [one["phase"] for one in link.sent] == [name for name, _, _ in PHASES]
    assert abs(window["start_unix"] - time.time()) < 60


def test_a_pace(link: Heard, tmp_path: Path) -> None:
    _, stamps = done(link, tmp_path, rate_hz=20.0)
    assert len(stamps) <= 5
    assert np.diff(stamps[:, 0]).min() >= 0.045


@pytest.mark.parametrize(
    "phases",
    [[], [["a", 1.0]], [["a", 0, True]], [["a", True, True]], [[1, 1.0, True]], [["a", 1.0, 1]], [["a", 1e9, True]],
     [["a", 0.1, False]] * 65, None],
    ids=str,
)  # fmt: skip
def test_a_plan_that_is_wrong(link: Heard, tmp_path: Path, phases: Any) -> None:
    with pytest.raises(AgentError):
        done(link, tmp_path, phases=phases)


def test_memory_is_bounded(link: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "MOST", 3)
    answer, _ = done(link, tmp_path)
    assert answer["inferences"] == 3
