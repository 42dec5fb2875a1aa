"""trtexec's command lines against the flags of nine releases, and the readers of its files and of the inspector's."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tensorrt_fakes import lab
from toolchain.agent.trt import layers, trtexec
from toolchain.agent.wire import AgentError

TABLE = json.loads((lab.HERE / "trtexec_flags.json").read_text())
PROGRAM = str(lab.HERE / "trtexec")
LIMITS = {"workspace": 1 << 30}


def unknown(version: str, words: list[str]) -> list[str]:
    at = TABLE["versions"].index(version)
    assert all(word.startswith("--") for word in words), "--flag=value: trtexec takes a value behind a blank for another option"
    return [word for word in words if TABLE["flags"].get(word.split("=")[0], "-" * 9)[at] != "Y"]


@pytest.mark.parametrize("version", TABLE["versions"])
def test_no_build_is_asked_for_with_a_flag_that_is_not_there(version: str) -> None:
    choices = itertools.product(
        ("graph", "fp16", "bf16", "int8"),
        (False, True),
        (None, 1),
        (False, True),
        (None, "AMPERE_PLUS"),
        (None, {"x": [[1, 3, 8, 8]] * 3}),
    )
    asked = refused = 0
    for precision, quantized, dla, compatible, hardware, shapes in choices:
        order = {
            "precision": precision, "quantized": quantized, "dla": dla, "version_compatible": compatible,
            "hardware_compatible": hardware, "shapes": shapes, "limits": LIMITS, "calibration": {"cache": "/c"},
        }  # fmt: skip
        try:
            words = trtexec.build_words(version, "/m.onnx", "/m.plan", "/t", order)
        except AgentError:
            refused += 1
            continue
        asked += 1
        assert unknown(version, words) == []
        if not version.startswith("8.5"):
            assert "--skipInference" in words
    assert asked >= 4
    assert refused or version.startswith("10")


@pytest.mark.parametrize("version", TABLE["versions"])
def test_measuring_says_everything_that_defaults_differ_in(version: str) -> None:
    exports = {name: f"/{name}.json" for name in trtexec.EXPORTS}
    words = trtexec.measure_words(version, "/m.plan", exports, ("images", (1, 3, 640, 640)))
    assert unknown(version, words) == []
    assert {"--useSpinWait", "--noDataTransfers", "--useCudaGraph", "--separateProfileRun"} <= set(words)
    assert "--shapes=images:1x3x640x640" in words


def test_invented_ranges_are_never_asked_for() -> None:
    order = {"precision": "int8", "limits": LIMITS}
    with pytest.raises(AgentError, match="invent"):
        trtexec.build_words("10.3", "/m.onnx", "/m.plan", "/t", order)


@pytest.mark.parametrize("version", ["8.5", "10.13", "11.1"])
def test_a_measurement(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_VERSION", version)
    found = trtexec.latency("/m.plan", version, str(tmp_path), program=PROGRAM)
    assert found["compute_ms"] == [1.5] * 100
    assert (found["passes"], found["profile"]) == (100, [{"name": "conv1", "mean_ms": 1.0, "median_ms": 1}])
    assert layers.summary(found["layers"]) == {"layers": 1, "reformat": 0, "fp16": 1, "on gpu": 1}
    assert found["problems"] == {}


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("fail", "engine_build", "ended with 1: .*could not be created"),
        ("killed", "out_of_memory", "signal 9"),
        ("empty", "engine_build", "is missing"),
        ("nan", "engine", "not JSON"),
        ("none", "engine", "no inference"),
    ],
)
def test_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: str, words: str) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_DO", mode)
    with pytest.raises(AgentError, match=words) as caught:
        trtexec.latency("/m.plan", "10.3", str(tmp_path), program=PROGRAM)
    assert caught.value.kind == kind


def test_a_broken_profile_costs_only_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_DO", "quote")
    found = trtexec.latency("/m.plan", "10.3", str(tmp_path), program=PROGRAM)
    assert (len(found["compute_ms"]), found["profile"]) == (100, None)
    assert "escapes no quotes" in found["problems"]["profile"]


def test_a_hanging_trtexec_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_DO", "hang")
    with pytest.raises(AgentError, match=r"did not end within 0\.5 s"):
        trtexec.run(["--onnx=/m.onnx"], [], 0.5, PROGRAM)


def test_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtexec, "find", lambda: None)
    with pytest.raises(AgentError, match="no trtexec on this device") as caught:
        trtexec.run([], [], 1.0)
    assert caught.value.kind == "runtime_missing"


def test_it_is_found_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_TRTEXEC", PROGRAM)
    assert trtexec.find() == PROGRAM
    assert os.access(PROGRAM, os.X_OK)


INT8 = "Four wide channel vectorized row major Int8 format"
TEN = {  # shapes of 8.5 to 10
    "Layers": [
        {"Name": "a", "LayerType": "Convolution", "Outputs": [{"Dimensions": [1, 32, 8, 8], "Format/Datatype": INT8}]},
        {"Name": "b", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"Name": "{ForeignNode[a...b]}", "LayerType": "DLA", "Outputs": []},
        "bare name",
    ],
    "Bindings": ["x", "y"],
}
ELEVEN = {
    "Layers": [{"Name": "a", "LayerType": "gemm", "Outputs": [{"Name": "a", "Format": "kCHW32", "Datatype": "Int8"}]}],
    "I/O Tensors": [{"Name": "x", "IOMode": "Input"}],
}


def test_inspectors_of_both_kinds() -> None:
    rows = layers.read(json.dumps(TEN))
    assert [(row["type"], row["precision"], row["device"]) for row in rows] == [
        ("Convolution", "int8", "gpu"), ("Reformat", "fp32", "gpu"), ("DLA", "?", "dla"), ("?", "?", "gpu"),
    ]  # fmt: skip
    assert (rows[0]["shape"], rows[3]["shape"]) == ([1, 32, 8, 8], None)
    assert layers.summary(rows) == {"layers": 4, "reformat": 1, "int8": 1, "fp32": 1, "?": 2, "on gpu": 3, "on dla": 1}
    assert layers.read(json.dumps(ELEVEN))[0]["precision"] == "int8"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"Layers": {}}',
        '{"Layers": [1]}',
        '{"Layers": [{"LayerType": "x"}]}',
        '{"Layers": [{"Name": "a"b"}]}',
        '{"Layers": NaN}',
    ],
)
def test_broken_inspectors(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layers.read(text)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", '[{"computeMs": nan}]', '[{"computeMs": 0}]', '[{"computeMs": "fast"}]', "[1]", '[{"latencyMs": 1}]'],
)
def test_broken_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layers.read_times(text)


@pytest.mark.parametrize(
    "text", ["", "[]", '[{"count": 0}]', '[{"count": 1}]', '[{"name": "a"}]', '[{"count": 1}, {"name": "a"}]', '[{"count": "x"}]']
)
def test_broken_profiles(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layers.read_profile(text)


def test_precision_is_guessed_from_no_text_it_does_not_know() -> None:
    row: dict[str, Any] = {"Name": "a", "Outputs": [{"Format/Datatype": "something new"}]}
    assert layers.read(json.dumps({"Layers": [row]}))[0]["precision"] == "?"
