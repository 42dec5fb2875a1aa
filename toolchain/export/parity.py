"""Does the ONNX file compute what torch computes? Boxes and scores are judged apart: pixels and probabilities share no scale."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import ExportError, ParityError
from toolchain.export.session import cpu_session

SCORE_TOLERANCE = 1e-3  # a score moves by less than the threshold (0.001) under which detections are dropped anyway
BOX_PX = 50.0  # pixels of box allowed per unit of score tolerance: 0.05 px at the default, far below any IoU step of mAP
BOX_RELATIVE = 0.1  # and of its value, per unit: 1e-4 at the default, a float32 sum over a large input


def parity(
    module: Any, model: onnx.ModelProto, images: NDArray[np.uint8], *, tolerance: float = SCORE_TOLERANCE
) -> dict[str, Any]:
    """Compare an ONNX graph on ONNX Runtime with the torch module it came from, picture by picture.

    Args:
        module: the detector before fusing, float32, eval.
        images: (n, 3, s, s) uint8, real letterboxed pictures.
        tolerance: largest difference of a score; boxes may differ by `50 * tolerance` px + `0.1 * tolerance` of their value.

    Raises:
        ParityError: a difference is above the tolerance, or not a number.
        ExportError: no images.
    """
    import torch

    if not len(images):
        raise ExportError("parity needs at least one real image", got=0, fix="pass letterboxed pictures of the training set")
    network = copy.deepcopy(module).cpu()  # the forward pass stores anchors in the head
    session = cpu_session(model)
    box_px = box_excess = score = 0.0
    for image in images:
        batch = image[None].astype(np.float32) / np.float32(255)
        with torch.no_grad():
            output = network(torch.from_numpy(batch))
        want = (output[0] if isinstance(output, (tuple, list)) else output).numpy()
        have = session.run(None, {session.get_inputs()[0].name: batch})[0]
        if want.shape != have.shape:
            raise ParityError("torch and ONNX give different shapes", got=f"{want.shape} and {have.shape}")
        difference = np.abs(want - have).astype(np.float64)
        allowed = BOX_PX * tolerance + BOX_RELATIVE * tolerance * np.abs(want[:, :4])
        box_px = _worst(box_px, difference[:, :4])
        box_excess = _worst(box_excess, difference[:, :4] / allowed)
        score = _worst(score, difference[:, 4:])
    report = {
        "images": len(images), "score_max_abs": score, "box_max_abs_px": box_px, "tolerance_score": tolerance,
        "tolerance_box_px": BOX_PX * tolerance, "tolerance_box_relative": BOX_RELATIVE * tolerance,
    }  # fmt: skip
    if not (score <= tolerance and box_excess <= 1):
        got = (
            f"scores differ by {score:.2e} (allowed {tolerance:.0e}), boxes by {box_px:.2e} px ({box_excess:.2f} of the allowed)"
        )
        raise ParityError(
            "the ONNX file and torch disagree", got=got, fix="export with simplify off or another opset, and report it"
        )
    return report


def _worst(so_far: float, values: NDArray[np.float64]) -> float:
    """Maximum that remembers a NaN."""
    return float(np.maximum(so_far, values.max()))
