"""Every graph that the toolchain writes for TensorRT passes its own rules and the RTX oracle."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.helpers import tiny_model
from tests.pruning.cases import PICTURES, random_plan, subject
from tests.tensorrt.conftest import float_graph, pictures, weak_int8
from tests.tensorrt.rtx import ask, need_rtx
from toolchain.pruning.apply import apply_plan
from toolchain.tensorrt.typed import to_typed
from toolchain.tensorrt.verify import verify
from toolchain.tensorrt.versions import VERSIONS

NETWORKS = ("dense", "pruned", "dynamic")
FORMS = ("fp32", "fp16", "int8", "int8-fp16", "fp8-fp16")


@cache
def network(name: str) -> onnx.ModelProto:
    if name == "pruned":
        return float_graph(pruned())
    return float_graph(tiny_model(), dynamic=name == "dynamic")


def pruned() -> object:
    """The tiny network with widths drawn at random, multiples of 8."""
    stock, prunable, groups = subject()
    return apply_plan(stock, prunable, groups, random_plan(groups, 1, align=8), PICTURES).network


@cache
def emitted(name: str, form: str) -> onnx.ModelProto:
    model = weak_int8(network(name)) if "8" in form.split("-")[0] else network(name)
    return to_typed(model, fp8=form.startswith("fp8")) if form.endswith("fp16") else model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_rules_accept_it(name: str, form: str) -> None:
    """Float32 forms on all versions, FP16 ones from 10 on."""
    for version, about in VERSIONS.items():
        if form.endswith("fp16") and about.number < (10, 0):
            continue
        found = [finding for finding in verify(emitted(name, form), version) if finding.rule != "typed"]
        assert found == [], version


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_rtx_oracle_parses_and_builds_it(name: str, form: str) -> None:
    need_rtx()
    assert ask(emitted(name, form)) == {"stage": "ok", "errors": []}


def test_the_parser_refuses_what_a_cpu_wants() -> None:
    """Unsigned zero points and int32 biases, at a node that the rules name as well."""
    need_rtx()
    model = weak_int8(network("dense"), "onnxruntime-x86")
    refused = ask(model, build=False)
    assert refused["stage"] == "parse"
    errors = {finding.node for finding in verify(model, "11.4") if finding.level == "error"}
    assert refused["errors"][0]["node"] in errors


@pytest.mark.parametrize("settings", ["default", "symmetric"])
def test_quantize_static_is_judged_like_the_parser_judges_it(settings: str, tmp_path: Path) -> None:
    """ONNX Runtime's own quantization: refused as it comes, taken with symmetric types and a float bias."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"images": picture[None]} for picture in pictures(2)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    onnx.save(network("dense"), tmp_path / "in.onnx")
    options = {"ActivationSymmetric": True, "WeightSymmetric": True}
    quantize_static(
        tmp_path / "in.onnx", tmp_path / "out.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        extra_options=options | ({"QuantizeBias": False} if settings == "symmetric" else {}),
    )  # fmt: skip
    model = onnx.load(tmp_path / "out.onnx")
    errors = {finding.rule for finding in verify(model, "11.4") if finding.level == "error"}
    assert errors == ({"H3"} if settings == "default" else set())
    if settings == "symmetric":
        assert {finding.rule for finding in verify(model, "8.6") if finding.level == "error"} == {"H6"}
        assert "P3" in {finding.rule for finding in verify(model, "11.4")}, "it quantizes inside SiLU"
    need_rtx()
    assert ask(model, build=False)["stage"] == ("parse" if errors else "ok")
