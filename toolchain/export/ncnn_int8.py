"""INT8 convolutions into ncnn's pair of files, as ncnn's own ncnn2int8 writes them.

A line of the .param ends in KEY=VALUE; key 8 (`int8_scale_term`) says that the layer is INT8. In the .bin the layers' data follow
each other in the order of the lines: of a convolution a tag, the weights, the bias, and if it is INT8 a scale per output channel
and one for its input. ncnn's scales are the inverse of ONNX's: integer = round(value * scale).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import ExportError
from toolchain.export.unquantize import Int8Conv

TAG_FLOAT, TAG_INT8 = 0, 0x000D4B38
SCALE_TERM = "8"
TERMS = {"Convolution": 2, "ConvolutionDepthWise": 1}  # their values of key 8: a scale per output channel, or per group
WITHOUT_TAG = "MemoryData"
SIDES = ("0", "1", "11", "2")  # width, height, depth, channels of a MemoryData
COUNTS = {  # layers with weights and a bias: keys of the number of outputs, of "has a bias", of the number of weights
    "Convolution": ("0", "5", "6"), "ConvolutionDepthWise": ("0", "5", "6"), "Deconvolution": ("0", "5", "6"),
    "DeconvolutionDepthWise": ("0", "5", "6"), "InnerProduct": ("0", "1", "2"),
}  # fmt: skip
GROUP = "7"


@dataclass(frozen=True)
class Piece:
    """What one line of the .param has in the .bin.

    Attributes:
        line: number of it.
        data: as it is there.
        weights, bias: float32, of a layer of `COUNTS`.
    """

    line: int
    kind: str
    keys: Mapping[str, str]
    data: bytes
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def quantize(param: str, weights: bytes, convs: Sequence[Int8Conv]) -> tuple[str, bytes]:
    """The pair with these convolutions in INT8.

    Args:
        param, weights: of the float graph, as pnnx wrote them with FP32 weights.

    Raises:
        ExportError: pnnx made something else of one of them (named), or ncnn has no INT8 for it.
    """
    lines = param.splitlines()
    waiting: dict[tuple[bytes, bytes], list[Int8Conv]] = {}
    for conv in convs:
        bias = b"" if conv.bias is None else conv.bias.astype(np.float32).tobytes()
        waiting.setdefault((conv.floats().tobytes(), bias), []).append(conv)
    _check_twins(waiting)
    made, done = bytearray(), set[str]()
    for piece in pieces(lines, weights):
        alike = waiting.get((piece.weights.tobytes(), piece.bias.tobytes())) if piece.kind in TERMS else None
        if not alike:
            made += piece.data
            continue
        conv = alike[0]
        _check_group(piece, conv)
        done.update(one.name for one in alike)
        lines[piece.line] += f" {SCALE_TERM}={TERMS[piece.kind]}"
        integers = conv.weights.tobytes()
        made += TAG_INT8.to_bytes(4, "little") + integers + b"\0" * (-len(integers) % 4) + piece.bias.tobytes()
        made += (1 / conv.weight_scales).astype(np.float32).tobytes() + np.float32(1 / conv.input_scale).tobytes()
    if lost := [conv.name for conv in convs if conv.name not in done]:
        fix = f"leave it in float: toolchain quantize --runtime ncnn --keep-float '{lost[0]}'"
        raise ExportError("pnnx made something else of an INT8 convolution", got=", ".join(lost), fix=fix)
    return "\n".join(lines) + "\n", bytes(made)


def pieces(lines: Sequence[str], weights: bytes) -> Iterator[Piece]:
    """Every layer that has data, in order.

    Raises:
        ExportError: the .bin is not what the lines say: there are layers with data that are not known here.
    """
    at, kinds = 0, []
    for number, line in enumerate(lines[2:], start=2):
        kind, _, inputs, outputs, *rest = line.split() if line.strip() else ("", "", "0", "0")
        keys = dict(word.split("=", 1) for word in rest[int(inputs) + int(outputs) :])
        kinds.append(kind)
        if kind == WITHOUT_TAG:
            size = 4 * int(np.prod([int(keys[side]) for side in SIDES if int(keys.get(side, "0"))]))
            floats = bias = np.empty(0, np.float32)
        elif kind in COUNTS:
            outputs_key, bias_key, weights_key = COUNTS[kind]
            count = int(keys[weights_key])
            biases = int(keys[outputs_key]) if keys.get(bias_key, "0") != "0" else 0
            size = 4 + 4 * (count + biases)
            if len(weights) < at + size or int.from_bytes(weights[at : at + 4], "little") != TAG_FLOAT:
                raise _strange(kinds)
            floats = np.frombuffer(weights, np.float32, count, at + 4)
            bias = np.frombuffer(weights, np.float32, biases, at + 4 + 4 * count)
        else:
            continue
        yield Piece(number, kind, keys, weights[at : at + size], floats, bias)
        at += size
    if at != len(weights):
        raise _strange(kinds)


def _strange(kinds: Sequence[str]) -> ExportError:
    unknown = sorted({kind for kind in kinds if kind and kind not in COUNTS and kind != WITHOUT_TAG})
    fix = "another runtime for INT8, or the float graph"
    return ExportError("the weights in pnnx's file are not where INT8 needs them", got=f"layers: {', '.join(unknown)}", fix=fix)


def _check_twins(waiting: Mapping[tuple[bytes, bytes], Sequence[Int8Conv]]) -> None:
    """Convolutions are told apart by their weights; those with the same ones must share everything."""
    for alike in waiting.values():
        if len({conv.input_scale for conv in alike}) > 1:
            names = ", ".join(conv.name for conv in alike)
            fix = f"leave them in float: --keep-float '{alike[0].name}'"
            raise ExportError("convolutions with equal weights and different scales cannot be told apart", got=names, fix=fix)


def _check_group(piece: Piece, conv: Int8Conv) -> None:
    if piece.kind == "ConvolutionDepthWise" and int(piece.keys.get(GROUP, "1")) != len(conv.weights):
        got = f"{conv.name}: {piece.keys.get(GROUP)} groups, {len(conv.weights)} channels"
        fix = f"leave it in float: toolchain quantize --runtime ncnn --keep-float '{conv.name}'"
        raise ExportError("ncnn has one scale for a group, the graph one for a channel", got=got, fix=fix)
