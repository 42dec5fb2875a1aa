"""INT8 in ncnn: a Q/DQ graph's integers and scales arrive in ncnn's files, and its engine computes what the graph says."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.export.qdq import Net
from toolchain.agent import runtimes
from toolchain.errors import ExportError
from toolchain.export import ncnn_int8
from toolchain.export.ncnn import to_ncnn
from toolchain.export.session import cpu_session
from toolchain.export.unquantize import unquantize

rt = runtimes.find("ncnn")
try:
    rt.version()
except ImportError as error:
    pytest.skip(f"ncnn is not installed: {error}", allow_module_level=True)
pytest.importorskip("pnnx")


def several() -> Net:
    """Strided, plain, depthwise, float and 1x1."""
    net = Net().conv("a", 16, 3, scale=1 / 127, stride=2).silu().conv("b", 16, 3, scale=0.02, seed=1, bias=False).silu()
    net.conv("c", 16, 3, scale=0.01, group=16, seed=2).conv("float", 8, 3, scale=None, seed=3).silu()
    return net.conv("d", 7, 1, scale=0.01, seed=4)


def engine_of(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return to_ncnn(folder / "model.onnx", folder / "model.ncnn")


def run(path: Path, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    (output,) = rt.load(str(path), "cpu", 1).run(picture)
    return np.asarray(output)


def by_graph(model: onnx.ModelProto, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cpu_session(model, optimise=False).run(None, {"images": picture})[0])


def test_the_engine_computes_what_the_graph_says(tmp_path: Path) -> None:
    model, picture = several().model(), np.random.default_rng(7).random((1, 3, 16, 16), dtype=np.float32)
    found, want = run(engine_of(model, tmp_path), picture), by_graph(model, picture)
    rounding = np.abs(by_graph(unquantize(model)[0], picture) - want).mean()
    assert np.abs(found - want).mean() < 0.2 * rounding  # ties alone are rounded otherwise
    assert rounding > 1e-4


def test_a_layer_without_scales_stays_float(tmp_path: Path) -> None:
    model = several().model()
    with zipfile.ZipFile(engine_of(model, tmp_path)) as archive:
        lines, weights = archive.read("model.param").decode().splitlines(), archive.read("model.bin")
    convs = [line.split() for line in lines if line.startswith("Convolution")]
    terms = [next((word for word in words if word.startswith("8=")), None) for words in convs]
    assert terms == ["8=2", "8=2", "8=1", None, "8=2"]
    (floats,) = [tensor for tensor in model.graph.initializer if tensor.name == "float.weight"]
    assert onnx.numpy_helper.to_array(floats).tobytes() in weights
    assert rt.load(str(tmp_path / "model.ncnn"), "cpu", 1).options["int8_convolutions"] == 4


def test_sums_of_wide_layers_do_not_overflow(tmp_path: Path) -> None:
    """Winograd's F(4, 3), which ncnn would take, is off by 80 % here."""
    net = Net(channels=64, size=24).conv("wide", 16, 3, scale=1 / 127, weights=np.full((16, 64, 3, 3), 127, np.int8))
    model, picture = net.model(), np.ones((1, 64, 24, 24), np.float32)
    np.testing.assert_allclose(run(engine_of(model, tmp_path), picture), by_graph(model, picture), rtol=1e-5)


def test_an_ncnn_without_that_option_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = engine_of(several().model(), tmp_path)
    monkeypatch.setattr(rt, "WINOGRAD_43", "use_no_such_option")
    with pytest.raises(rt.AgentError, match="8 bits"):
        rt.load(str(path), "cpu", 1)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def set_constant(model: onnx.ModelProto, name: str, value: NDArray[Any] | np.generic) -> None:
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))


def weights_alone(model: onnx.ModelProto) -> None:
    node(model, "b").input[0] = node(model, "b.Q").input[0]


def input_alone(model: onnx.ModelProto) -> None:
    set_constant(model, "b.weight", np.zeros((16, 16, 3, 3), np.float32))
    node(model, "b").input[1] = "b.weight"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda model: set_constant(model, "b.in_zero", np.int8(3)), r"QuantizeLinear b\.Q: int8 with zero point 3"),
        (lambda model: set_constant(model, "b.in_zero", np.uint8(0)), r"QuantizeLinear b\.Q: uint8"),
        (lambda model: set_constant(model, "b.in_scale", np.float32(0)), r"QuantizeLinear b\.Q: scale 0"),
        (lambda model: node(model, "b.Q").input.pop(), r"QuantizeLinear b\.Q: scale and zero point"),
        (lambda model: setattr(node(model, "b"), "op_type", "Add"), r"DequantizeLinear b\.DQ: Add b reads it"),
        (lambda model: node(model, "b.W").attribute.pop(), r"DequantizeLinear b\.W: 16 scales along axis 1"),
        (weights_alone, r"Conv b: only its weights are INT8"),
        (input_alone, r"Conv b: only its input is INT8"),
    ],
)  # fmt: skip
def test_what_ncnn_cannot_have_is_refused_by_name(tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], says: str) -> None:
    model = several().model()
    spoil(model)
    with pytest.raises(ExportError, match=says) as caught:
        engine_of(model, tmp_path)
    assert "--runtime ncnn" in str(caught.value.fix)


def test_groups_of_channels_are_refused_by_name(tmp_path: Path) -> None:
    net = Net(channels=4).conv("grouped", 8, 3, scale=0.01, group=2)
    with pytest.raises(ExportError, match="grouped: 2 groups, 8 channels"):
        engine_of(net.model(), tmp_path)


def test_equal_weights_with_different_scales_are_refused(tmp_path: Path) -> None:
    net = Net(channels=4).conv("one", 4, 3, scale=0.01, bias=False).conv("two", 4, 3, scale=0.02, bias=False)
    with pytest.raises(ExportError, match="one, two"):
        engine_of(net.model(), tmp_path)
    net = Net(channels=4).conv("one", 4, 3, scale=0.01, bias=False).conv("two", 4, 3, scale=0.01, bias=False)
    assert rt.load(str(engine_of(net.model(), tmp_path)), "cpu", 1).options["int8_convolutions"] == 2


def test_weights_that_are_not_where_they_should_be_are_refused() -> None:
    _, convs = unquantize(several().model())
    param = "7767517\n2 2\nInput in0 0 1 in0\nGemm g 1 1 in0 out0 10=1\n"
    with pytest.raises(ExportError, match="Gemm"):
        ncnn_int8.quantize(param, b"\0" * 8, convs)
    with pytest.raises(ExportError, match="a, b, c, d"):
        ncnn_int8.quantize(param, b"", convs)
