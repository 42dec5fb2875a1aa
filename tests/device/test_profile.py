"""Profiles of real engines by real agent processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tinynet
from tests.lab.sshd import Sshd
from toolchain import errors, verbs
from toolchain.device.engine_messages import ProfileAnswer
from toolchain.device.messages import check
from toolchain.device.profile import NodeTime, profile
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.report.layer_times import layer_times

ONE = On(threads=1)
QUICK: dict[str, Any] = {"on": ONE, "runs": 4, "warmup_runs": 1, "timeout_s": 60.0}


def save_chain(path: Path, *widths: int, size: int = 32) -> Path:
    """3×3 convolutions with SiLU, named as the tracer names modules: /model.0/conv/Conv, /model.0/act/Sigmoid, ..."""
    rng, nodes, constants, before, source = np.random.default_rng(0), [], [], 3, "images"
    for index, width in enumerate(widths):
        at = f"/model.{index}"
        weight = rng.normal(size=(width, before, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"model.{index}.conv.weight"))
        nodes += [
            helper.make_node(
                "Conv", [source, f"model.{index}.conv.weight"], [f"{at}/conv/Conv_output_0"], f"{at}/conv/Conv", pads=[1] * 4
            ),
            helper.make_node("Sigmoid", [f"{at}/conv/Conv_output_0"], [f"{at}/act/Sigmoid_output_0"], f"{at}/act/Sigmoid"),
            helper.make_node(
                "Mul", [f"{at}/conv/Conv_output_0", f"{at}/act/Sigmoid_output_0"], [f"{at}/act/Mul_output_0"], f"{at}/act/Mul"
            ),
        ]
        before, source = width, f"{at}/act/Mul_output_0"
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])]
    outputs = [helper.make_tensor_value_info(source, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def layers(dense: tuple[int, ...], kept: tuple[int, ...]) -> list[dict[str, Any]]:
    return [{"name": f"model.{index}.conv", "dense": a, "kept": b} for index, (a, b) in enumerate(zip(dense, kept, strict=True))]


def left_behind() -> list[Path]:
    folder = Path(os.environ["EDGE_DEVICE_CACHE"]) / "out"
    return list(folder.iterdir()) if folder.exists() else []


def test_every_convolution_is_there_with_a_time_and_no_file_stays(tmp_path: Path) -> None:
    nodes = profile(save_chain(tmp_path / "chain.onnx", 16, 32, 48), **QUICK)
    convs = [node for node in nodes if "Conv" in node.op]
    assert [node.name.split("/conv/")[0] for node in convs] == ["/model.0", "/model.1", "/model.2"]
    assert [node.shape for node in convs] == [
        (1, width, 32, 32) for width in (16, 32, 48)
    ]  # other widths get padded by the runtime
    assert all(0 < node.min_ms <= node.mean_ms for node in convs)
    assert {node.provider for node in nodes} == {"CPUExecutionProvider"}
    assert left_behind() == []
    assert [NodeTime.from_json(node.to_json()) for node in nodes] == nodes


def test_layers_take_their_activations_along_and_nothing_is_lost(tmp_path: Path) -> None:
    engine = save_chain(tmp_path / "chain.onnx", 16, 24)
    nodes = profile(engine, **QUICK)
    rows = layer_times(nodes, nodes, layers((16, 24), (16, 24)), align=8, imgsz=32)
    assert [(row.layer, row.stride) for row in rows[:2]] == [("model.0", 1), ("model.1", 1)]
    assert sum(row.dense_ms for row in rows) == pytest.approx(sum(node.min_ms for node in nodes))
    assert rows[0].dense_ms > next(node.min_ms for node in nodes if node.name.startswith("/model.0/conv"))


def test_a_layer_that_was_widened_is_the_one_that_is_named(tmp_path: Path) -> None:
    from toolchain.report.diagnose_latency import check_latency

    dense, pruned = (64, 16), (8, 512)
    times = [profile(save_chain(tmp_path / f"{w[0]}.onnx", *w, size=48), **{**QUICK, "runs": 15}) for w in (dense, pruned)]
    rows = layer_times(*times, layers(dense, pruned), align=8, imgsz=48)
    (finding,) = check_latency(0.5, 0.99, rows)
    named = [name for name in finding.numbers if name.startswith("model.")]
    assert named[0] == "model.1 (Conv)"
    assert "16 → 512 channels" in str(finding.numbers[named[0]])
    assert "model.0 (Conv)" not in named


def test_free_picture_size_and_bundle_folders(tmp_path: Path) -> None:
    engine = tinynet.save_detector(tmp_path / "free.onnx", size="side")
    with pytest.raises(errors.DeviceError, match="which one"):
        profile(engine, **QUICK)
    assert left_behind() == []
    result = verbs.profile({"free": engine}, tmp_path, on=ONE, imgsz=32)
    assert [row["op"] for row in result["free"]].count("Conv") == 1
    assert (tmp_path / "profile.json").is_file()


def test_over_ssh(dev: Sshd, tmp_path: Path) -> None:
    nodes = profile(save_chain(tmp_path / "chain.onnx", 8), **{**QUICK, "on": On("dev", threads=1, python=sys.executable)})
    assert any(node.name.startswith("/model.0/conv/Conv") for node in nodes)
    assert left_behind() == []


@pytest.mark.parametrize("change", [{"runs": 0}, {"runs": 201}, {"warmup_runs": -1}, {"on": On(threads=0)}])
def test_bad_counts(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError, match="count"):
        profile(save_chain(tmp_path / "chain.onnx", 8), **{**QUICK, **change})


def test_no_engine_and_no_such_provider(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="does not exist"):
        profile(tmp_path / "none.onnx", **QUICK)
    with pytest.raises(errors.ProviderError):
        profile(save_chain(tmp_path / "chain.onnx", 8), **{**QUICK, "on": On(provider="NoSuchProvider")})
    assert left_behind() == []


NODE = {"name": "a", "op": "Conv", "provider": None, "shape": [1, 8, 4, 4], "ms": [0.5, 0.0]}
HONEST = {"nodes": [NODE], "total_ms": [0.6, 0.1], "provider": "p", "runtime_version": "1", "input_shape": [1, 3, 4, 4]}


def changed(**node: Any) -> dict[str, Any]:
    return {**HONEST, "nodes": [{**NODE, **node}]}


@pytest.mark.parametrize(
    "answer",
    [
        {**HONEST, "nodes": []},
        {**HONEST, "nodes": [NODE] * 4097},
        {**HONEST, "nodes": [NODE, NODE]},  # 1.0 ms of nodes in a run of 0.6
        {**HONEST, "total_ms": [0.6]},
        {**HONEST, "total_ms": [0.6, 0.0]},
        {**HONEST, "total_ms": []},
        changed(ms=[0.5]),
        changed(ms=[0.5, -0.1]),
        changed(ms=[0.5, float("nan")]),
        changed(ms=[0.5, "0.1"]),
        changed(shape=[1, -8, 4, 4]),
        changed(shape=[1] * 9),
        changed(name=None),
        changed(name="x" * 5000),
    ],
)
def test_impossible_answers(answer: dict[str, Any]) -> None:
    check(ProfileAnswer, HONEST)
    with pytest.raises(errors.ProtocolError):
        check(ProfileAnswer, answer)


def test_what_a_terminal_would_obey_is_made_visible() -> None:
    assert check(ProfileAnswer, changed(name="\x1b[2J")).nodes[0].name == "\\x1b[2J"


def fewer_runs(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "total_ms": answer["total_ms"][1:], "nodes": [{**n, "ms": n["ms"][1:]} for n in answer["nodes"]]}


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (fewer_runs, "another number of runs"),
        (lambda answer: {**answer, "provider": "Other"}, "another provider"),
        (lambda answer: {**answer, "total_ms": [ms / 100 for ms in answer["total_ms"]]}, "not what it must be"),
    ],
)
def test_a_lying_agent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    original = AgentSession.request

    def request(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        answer = original(self, op, **fields)
        return lie(answer) if op == "profile" else answer

    monkeypatch.setattr(AgentSession, "request", request)
    with pytest.raises(errors.ProtocolError, match=words):
        profile(save_chain(tmp_path / "chain.onnx", 16), **QUICK)
