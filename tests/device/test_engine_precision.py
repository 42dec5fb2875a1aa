"""The runtime a target names is what commands run, and an engine's precision on record is the one it runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from tests.agent.test_tensorrt_build import save_quantized
from toolchain import requests, verbs
from toolchain.config import BenchSection, SelectSection
from toolchain.device import runtimes
from toolchain.device.bundle import build
from toolchain.device.engine_precision import in_precision, precision_told
from toolchain.device.manifest import verify, write_manifest
from toolchain.device.settings import On
from toolchain.device.target import list_targets, load_target
from toolchain.errors import RuntimeMissingError, UsageError
from toolchain.verbs import engines


@pytest.mark.parametrize("name", list_targets())
def test_a_target_names_the_runtime(name: str) -> None:
    assert On(target=name).runtime == BenchSection().on(target=name).runtime == load_target(name).default_runtime
    assert On(target=name, runtime="openvino").runtime == "openvino"


def test_without_a_target_it_is_onnx_runtime() -> None:
    assert (On().runtime, On().provider) == ("onnxruntime", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("runtime", "provider", "precision", "found"),
    [
        ("tensorrt", "", "fp16", "gpu:precision=fp16"),
        ("tensorrt", "", "fp32", "gpu:precision=graph"),
        ("tensorrt", "", "int8", "gpu:precision=fp16"),
        ("tensorrt", "dla0:fallback=1", "fp16", "dla0:fallback=1,precision=fp16"),
        ("tensorrt", "gpu", "fp8", "gpu:precision=fp8"),
        ("ncnn", "", "fp32", "cpu:precision=fp32"),
        ("ncnn", "", "fp16", "cpu:precision=fp16"),
        ("ncnn", "", "int8", "cpu"),
        ("onnxruntime", "", "fp32", "CPUExecutionProvider"),
        ("openvino", "", "int8", "CPU"),
    ],
)
def test_the_provider_is_asked_for_the_precision(runtime: str, provider: str, precision: str, found: str) -> None:
    assert in_precision(On(runtime=runtime, provider=provider), precision).provider == found


@pytest.mark.parametrize(
    ("runtime", "provider", "precision", "said"),
    [
        ("onnxruntime", "", "fp16", "onnxruntime has no FP16 engines"),
        ("openvino", "", "bf16", "openvino has no BF16 engines"),
        ("tensorrt", "gpu:precision=bf16", "fp32", "asks for another precision"),
        ("tensorrt", "", "int4", "no precision of an engine"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(runtime: str, provider: str, precision: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        in_precision(On(runtime=runtime, provider=provider), precision)


def test_what_graph_and_provider_make(tmp_path: Path) -> None:
    plain, quantized = tinynet.save_detector(tmp_path / "f.onnx"), save_quantized(tmp_path / "q.onnx")
    trt = {name: On(runtime="tensorrt", provider=f"gpu:precision={name}") for name in ("graph", "fp16", "bf16", "int8", "fp8")}
    assert [precision_told(plain, on) for on in trt.values()] == ["fp32", "fp16", "bf16", "int8", "fp8"]
    assert [precision_told(quantized, on) for on in trt.values()] == ["int8", "int8", "int8", "int8", "fp8"]
    assert [precision_told(graph, On()) for graph in (plain, quantized)] == ["fp32", "int8"]
    pair = tmp_path / "model.xml"
    for text, said in (("<layer type='FakeQuantize'/>", "int8"), ("<layer type='Convolution'/>", "fp32")):
        pair.write_text(text)
        assert precision_told(pair, On(runtime="openvino")) == said


def test_a_bundle_does_not_say_a_precision_it_does_not_run_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tinynet.save_detector(tmp_path / "f.onnx")
    monkeypatch.setattr("toolchain.export.metadata.class_names", lambda path: ["a", "b", "c"])
    with pytest.raises(UsageError, match="another precision"):
        verbs.build(graph, tmp_path / "b", imgsz=32, precision="int8")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(engines, "build_bundle", lambda model, out, on, **rest: asked.update(rest, on=on))
    verbs.build(graph, tmp_path / "b", imgsz=32, precision="fp16", on=On(runtime="tensorrt", provider="gpu"))
    assert (asked["precision"], asked["on"].provider) == ("fp16", "gpu:precision=fp16")


def test_a_selection_in_a_precision_the_runtime_has_not_is_refused_first(tmp_path: Path) -> None:
    nothing = tmp_path / "no.pt"
    with pytest.raises(UsageError, match="has no FP16 engines"):
        verbs.select([nothing], tmp_path, [], data=nothing, sizes=[32], on=On(), align=8, section=SelectSection(precision="fp16"))


def test_bundles_run_in_what_they_were_built_for(tmp_path: Path) -> None:
    graph = tinynet.save_detector(tmp_path / "f.onnx")
    for name, provider in (("a", "CPUExecutionProvider"), ("b", "CPUExecutionProvider:enable_mem_pattern=0")):
        build(graph, tmp_path / name, On(threads=1), labels=["a", "b", "c"], imgsz=32, precision="fp32")
        manifest = verify(tmp_path / name).to_json()
        manifest["runtime"]["provider"] = provider
        write_manifest(tmp_path / name, manifest)
    a, b = tmp_path / "a", tmp_path / "b"
    assert requests.as_built([graph], "", "") == ("", "")
    assert requests.as_built([graph, a], "", "") == ("onnxruntime", "CPUExecutionProvider")
    assert requests.as_built([a, b], "", "CPUExecutionProvider") == ("onnxruntime", "CPUExecutionProvider")
    assert requests.as_built([a, b], "openvino", "") == ("openvino", "")
    with pytest.raises(UsageError, match="several runtimes or providers"):
        requests.as_built([a, b], "", "")


def test_a_device_without_the_runtime_is_found_before_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {
        "runtimes": {"ncnn": None, "onnxruntime": {"version": "1"}},
        "unreadable": {"runtimes.ncnn": "no module"},
    }
    monkeypatch.setattr(runtimes, "probe", lambda *_, **__: found)
    with pytest.raises(RuntimeMissingError, match="no ncnn there, the default of raspberry-pi-5") as caught:
        runtimes.check_there(On("pi", target="raspberry-pi-5"))
    assert "toolchain doctor pi --install --runtime ncnn; or --runtime onnxruntime, which is there" in str(caught.value)
    with pytest.raises(RuntimeMissingError, match="comes with the board's system"):
        runtimes.check_there(On("orin", target="jetson-orin-nano-8gb"))
    assert runtimes.check_there(On("pi")) == found
