"""A torch YOLO detector -> ONNX graph, by the TorchScript exporter.

The exporter built on torch.export (`dynamo=True`) is not used: it needs onnxscript, which is no dependency of this project,
and writes opset 18 at least, while TensorRT 8.x reads 17 at most.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from toolchain.errors import ExportError
from toolchain.export.edits import constants_as_initializers

INPUT, OUTPUT = "images", "output0"
OPSETS = range(13, 21)  # 13: first with per-channel Q/DQ; 20: last the TorchScript exporter writes


def check_request(imgsz: int, stride: int, opset: int) -> None:
    """Refuse what cannot work, before any work is done.

    Raises:
        ExportError: input size not a multiple of the stride, or opset out of range.
    """
    if opset not in OPSETS:
        fix = "17 suits every runtime here (TensorRT 8.x reads nothing newer)"
        raise ExportError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}", got=opset, fix=fix)
    if imgsz < stride or imgsz % stride:
        nearest = max(stride, round(imgsz / stride) * stride)
        raise ExportError(f"imgsz must be a multiple of the network's stride {stride}", got=imgsz, fix=f"nearest: {nearest}")


def prepare(module: Any) -> Any:
    """Deep copy of a detector, ready to trace: batch-norm fused, head in export mode.

    Raises:
        ExportError: the module trains, is not in FP32, or has no detection head.
    """
    import torch

    types = {parameter.dtype for parameter in module.parameters()}
    if module.training or types != {torch.float32}:
        got = f"training={module.training}, types={sorted(map(str, types))}"
        raise ExportError("only a float32 network in eval mode can be exported", got=got, fix="call module.float().eval() first")
    network = copy.deepcopy(module).cpu().requires_grad_(False)
    if hasattr(network, "fuse"):
        network.fuse(verbose=False)
    heads = [layer for layer in network.modules() if all(hasattr(layer, name) for name in ("export", "format", "dynamic"))]
    if not heads:
        raise ExportError("no detection head found", got=type(module).__name__, fix="give a YOLO detector of ultralytics")
    if any(getattr(head, "end2end", False) for head in heads):
        fix = "set `end2end = False` on its head to export the one-to-many outputs"
        raise ExportError(
            "a head without non-maximum suppression (end2end) is not supported", got=type(heads[0]).__name__, fix=fix
        )
    for head in heads:
        # `dynamic` stays False also with a free batch: the anchors depend on the picture's size alone and become constants.
        head.export, head.format, head.dynamic, head.shape = True, "onnx", False, None
    for layer in network.modules():
        if hasattr(layer, "forward_split"):  # one Split node in place of the slices of `chunk`
            layer.forward = layer.forward_split
        if type(layer).__name__ == "C2f" and not len(layer.m):  # nothing between its halves: no need to take them apart
            layer.forward = _straight(layer)
    return network


def _straight(block: Any) -> Callable[[Any], Any]:
    return lambda x: block.cv2(block.cv1(x))


def trace(network: Any, *, imgsz: int, opset: int, dynamic_batch: bool, classes: int) -> onnx.ModelProto:
    """ONNX graph with input `images` (n, 3, imgsz, imgsz) and output `output0` (n, 4 + classes, anchors).

    Raises:
        ExportError: the network's output has another shape.
    """
    import torch

    example = torch.zeros(1, 3, imgsz, imgsz)
    with tempfile.TemporaryDirectory(prefix="trace-") as folder, warnings.catch_warnings(), torch.no_grad():
        path = Path(folder) / "traced.onnx"
        warnings.simplefilter("ignore")  # tracer warnings about shapes: the parity check judges the result
        shape = _describe_output(network, example, classes)
        torch.onnx.export(
            network,
            (example,),
            str(path),
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if dynamic_batch else None,
            dynamo=False,
        )
        model = onnx.load(path)
    # A free batch makes the tracer forget the sizes that do not depend on it.
    batch = "batch" if dynamic_batch else shape[0]
    output = onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [batch, *shape[1:]])
    model.graph.output[0].CopyFrom(output)
    constants_as_initializers(model)
    return model


def _describe_output(network: Any, example: Any, classes: int) -> list[int | str]:
    """Shape of the decoded output, with the batch free to be 1.

    Raises:
        ExportError: the output is not (n, 4 + classes, anchors).
    """
    output = network(example)
    shapes = [tuple(value.shape) for value in output] if isinstance(output, (tuple, list)) else [tuple(output.shape)]
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][1] != 4 + classes:
        fix = "only detectors are supported; the class names must be those the network was trained with"
        raise ExportError(f"expected one output of shape (n, 4 + {classes} classes, anchors)", got=shapes, fix=fix)
    return list(shapes[0])
