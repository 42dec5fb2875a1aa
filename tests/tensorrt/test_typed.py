"""Typed graphs: FP16 where it belongs, float32 where it must, and the same outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.helpers import tiny_model
from tests.tensorrt import graphs as g
from tests.tensorrt.conftest import float_graph, pictures, weak_int8
from toolchain.errors import ExportError, ParityError, QuantizationError
from toolchain.export.session import cpu_session
from toolchain.quantization.structure import Structure
from toolchain.tensorrt.agreement import BOX, SCORE, agreement, without_pairs
from toolchain.tensorrt.graph import PAIR, Graph
from toolchain.tensorrt.typed import half_scale, to_typed
from toolchain.tensorrt.verify import verify
from toolchain.tensorrt.versions import VERSIONS

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
STRONG = [name for name, version in VERSIONS.items() if version.number >= (10, 0)]


def batches() -> list[np.ndarray]:
    return [picture[None] for picture in pictures()]


def kinds(model: onnx.ModelProto, names: set[str]) -> set[int]:
    types = Graph(model).types
    floats = [types[name] for node in model.graph.node if node.name in names for name in node.output]
    return {kind for kind in floats if kind in (FLOAT, HALF)}


@pytest.mark.parametrize("int8", [False, True])
def test_layers_are_half_and_the_tail_is_float(tiny_graph: onnx.ModelProto, tiny_int8: onnx.ModelProto, int8: bool) -> None:
    model = to_typed(tiny_int8 if int8 else tiny_graph)
    tail, last = Structure(tiny_graph).head_tail()
    layers = {node.name for node in tiny_graph.graph.node} - tail
    assert kinds(model, tail) == {FLOAT}
    assert kinds(model, layers) == {HALF}
    assert {node.name for node in last} <= layers
    ends = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {FLOAT}
    assert Graph(model).opset == (19 if int8 else 17)
    assert {prop.key: prop.value for prop in model.metadata_props} == {p.key: p.value for p in tiny_graph.metadata_props}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 1 + len(last), "one at the input, one behind each last conv"


def test_pairs_are_half_and_weights_are_stored_once(tiny_int8: onnx.ModelProto) -> None:
    graph = Graph(to_typed(tiny_int8))
    assert len(graph.pairs) > 40
    for node in graph.pairs:
        assert graph.types[node.input[1]] == HALF, node.name
        assert graph.zero_type(node) == TensorProto.INT8
        if graph.holds_weight(node):
            assert node.op_type == "DequantizeLinear"
    convs = [node for node in graph.nodes if node.op_type == "Conv" and graph.dequantizer(node.input[1]) is not None]
    assert len(convs) >= 20
    for node in convs:
        assert graph.types[node.input[2]] == HALF


@pytest.mark.parametrize("version", STRONG)
def test_no_rule_minds_a_typed_graph(tiny_graph: onnx.ModelProto, tiny_int8: onnx.ModelProto, version: str) -> None:
    assert verify(to_typed(tiny_graph), version) == []
    assert verify(to_typed(tiny_int8), version) == []


def test_outputs_agree(tiny_graph: onnx.ModelProto, tiny_int8: onnx.ModelProto) -> None:
    found = agreement(tiny_graph, to_typed(tiny_graph), batches())
    assert found["images"] == 4
    assert 0 < found["score_mean_abs"] < 1e-3
    assert found["box_mean_abs_px"] < 0.02
    assert found["int8_score_mean_abs"] is None
    assert found["tolerance_score"] == SCORE
    int8 = agreement(tiny_int8, to_typed(tiny_int8), batches())
    assert int8["score_mean_abs"] < 1.2 * int8["int8_score_mean_abs"] + SCORE
    assert int8["box_mean_abs_px"] < 1.2 * int8["int8_box_mean_abs_px"] + BOX * 64


def test_without_pairs_nothing_is_rounded(tiny_graph: onnx.ModelProto, tiny_int8: onnx.ModelProto) -> None:
    """It is the graph that was quantized."""
    bare = without_pairs(tiny_int8)
    assert not Graph(bare).pairs
    (batch,) = [pictures(2)[:1]]
    want, have = (cpu_session(model).run(None, {"images": batch})[0] for model in (tiny_graph, bare))
    assert np.abs(want - have).max() < 1e-4


def test_a_ruined_graph_does_not_agree(tiny_graph: onnx.ModelProto) -> None:
    model = to_typed(tiny_graph)
    bias = next(node.input[2] for node in model.graph.node if node.name.endswith("cv3.0.2/Conv"))
    g.set_constant(bias, np.full(3, 3, np.float16))(model)
    with pytest.raises(ParityError, match="disagree"):
        agreement(tiny_graph, model, batches())


def test_a_free_batch_stays_free() -> None:
    model = float_graph(tiny_model(), dynamic=True)
    typed = to_typed(model)
    assert typed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert agreement(model, typed, [pictures(3)])["images"] == 3


def test_the_graph_given_is_not_changed(tiny_int8: onnx.ModelProto) -> None:
    before = tiny_int8.SerializeToString()
    to_typed(tiny_int8)
    assert tiny_int8.SerializeToString() == before


def test_int8_becomes_fp8_with_the_same_ranges(tiny_int8: onnx.ModelProto) -> None:
    """As many pairs at the same places; largest / 448 in place of largest / 127; outputs as near to float as FP8 can be."""
    int8, fp8 = Graph(to_typed(tiny_int8)), Graph(model := to_typed(tiny_int8, fp8=True))
    assert [(node.op_type, node.output[0]) for node in fp8.pairs] == [(node.op_type, node.output[0]) for node in int8.pairs]
    for old, new in zip(int8.pairs, fp8.pairs, strict=True):
        assert fp8.zero_type(new) == TensorProto.FLOAT8E4M3FN
        scales = [graph.array(node.input[1]) for graph, node in ((int8, old), (fp8, new))]
        np.testing.assert_allclose(scales[1].astype(float) * 448, scales[0].astype(float) * 127, rtol=2e-3, atol=1e-4)
    weights = [(graph.array(node.input[0]), graph.array(node.input[1]), node) for graph in (int8, fp8) for node in graph.pairs
               if graph.is_constant(node.input[0])]  # fmt: skip
    half = len(weights) // 2
    for (old, old_scale, _), (new, new_scale, node) in zip(weights[:half], weights[half:], strict=True):
        shape = (-1, *[1] * (old.ndim - 1))
        values = [w.astype(np.float32) * s.astype(np.float32).reshape(shape) for w, s in ((old, old_scale), (new, new_scale))]
        limit = np.abs(values[0]).max() / 127 + np.abs(values[0]) / 16  # half a step of each
        assert (np.abs(values[0] - values[1]) <= limit).all(), node.name
    agreement(tiny_int8, model, [picture[None] for picture in pictures(3)])


def test_fp8_needs_symmetric_pairs(tiny_graph: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="the graph has none"):
        to_typed(tiny_graph, fp8=True)
    with pytest.raises(ExportError, match="not int8 with zero point 0"):
        to_typed(weak_int8(tiny_graph, "onnxruntime-x86"), fp8=True)


def test_an_unknown_operator_is_named(tiny_graph: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(tiny_graph)
    node = next(node for node in model.graph.node if node.op_type == "MaxPool")
    node.op_type = "MaxPuul"
    with pytest.raises(ExportError, match=f"does not know\n.*MaxPuul in node {node.name}"):
        to_typed(model)


def test_what_cannot_be_typed_is_refused(tiny_graph: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="FP16 already"):
        to_typed(to_typed(tiny_graph))
    huge = onnx.ModelProto()
    huge.CopyFrom(tiny_graph)
    conv = next(node for node in huge.graph.node if node.op_type == "Conv")
    tensor = next(tensor for tensor in huge.graph.initializer if tensor.name == conv.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1e6 + 1e6, tensor.name))
    with pytest.raises(ExportError, match="does not fit into FP16") as caught:
        to_typed(huge)
    assert conv.input[1] in str(caught.value)
    values = [helper.make_tensor_value_info(name, FLOAT, [1]) for name in ("x", "y")]
    relu = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    with pytest.raises(QuantizationError, match="not a detector"):
        to_typed(helper.make_model(relu, opset_imports=[helper.make_opsetid("", 17)]))


def test_an_output_that_is_a_layer_stays_float32() -> None:
    """Without a tail behind it."""
    model = g.good()
    model.graph.node.remove(g.node(model, "scores"))
    model.graph.output[0].name = "last_out"
    typed = to_typed(model)
    assert typed.graph.output[0].type.tensor_type.elem_type == FLOAT
    assert [value.name for value in typed.graph.output] == ["last_out"]
    assert verify(typed, "11.4") == []


def test_scales_never_vanish() -> None:
    small = half_scale(np.array([1e-9, 1e-3, 2.0], np.float32))
    assert small.dtype == np.float16
    assert (small > 0).all()
    assert small[2] == 2


def test_x86_placement_is_refused_and_trts_is_not(tiny_graph: onnx.ModelProto, tiny_int8: onnx.ModelProto) -> None:
    """Unsigned zero points, int32 biases: what a CPU wants, TensorRT's parser refuses."""
    rules = {finding.rule for finding in verify(weak_int8(tiny_graph, "onnxruntime-x86"), "10.3") if finding.level == "error"}
    assert rules == {"H1", "H3"}
    for version in VERSIONS:
        found = [finding for finding in verify(tiny_int8, version) if finding.rule != "typed"]
        assert found == [], version
    assert {node.op_type for node in tiny_int8.graph.node} >= set(PAIR)
