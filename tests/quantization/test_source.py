"""Files that are not ours, or not what INT8 can start from, are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.quantization.conftest import SIZE
from toolchain.errors import QuantizationError
from toolchain.quantization.qdq import plan_placement
from toolchain.quantization.rules import RULES
from toolchain.quantization.source import LOWEST_OPSET, load_float

Edit = Callable[[onnx.ModelProto], None]


def saved(float_file: Path, folder: Path, edit: Edit) -> Path:
    model = onnx.load(float_file)
    edit(model)
    onnx.save(model, folder / "edited.onnx")
    return folder / "edited.onnx"


def set_opset(version: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return edit


def free_side(model: onnx.ModelProto) -> None:
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name


def bytes_in(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scales", TensorProto.FLOAT, [1, 4]))


def half_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def plugin(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "MaxPool")
    node.op_type, node.domain = "FancyPool", "my.plugins"
    model.opset_import.append(helper.make_opsetid("my.plugins", 1))


def misspelt(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "SoftMaks"


def from_the_future(model: onnx.ModelProto) -> None:
    model.ir_version = 99


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_opset(LOWEST_OPSET - 1), "opset is too old"),
        (set_opset(9), "opset 9; Q/DQ"),
        (set_opset(999), "opset is too new"),
        (free_side, r"size is free.*\n.*batch, 3, height, width"),
        (bytes_in, r"not float32\n.*images: uint8"),
        (second_input, r"one input of shape.*\n.*scales: \(1, 4\)"),
        (half_weights, r"not in float32\n.*Conv: float16 weights"),
        (plugin, r"does not know\n.*FancyPool of my.plugins in node /model.6/m/MaxPool"),
        (misspelt, r"does not know\n.*SoftMaks of ai.onnx in node"),
        (from_the_future, "ONNX Runtime cannot load"),
    ],
)
def test_refused_with_the_reason(float_file: Path, tmp_path: Path, edit: Edit, words: str) -> None:
    with pytest.raises(QuantizationError, match=words) as caught:
        load_float(saved(float_file, tmp_path, edit), SIZE)
    assert "\n  try: " in str(caught.value)


def test_a_free_batch_is_taken(float_file: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"

    load_float(saved(float_file, tmp_path, edit), SIZE)


def test_an_empty_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    for path in (tmp_path / "empty.onnx", tmp_path):
        with pytest.raises(QuantizationError, match="not a readable ONNX file"):
            load_float(path, SIZE)


def foreign(folder: Path, *, named: bool, weights_as_inputs: bool) -> Path:
    """A small network nobody here exported: own names or none, weights listed among the inputs as old exporters did."""
    rng = np.random.default_rng(0)
    kernels = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in
               (("w0", (8, 3, 3, 3)), ("w1", (8, 8, 3, 3)), ("w2", (7, 8, 1, 1)))}  # fmt: skip
    chain = [
        ("Conv", "images", "w0"),
        ("Relu", "t0", None),
        ("Conv", "t1", "w1"),
        ("LeakyRelu", "t2", None),
        ("Conv", "t3", "w2"),
    ]
    nodes = [
        helper.make_node(op, [source, *([weight] if weight else [])], [f"t{i}"], f"my node {i}" if named else "",
                         **({"pads": [1] * 4} if weight in ("w0", "w1") else {}))
        for i, (op, source, weight) in enumerate(chain)
    ]  # fmt: skip
    nodes.append(helper.make_node("Reshape", ["t4", "shape"], ["out"]))
    initializers = [numpy_helper.from_array(value, name) for name, value in kernels.items()]
    initializers.append(numpy_helper.from_array(np.array([1, 7, -1]), "shape"))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])]
    if weights_as_inputs:
        listed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in kernels.items()]
        inputs = [*listed, *inputs]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 7, SIZE * SIZE])]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "foreign.onnx")
    return folder / "foreign.onnx"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("weights_as_inputs", [True, False])
@pytest.mark.parametrize("rules", RULES)
def test_a_foreign_detector_is_quantized(
    tmp_path: Path, picture_files: list[Path], named: bool, weights_as_inputs: bool, rules: str
) -> None:
    from toolchain.quantization.quantize import quantize

    path = foreign(tmp_path, named=named, weights_as_inputs=weights_as_inputs)
    report = quantize(path, picture_files[:3], tmp_path, imgsz=SIZE, vnni=True, rules=rules)
    assert report["nodes_int8"] >= 2
    operators = [node.op_type for node in onnx.load(tmp_path / report["file"]).graph.node]
    assert operators.count("QuantizeLinear") >= 2


def test_a_graph_of_one_conv_is_not_told_to_keep_fewer_layers_in_float(tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, SIZE, SIZE]) for name, c in (("images", 3), ("out", 8))
    ]
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "weight")
    graph = helper.make_graph([helper.make_node("Conv", ["images", "weight"], ["out"])], "one", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "one.onnx")
    with pytest.raises(QuantizationError, match="no conv would be quantized") as caught:
        plan_placement(load_float(tmp_path / "one.onnx", SIZE), RULES["onnxruntime-x86"])
    assert "1 reads the picture" in str(caught.value)
    assert "toolchain export" in str(caught.value)
    assert "fewer layers" not in str(caught.value)


def test_not_a_detector(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, SIZE, SIZE]) for name in ("images", "out")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "relu", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "relu.onnx")
    with pytest.raises(QuantizationError, match="not a detector"):
        plan_placement(load_float(tmp_path / "relu.onnx", SIZE), RULES["tensorrt"])
