"""FP16 on every TensorRT: by flags, or written into the graph; always said, always in the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tinynet
from tests.agent.test_tensorrt_build import flags_of, save_quantized
from tests.device.paces import short
from tests.tensorrt_fakes import lab
from toolchain import errors, verbs
from toolchain.device import bundle
from toolchain.device.bench import Extras
from toolchain.device.conversion import convert, order_of, say_once
from toolchain.device.deploy import deploy
from toolchain.device.manifest import verify
from toolchain.device.precision import choose_way, major, precision_of
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.stage import file_sha256

USUAL = On(runtime="tensorrt", threads=1)
FP16 = "gpu:precision=fp16"
EIGHT, TEN, ELEVEN = lab.VERSIONS[0], "10.3.0", lab.NEWEST


def half(graph: Path) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in onnx.load(graph).graph.initializer)


@pytest.mark.parametrize("version", lab.VERSIONS)
def test_the_way_of_every_version(tmp_path: Path, version: str) -> None:
    graph = tinynet.save_detector(tmp_path / "net.onnx")
    way = choose_way(graph, onnx.load(graph), "gpu:precision=fp16,workspace_mib=64", version, tmp_path)
    if version.startswith("11."):
        assert (way.provider, way.weak, way.typed_from) == ("gpu:precision=graph,workspace_mib=64", False, file_sha256(graph))
        assert half(way.graph)
        assert "written into the graph" in way.said
    else:
        assert (way.graph, way.provider, way.weak) == (graph, "gpu:precision=fp16,workspace_mib=64", True)
        assert way.said == "weakly typed, flag FP16"


def test_other_wishes(tmp_path: Path) -> None:
    graph = tinynet.save_detector(tmp_path / "net.onnx")
    model = onnx.load(graph)
    for provider in ("gpu", "dla0", "gpu:precision=graph"):
        way = choose_way(graph, model, provider, ELEVEN, tmp_path)
        assert (way.graph, way.provider, way.typed_from, way.weak) == (graph, provider, None, False)
    quantized = save_quantized(tmp_path / "q.onnx")
    assert choose_way(quantized, onnx.load(quantized), FP16, TEN, tmp_path).said == "weakly typed, flags FP16 and INT8"
    typed = choose_way(graph, model, FP16, ELEVEN, tmp_path).graph
    way = choose_way(typed, onnx.load(typed), FP16, TEN, tmp_path)
    assert (way.graph, way.provider, way.weak) == (typed, "gpu:precision=graph", False)
    assert [precision_of(name) for name in ("gpu", "dla0:workspace_mib=64,precision=int8")] == ["graph", "int8"]
    assert [major(name) for name in ("10.3.0", "11", "?")] == [10, 11, 0]


def save_quantized_detector(path: Path) -> Path:
    """The tiny detector with int8 Q/DQ on data and weight of its conv, as for TensorRT 8."""
    model = onnx.load(tinynet.save_detector(path))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.01), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    )
    nodes = []
    for index, tensor in enumerate(conv.input[:2]):
        nodes.append(helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], [f"{tensor}_q"], f"{tensor}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}_q", "scale", "zero"], [f"{tensor}_dq"], f"{tensor}_dq"))
        conv.input[index] = f"{tensor}_dq"
    before, after = list(model.graph.node)[:1], list(model.graph.node)[1:]
    del model.graph.node[:]
    model.graph.node.extend([*before, *nodes, *after])
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("version", lab.VERSIONS)
def test_fp8_is_written_into_the_graph_where_it_is_read(tmp_path: Path, version: str) -> None:
    graph = save_quantized_detector(tmp_path / "q.onnx")
    if version.startswith("8."):
        with pytest.raises(errors.ExportError, match="reads no FP8"):
            choose_way(graph, onnx.load(graph), "gpu:precision=fp8", version, tmp_path)
        return
    way = choose_way(graph, onnx.load(graph), "gpu:precision=fp8", version, tmp_path)
    assert (way.provider, way.weak, way.typed_from) == ("gpu:precision=graph", False, file_sha256(graph))
    assert "FP8 and FP16 written into the graph" in way.said
    assert "FP8 already" in choose_way(way.graph, onnx.load(way.graph), "gpu:precision=fp8", version, tmp_path).said
    floats = tinynet.save_detector(tmp_path / "net.onnx")
    with pytest.raises(errors.ExportError, match="the graph has none"):
        choose_way(floats, onnx.load(floats), "gpu:precision=fp8", version, tmp_path)


def test_an_fp8_plan_is_no_fp16_plan(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt10.setenv("FAKE_CUDART_MINOR", "9")
    fp8 = replace(USUAL, provider="gpu:precision=fp8")
    about = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "int8"}
    bundle.build(save_quantized_detector(tmp_path / "q.onnx"), tmp_path / "b", fp8, **about)  # type: ignore[arg-type]
    aside = {"pace": short(1), "extras": Extras(aa_control=False)}
    one = verbs.bench({"x": tmp_path / "b"}, tmp_path / "one", on=fp8, **aside).engines["x"]  # type: ignore[arg-type]
    assert (one.options["typing"], one.options["flags"]) == ("strong", "none")
    with pytest.raises(errors.ProviderError, match="asked for precision=fp16"):
        verbs.bench({"x": tmp_path / "b"}, tmp_path / "two", on=USUAL, **aside)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "typing", "flags", "said"),
    [(EIGHT, "weak", "FP16", "flag FP16"), (TEN, "weak", "FP16", "flag FP16"), (ELEVEN, "strong", "none", "FP16 written into")],
)
def test_a_benchmark_says_and_records_it(
    trt10: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    version: str,
    typing: str,
    flags: str,
    said: str,
) -> None:
    trt10.setenv("EDGE_FAKE_TENSORRT", version)
    say_once.cache_clear()
    graph = tinynet.save_detector(tmp_path / "net.onnx")
    one = verbs.bench({"x": graph}, tmp_path / "out", on=USUAL, pace=short(1), extras=Extras(aa_control=False)).engines["x"]
    assert (one.provider, one.options["typing"], one.options["flags"]) == (FP16, typing, flags)
    assert one.options.get("typed_from") == (file_sha256(graph) if version == ELEVEN else None)
    assert one.sha256 == file_sha256(graph)
    assert f"net.onnx for TensorRT {version}" in (shown := capsys.readouterr().err)
    assert shown.count(said) == 1


def test_what_fp16_cannot_hold_is_no_fp32_engine(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt10.setenv("EDGE_FAKE_TENSORRT", ELEVEN)
    model = onnx.load(tinynet.save_detector(tmp_path / "net.onnx"))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(weight), 1e6), "weight"))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(errors.ExportError, match="does not fit into FP16"):
        verbs.bench({"x": tmp_path / "large.onnx"}, tmp_path / "out", on=USUAL, pace=short(1), extras=Extras(aa_control=False))


@pytest.mark.parametrize("version", [TEN, ELEVEN])
def test_what_would_be_refused_stays_here(trt10: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    """Weakly typed or not, the rules that hold are asked first."""
    trt10.setenv("EDGE_FAKE_TENSORRT", version)
    graph = save_quantized(tmp_path / "net.onnx", zero=3)
    with pytest.raises(errors.ExportError, match="would refuse"), connect("local") as device, device.session() as session:
        order_of(session, graph, USUAL.engine_fields(), tmp_path)


def test_flags_that_11_lost_are_its_error(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt10.setenv("EDGE_FAKE_TENSORRT", ELEVEN)
    graph = tinynet.save_detector(tmp_path / "net.onnx")
    fields = replace(USUAL, provider="gpu:precision=bf16").engine_fields()
    with pytest.raises(errors.DeviceError, match="no flag BF16"), connect("local") as device, device.session() as session:
        convert(session, order_of(session, graph, fields, tmp_path))


def test_a_plan_is_loaded_only_as_it_was_built(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    about = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}
    bundle.build(tinynet.save_detector(tmp_path / "net.onnx"), tmp_path / "b", replace(USUAL, provider="gpu"), **about)  # type: ignore[arg-type]
    with pytest.raises(errors.ProviderError, match="built with precision=graph, asked for precision=fp16"):
        verbs.bench({"x": tmp_path / "b"}, tmp_path / "out", on=USUAL, pace=short(1), extras=Extras(aa_control=False))


def test_a_bundle_of_11_holds_the_typed_graph(trt10: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which 10 builds too, and 11 cannot build what needs flags."""
    trt10.setenv("EDGE_FAKE_TENSORRT", ELEVEN)
    graph = tinynet.save_detector(tmp_path / "net.onnx")
    about = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp16"}
    bundle.build(graph, tmp_path / "b", USUAL, **about)  # type: ignore[arg-type]
    manifest = verify(tmp_path / "b")
    assert half(tmp_path / "b" / "engine.onnx")
    assert manifest.conversion is not None
    assert (manifest.conversion.provider, manifest.conversion.order) == (
        "gpu:precision=graph",
        {"typed_from": file_sha256(graph)},
    )
    assert manifest.runtime.provider == FP16
    to = str(tmp_path / "there")
    assert not deploy(tmp_path / "b", USUAL, to=to, name="det").engine.built  # type: ignore[union-attr]
    trt10.setenv("EDGE_FAKE_TENSORRT", TEN)
    assert deploy(tmp_path / "b", USUAL, to=to, name="det").engine.built  # type: ignore[union-attr]
    built = tmp_path / "there" / "det" / "current" / "built-here.plan"
    assert (flags_of(str(built))["strong"], flags_of(str(built))["flags"]) == (True, [])
    bundle.build(graph, tmp_path / "ten", USUAL, **about)  # type: ignore[arg-type]
    trt10.setenv("EDGE_FAKE_TENSORRT", ELEVEN)
    with pytest.raises(errors.DeployError, match="the graph itself must say its types"):
        deploy(tmp_path / "ten", USUAL, to=to, name="det")
