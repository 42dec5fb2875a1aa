"""What is quantized, what stays in float, and that each runtime's rules hold in the written graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from toolchain.device.profile import profile
from toolchain.device.settings import On
from toolchain.errors import QuantizationError, UnknownNameError
from toolchain.export.edits import shorten_dfl
from toolchain.export.session import cpu_session
from toolchain.quantization.bias import correct_biases
from toolchain.quantization.calibrate import observe, ranges
from toolchain.quantization.costs import layer_costs
from toolchain.quantization.qdq import Placement, place, plan_placement, share_ranges
from toolchain.quantization.rules import MOVING, RULES, Rules, get_rules
from toolchain.quantization.structure import Structure
from toolchain.quantization.verify import verify

Quantized = tuple[onnx.ModelProto, Placement]


def quantized(model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str, *, vnni: bool = False) -> Quantized:
    row = RULES[rules]
    placement = plan_placement(model, row)
    found = ranges(observe(model, [pictures], placement.observed), "minmax", before_silu=placement.before_silu)
    return place(model, share_ranges(found, placement), placement, row, vnni=vnni), placement


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name)))


def reads(model: onnx.ModelProto) -> dict[str, list[str]]:
    """{node: operators that make its inputs}."""
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    return {node.name: [producer.get(name, "constant") for name in node.input] for node in model.graph.node}


def makers(producer: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> set[str]:
    """Operators behind a node, past those that only move values."""
    if node.op_type not in MOVING:
        return {node.op_type}
    moved = node.input if node.op_type == "Concat" else node.input[:1]
    return {op for name in moved for op in makers(producer, producer[name])}


def outputs(model: onnx.ModelProto, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    session = cpu_session(model)
    return np.concatenate([session.run(None, {"images": picture[None]})[0] for picture in pictures])


@pytest.mark.parametrize("rules", RULES)
def test_tail_is_float_and_layers_are_int8(float_model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str) -> None:
    model, placement = quantized(float_model, pictures, rules)
    sources = reads(model)
    tail, last = Structure(float_model).head_tail()
    assert {node.name.split("/")[-2] for node in last} == {"cv2.0.2", "cv2.1.2", "cv3.0.2", "cv3.1.2"}
    assert any("Softmax" in name for name in tail)
    assert any("dfl/conv" in name for name in tail)
    for name in tail:
        assert "DequantizeLinear" not in sources[name], name
    convs = [node for node in float_model.graph.node if node.op_type == "Conv" and node.name in placement.nodes]
    assert len(convs) >= 20
    producer = {name: node for node in model.graph.node for name in node.output}
    placed = {node.name: node for node in model.graph.node}
    for node in convs:
        assert sources[node.name][1] == "DequantizeLinear", node.name
        assert makers(producer, producer[placed[node.name].input[0]]) == {"DequantizeLinear"}, node.name
    verify(model, placement, RULES[rules])


@pytest.mark.parametrize("rules", RULES)
def test_weights_are_symmetric_per_channel(float_model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str) -> None:
    model, placement = quantized(float_model, pictures, rules)
    producer = {name: node for node in model.graph.node for name in node.output}
    floats = {node.name: node for node in float_model.graph.node}
    checked = 0
    for node in model.graph.node:
        if node.op_type != "Conv" or node.name not in placement.nodes:
            continue
        dequantize = producer[node.input[1]]
        channels = constant(float_model, floats[node.name].input[1]).shape[0]
        scale, zero = constant(model, dequantize.input[1]), constant(model, dequantize.input[2])
        assert scale.shape == (channels,)
        assert zero.dtype == np.int8
        assert not zero.any()
        assert [a.i for a in dequantize.attribute if a.name == "axis"] == [0]
        checked += 1
    assert checked >= 20


def pair_sums(model: onnx.ModelProto) -> int:
    """Largest sum of two neighbouring int8 weights of any conv."""
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    rows = [weight.transpose(0, 2, 3, 1).reshape(len(weight), -1).astype(int) for weight in stored]
    assert len(rows) >= 20
    return max(int(np.abs(row[:, 1:] + row[:, :-1]).max()) for row in rows)


def test_pairs_cannot_saturate_without_vnni(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    assert pair_sums(quantized(float_model, pictures, "onnxruntime-x86", vnni=False)[0]) <= 128
    assert pair_sums(quantized(float_model, pictures, "onnxruntime-x86", vnni=True)[0]) > 128
    assert pair_sums(quantized(float_model, pictures, "onnxruntime-arm", vnni=False)[0]) > 128


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("vnni", [False, True])
def test_int8_is_close_to_float(float_model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str, vnni: bool) -> None:
    model, _ = quantized(float_model, pictures[:4], rules, vnni=vnni)
    want, have = outputs(float_model, pictures), outputs(model, pictures)
    assert np.abs(want[:, :4] - have[:, :4]).mean() < 0.5  # pixels of 64
    spread = np.log(want[:, 4:] / (1 - want[:, 4:])), np.log(have[:, 4:] / (1 - have[:, 4:]))
    assert np.corrcoef(spread[0].ravel(), spread[1].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("rules", ["onnxruntime-x86", "onnxruntime-arm"])
def test_onnxruntime_ran_integer_kernels(
    float_model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout serves only if the runtime makes integer kernels of it; its profile says what ran."""
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))
    model, placement = quantized(float_model, pictures, rules)
    onnx.save(model, tmp_path / "int8.onnx")
    kinds = Counter(node.op for node in profile(tmp_path / "int8.onnx", On(threads=1), runs=2, warmup_runs=1))
    convs = [node.name for node in float_model.graph.node if node.op_type == "Conv"]
    meant = len(set(convs) & set(placement.nodes))
    assert 10 < meant < len(convs)
    assert kinds["QLinearConv"] == meant
    assert kinds["QLinearMul"] == kinds["QLinearSigmoid"] == meant
    # one island of float at each end: the picture, with its conv on x86, and each input of the head's tail
    assert kinds["QuantizeLinear"] == 1
    assert kinds["DequantizeLinear"] == 4


def test_tensorrt_gets_what_its_parser_reads(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    model, _ = quantized(float_model, pictures, "tensorrt")
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        zero = constant(model, node.input[2])
        assert zero.dtype == np.int8
        assert not zero.any()
    producer = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            assert node.input[2] not in producer, "the bias is a float constant"
        if node.op_type == "Sigmoid":
            assert producer[node.input[0]].op_type != "DequantizeLinear", "nothing between conv and SiLU"
        if node.op_type == "Add" and "/m.0/" in node.name:
            assert [producer[name].op_type for name in node.input] == ["DequantizeLinear"] * 2, "both residual inputs"
    assert not [t.name for t in model.graph.initializer if t.data_type in (TensorProto.INT32, TensorProto.UINT8)]


def test_metadata_is_kept(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    model, _ = quantized(float_model, pictures, "onnxruntime-x86")
    assert {p.key: p.value for p in model.metadata_props} == {p.key: p.value for p in float_model.metadata_props}


def test_kept_layers_stay_in_float(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    row = RULES["onnxruntime-x86"]
    placement = plan_placement(float_model, row, keep_float=["/model.4/*", "/model.9/cv1/conv/Conv"])
    assert not [name for name in placement.nodes if name.startswith("/model.4/")]
    assert placement.kept_float["/model.4/cv1/conv/Conv"] == "asked: /model.4/*"
    assert "/model.2/cv1/conv/Conv" in placement.nodes
    found = ranges(observe(float_model, [pictures], placement.observed), "minmax")
    model = place(float_model, share_ranges(found, placement), placement, row, vnni=False)
    assert (
        reads(model)["/model.4/m.0/cv1/conv/Conv"] == ["Mul", "constant", "constant"]
        or "DequantizeLinear" not in (reads(model)["/model.4/m.0/cv1/conv/Conv"])
    )
    verify(model, placement, row)


def test_bad_patterns_and_nothing_left(float_model: onnx.ModelProto) -> None:
    row = RULES["onnxruntime-x86"]
    with pytest.raises(QuantizationError, match="no layer matches"):
        plan_placement(float_model, row, keep_float=["/model.99/*"])
    with pytest.raises(QuantizationError, match="no conv would be quantized"):
        plan_placement(float_model, row, keep_float=["*"])
    with pytest.raises(UnknownNameError, match="did you mean"):
        get_rules("onnxruntime-x64")


def test_missing_range_is_an_error(float_model: onnx.ModelProto) -> None:
    row = RULES["tensorrt"]
    with pytest.raises(QuantizationError, match="without a calibrated range"):
        place(float_model, {}, plan_placement(float_model, row), row, vnni=False)


def test_tail_is_found_also_behind_the_short_dfl(float_model: onnx.ModelProto) -> None:
    _, before = Structure(float_model).head_tail()
    shorten_dfl(float_model)
    _, after = Structure(float_model).head_tail()
    assert {node.name for node in after} == {node.name for node in before}


def test_unnamed_nodes_get_names_of_their_own(float_model: onnx.ModelProto) -> None:
    for node in float_model.graph.node:
        node.name = ""
    graph = Structure(float_model)
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    assert len(graph.head_tail()[1]) == 4


def test_a_graph_without_convs_is_no_detector() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("images", "output0")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["output0"])], "relu", value[:1], value[1:])
    with pytest.raises(QuantizationError, match="not a detector"):
        Structure(helper.make_model(graph)).head_tail()


def broken_zero(model: onnx.ModelProto) -> None:
    pair = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    next(t for t in model.graph.initializer if t.name == pair.input[2]).CopyFrom(
        numpy_helper.from_array(np.array(5, np.int8), pair.input[2])
    )


def broken_scale(model: onnx.ModelProto) -> None:
    pair = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    next(t for t in model.graph.initializer if t.name == pair.input[1]).CopyFrom(
        numpy_helper.from_array(np.array(0, np.float32), pair.input[1])
    )


def broken_type(model: onnx.ModelProto) -> None:
    pair = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    next(t for t in model.graph.initializer if t.name == pair.input[2]).CopyFrom(
        numpy_helper.from_array(np.array(0, np.int32), pair.input[2])
    )


@pytest.mark.parametrize(
    ("change", "words"), [(broken_zero, "zero point is not 0"), (broken_scale, "not positive"), (broken_type, "INT32")]
)
def test_verifier_names_one_broken_pair(
    float_model: onnx.ModelProto, pictures: NDArray[np.float32], change: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model, placement = quantized(float_model, pictures, "tensorrt")
    change(model)
    with pytest.raises(QuantizationError, match=words) as caught:
        verify(model, placement, RULES["tensorrt"])
    assert "QuantizeLinear" in str(caught.value)


def reading_rounded(model: onnx.ModelProto, placement: Placement, row: Rules) -> set[str]:
    """The quantized convs, and the head's last ones; where those are float and Q stands before INT8 convs alone, not they."""
    last = set() if row.float_outputs and row.last_convs == "float" else {node.name for node in Structure(model).head_tail()[1]}
    return last | {node.name for node in model.graph.node if node.op_type == "Conv" and node.name in placement.nodes}


def test_costs_name_the_layer_with_the_ruined_scale(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    row = RULES["onnxruntime-x86"]
    placement = plan_placement(float_model, row)
    found = ranges(observe(float_model, [pictures], placement.observed), "minmax", before_silu=placement.before_silu)
    shared = share_ranges(found, placement)
    healthy = layer_costs(float_model, place(float_model, shared, placement, row, vnni=False), [pictures[:2]])
    assert [cost.sqnr_db for cost in healthy] == sorted(cost.sqnr_db for cost in healthy)
    assert {cost.name for cost in healthy} == reading_rounded(float_model, placement, row)
    assert healthy[0].sqnr_db > 15
    victim = "/model.9/m.0/cv1/act/Mul_output_0"  # read by one conv alone
    ruined = place(float_model, shared | {victim: (-1e-4, 1e-4)}, placement, row, vnni=False)
    worst = layer_costs(float_model, ruined, [pictures[:2]])[0]
    assert worst.name == "/model.9/m.0/cv2/conv/Conv"
    before = {cost.name: cost.sqnr_db for cost in healthy}
    assert worst.sqnr_db < before[worst.name] - 5


def test_costs_need_pictures_and_a_matching_graph(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    model, _ = quantized(float_model, pictures, "onnxruntime-x86")
    with pytest.raises(QuantizationError, match="no pictures"):
        layer_costs(float_model, model, [])
    with pytest.raises(QuantizationError, match="do not belong together"):
        layer_costs(float_model, float_model, [pictures])


@pytest.mark.parametrize("rules", RULES)
def test_bias_correction_takes_out_the_shift(float_model: onnx.ModelProto, pictures: NDArray[np.float32], rules: str) -> None:
    row = RULES[rules]
    placement = plan_placement(float_model, row)
    found = share_ranges(
        ranges(observe(float_model, [pictures], placement.observed), "minmax", before_silu=placement.before_silu), placement
    )
    first = place(float_model, found, placement, row, vnni=False)
    untouched = float_model.SerializeToString()
    corrected, count = correct_biases(float_model, first, [pictures])
    assert float_model.SerializeToString() == untouched
    assert count == len(reading_rounded(float_model, placement, row))
    second = place(corrected, found, placement, row, vnni=False)
    again = {name: np.abs(shift).max() for name, shift in shifts(float_model, second, pictures).items()}
    before = {name: np.abs(shift).max() for name, shift in shifts(float_model, first, pictures).items()}
    assert set(again) == set(before)
    assert sum(again.values()) < 0.05 * sum(before.values())


def shifts(model: onnx.ModelProto, int8: onnx.ModelProto, pictures: NDArray[np.float32]) -> dict[str, np.ndarray]:
    """Change each conv's bias would get."""
    corrected, _ = correct_biases(model, int8, [pictures])
    old = {
        node.name: constant(model, node.input[2]) for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2
    }
    new = {node.name: node.input[2] for node in corrected.graph.node if node.name in old}
    return {name: constant(corrected, tensor) - old[name] for name, tensor in new.items() if tensor.endswith("/corrected_bias")}
