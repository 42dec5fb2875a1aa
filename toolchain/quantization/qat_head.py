"""What a detector's head is made of, read from the graph: which of its last convs give boxes, which scores, at what stride."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from toolchain.errors import QuantizationError
from toolchain.quantization.structure import Structure

SIDES = 4


@dataclass(frozen=True)
class Head:
    """Raw outputs of a detector, finest level first.

    Attributes:
        boxes: tensors (n, 4 · bins, h, w), logits of the distribution of each side.
        scores: tensors (n, classes, h, w), logits.
        strides: pixels of the picture per cell.
        imgsz: side of the square input, pixels.
    """

    boxes: tuple[str, ...]
    scores: tuple[str, ...]
    strides: tuple[int, ...]
    classes: int
    bins: int
    imgsz: int


def head_of(model: onnx.ModelProto) -> Head:
    """From the last convs of the head.

    Args:
        model: float graph with inferred shapes, input (n, 3, imgsz, imgsz), output (n, 4 + classes, anchors).

    Raises:
        QuantizationError: not one conv for boxes and one for scores at each level.
    """
    graph = Structure(model)
    _, last = graph.head_tail()
    shapes = {value.name: _shape(value) for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    classes, imgsz = shapes[graph.outputs[0]][1] - SIDES, shapes[graph.inputs[0]][2]
    maps = sorted((conv.output[0] for conv in last if len(shapes.get(conv.output[0], ())) == 4), key=lambda t: -shapes[t][2])
    widths = {shapes[tensor][1] for tensor in maps}
    named = widths == {classes}  # as many bins as classes: then only ultralytics' names tell them apart
    scores = tuple(tensor for tensor in maps if ("/cv3" in tensor if named else shapes[tensor][1] == classes))
    boxes = tuple(tensor for tensor in maps if tensor not in scores)
    levels = [shapes[tensor][2:] for tensor in boxes]
    if len(maps) != len(last) or not boxes or levels != [shapes[tensor][2:] for tensor in scores] or len(widths) > 2:
        got = "; ".join(f"{conv.name}: {shapes.get(conv.output[0], '?')}" for conv in last)
        fix = "train with another tool, or pass the gate by --recipe auto or --mixed"
        raise QuantizationError("QAT knows heads with one conv for boxes and one for scores a level", got=got, fix=fix)
    strides = tuple(imgsz // height for height, _ in levels)
    return Head(boxes, scores, strides, classes, shapes[boxes[0]][1] // SIDES, imgsz)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
