"""Does a typed graph compute what its float32 graph computes? Judged in ONNX Runtime on the CPU (FP16 through casts).

Only the best candidates of each picture count: those of the background have boxes that mean nothing. With Q/DQ, where FP16 rounds
to the other side a value moves by a whole 8-bit step; two INT8 graphs may then lie as far apart as each lies from float. So both
are held against the graph without its pairs, and the typed one must be about as close to it as the other is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import ParityError
from toolchain.export.session import cpu_session
from toolchain.tensorrt.graph import DEQUANTIZE, QUANTIZE, Graph

BEST = 20  # candidates of a picture
SCORE, BOX = 5e-3, 1e-3  # mean differences that FP16 may cause: of a score; of the picture's side
WORSE = 1.5  # times the differences that INT8 causes, where there is Q/DQ
# YOLOv8n, coco128, 320 px: FP16 0.001 and 0.015 px; INT8 (minmax on 16 pictures) 0.080 and 1.7 px, typed 0.088 and 1.3 px.


def agreement(before: onnx.ModelProto, after: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> dict[str, Any]:
    """Compare two detectors on pictures.

    Args:
        before: float32 graph, with Q/DQ or without.
        after: the typed one.
        batches: (n, 3, s, s) float32 in 0..1.

    Returns:
        images; mean differences of scores and boxes (pixels) of the best candidates from those in float32 without Q/DQ, of the
        typed graph and, where there is Q/DQ, of the graph before; what is tolerated.

    Raises:
        ParityError: the typed graph's differences are above that, or not a number.
    """
    int8 = bool(Graph(before).pairs)
    graphs = [without_pairs(before) if int8 else before, after, *([before] if int8 else [])]
    sessions = [cpu_session(graph) for graph in graphs]
    images, side, found = 0, 1, []
    for batch in batches:
        images, side = images + len(batch), batch.shape[-1]
        want, *have = (session.run(None, {session.get_inputs()[0].name: batch})[0] for session in sessions)
        if have[0].shape != want.shape:
            raise ParityError("the typed graph gives another shape", got=f"{have[0].shape}, not {want.shape}")
        found += [[_differences(true, each[index]) for each in have] for index, true in enumerate(want)]
    means = np.mean(found, axis=0)
    (score, box), int8_means = means[0], means[1] if int8 else np.zeros(2)
    limits = WORSE * int8_means + np.array([SCORE, BOX * side])
    report = {
        "images": images, "score_mean_abs": float(score), "box_mean_abs_px": float(box),
        "int8_score_mean_abs": float(int8_means[0]) if int8 else None,
        "int8_box_mean_abs_px": float(int8_means[1]) if int8 else None,
        "tolerance_score": float(limits[0]), "tolerance_box_px": float(limits[1]),
    }  # fmt: skip
    if not (score <= limits[0] and box <= limits[1]):
        got = (
            f"scores {score:.2e} (allowed {limits[0]:.1e}), boxes {box:.2e} px (allowed {limits[1]:.1e}) from float32 on average"
        )
        fix = "values may be too large or too small for FP16: use the float32 graph"
        raise ParityError("the typed graph and its float32 graph disagree", got=got, fix=fix)
    return report


def _differences(true: NDArray[np.float32], given: NDArray[np.float32]) -> tuple[float, float]:
    """Of scores and of boxes, means over the best candidates of one (4 + classes, anchors) output."""
    best = np.argsort(-true[4:].max(axis=0))[:BEST]
    difference = np.abs(true[:, best] - given[:, best])
    return float(difference[4:].max(axis=0).mean()), float(difference[:4].mean())


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in which nothing is rounded: every Q with the DQ behind it is gone."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    source = {}
    for node in graph.pairs:
        above = graph.producer.get(node.input[0])
        if node.op_type == DEQUANTIZE and above is not None and above.op_type == QUANTIZE:
            source[node.output[0]] = above.input[0]
    kept = [node for node in result.graph.node if node.op_type != QUANTIZE and node.output[0] not in source]
    for node in kept:
        for index, tensor in enumerate(node.input):
            while tensor in source:
                tensor = source[tensor]
            node.input[index] = tensor
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result
