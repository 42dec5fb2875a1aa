"""Plans that travel: what makes two boards different, what is kept of a plan from elsewhere, what goes to the host."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from toolchain.agent import runtimes
from toolchain.agent.trt import place, plans, standalone, travel
from toolchain.agent.wire import AgentError

rt = runtimes.find("tensorrt")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tinynet.save_detector(tmp_path / "net.onnx")


def built(graph: Path) -> str:
    return str(rt.convert(str(graph), "gpu", {}, str(graph.parent / "cache"))[0])


def test_what_makes_a_plan_another(newest: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph, every option, every version and the board; and the power mode, in which kernels were chosen by timing."""
    plan = built(graph)
    assert rt.differences(plan, str(graph), "gpu", {}) == []
    assert rt.differences(plan, str(graph), "gpu:workspace_mib=64", {}) == ["built with workspace_mib None, asked for 64"]
    assert rt.differences(plan, str(graph), "gpu", {"imgsz": 64}) == ["built with imgsz None, asked for 64"]
    monkeypatch.setattr(place, "power_mode", lambda root: "15W")
    assert rt.differences(plan, str(graph), "gpu", {}) == ["power_mode None, here 15W"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"onnx_sha256": "0"}, ["it was built of another graph"]),
        ({"calibration_sha256": "1"}, ["it was calibrated otherwise"]),
        ({"calibration_method": "minmax"}, ["it was calibrated otherwise"]),
        ({"here": {"tensorrt": "10.7.0", "l4t": "36.5"}}, ["l4t 36.4, here 36.5", "tensorrt 10.3.0, here 10.7.0"]),
        ({"flags": {"precision": "fp16"}}, ["built with precision graph, asked for fp16"]),
        ({}, []),
    ],
)
def test_differences_in_words(change: dict[str, Any], said: list[str]) -> None:
    made_of = {
        "onnx_sha256": "f", "calibration_sha256": None, "calibration_method": None, "flags": {"precision": "graph"},
        "here": {"tensorrt": "10.3.0", "l4t": "36.4"},
    }  # fmt: skip
    assert travel.differences({"made_of": made_of}, {**made_of, **change}) == said


def test_ranges_are_the_pictures_or_the_cache_that_came_of_them() -> None:
    text = "TRT-8502-EntropyCalibration2\nimages: 3c010a14\n"
    made_of = {"onnx_sha256": "f", "calibration_sha256": "pictures", "calibration_method": "entropy", "flags": {}, "here": {}}
    about = {"made_of": made_of, "calibration_cache": text}
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert travel.differences(about, {**made_of, "calibration_sha256": digest}) == []
    assert travel.differences(about, {**made_of, "calibration_sha256": "other"}) == ["it was calibrated otherwise"]


def test_a_plan_comes_back(newest: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its own hash; nothing of it is kept where it is not at home."""
    plan = built(graph)
    shutil.copy(plan, tmp_path / "a.plan")
    shutil.copy(plans.beside(plan), tmp_path / "b.json")
    asked = (str(tmp_path / "a.plan"), str(tmp_path / "b.json"), str(tmp_path / "other"))
    kept = rt.adopt(*asked)
    assert Path(kept).stem == hashlib.sha256(Path(plan).read_bytes()).hexdigest()
    assert rt.load(kept, "gpu", 1).options["plan_sha256"] == Path(kept).stem
    assert standalone.open_plan(kept, "gpu")[1] is None
    shutil.rmtree(tmp_path / "other")
    monkeypatch.setenv("FAKE_CUDART_MINOR", "2")
    with pytest.raises(AgentError, match=r"compute 8\.7, here 8\.2") as caught:
        rt.adopt(*asked)
    assert caught.value.kind == "foreign_plan"
    assert not list((tmp_path / "other").rglob("*.plan"))


def test_a_plan_in_another_power_mode_says_so(newest: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = built(graph)
    monkeypatch.setattr(place, "power_mode", lambda root: "15W")
    assert standalone.open_plan(plan, "gpu")[1] == "built in power mode None, which is 15W now"


def test_what_goes_to_the_host(newest: str, graph: Path, tmp_path: Path) -> None:
    plan, cache = built(graph), str(tmp_path / "cache")
    assert travel.parts(plan, cache) == {"engine": plan, "about": plans.beside(plan)}
    assert json.loads(Path(plans.beside(plan)).read_text())["inputs"] == {"images": [1, 3, 32, 32]}
    for path in (str(graph), str(tmp_path / "cache" / "engines" / "x.txt"), "/etc/passwd"):
        with pytest.raises(AgentError, match="not a plan that this agent keeps"):
            travel.parts(path, cache)
    Path(plan).write_bytes(Path(plan).read_bytes() + b"x")
    with pytest.raises(AgentError, match="no longer whole"):
        travel.parts(plan, cache)
