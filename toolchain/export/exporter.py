"""The export stage: module in, checked `model.onnx` out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.export.edits import shorten_dfl
from toolchain.export.metadata import detection_metadata, write_metadata
from toolchain.export.parity import SCORE_TOLERANCE, parity
from toolchain.export.simplify import simplify as simplified
from toolchain.export.tracing import check_request, prepare, trace
from toolchain.progress import note
from toolchain.stage import file_sha256, write_bytes

FILE = "model.onnx"
MAX_IR = 10  # onnxruntime 1.18 and TensorRT 10 read no newer file format


def export_onnx(
    module: Any,
    out: Path,
    *,
    imgsz: int,
    names: Mapping[int, str],
    stride: int,
    parity_images: NDArray[np.uint8],
    opset: int = 17,
    dynamic_batch: bool = False,
    simplify: bool = True,
    short_dfl: bool = False,
    tolerance: float = SCORE_TOLERANCE,
) -> dict[str, Any]:
    """Write `out/model.onnx`: float32, input `images` (n, 3, imgsz, imgsz) in 0..1, output `output0` (n, 4 + classes, anchors).

    The module is not changed. Stock `ultralytics.YOLO` can load the file.

    Args:
        module: detector of ultralytics, float32, eval mode.
        out: existing folder.
        imgsz: side of the square input, pixels.
        names: class index -> name.
        stride: largest stride of the network, pixels.
        parity_images: (n, 3, imgsz, imgsz) uint8, real letterboxed pictures; the file must agree with torch on them.
        dynamic_batch: leave the batch size free; otherwise it is 1.
        simplify: let onnxsim (or onnxslim) fold the graph; a failure is reported, never hidden.
        short_dfl: write the box softmax in the form that is quick in ONNX Runtime; not for FP16, where it would overflow.
        tolerance: of scores; see `toolchain.export.parity`.

    Returns:
        report: file, sha256, size_bytes, opset, nodes, simplifier, dfl_shortened, parity.

    Raises:
        ExportError: the request or the module cannot be exported.
        ParityError: the file computes something else than torch.
    """
    check_request(imgsz, stride, opset)
    network = prepare(module)
    model = trace(network, imgsz=imgsz, opset=opset, dynamic_batch=dynamic_batch, classes=len(names))
    simplifier: dict[str, Any] = {"used": None, "version": None, "failures": {}, "asked": simplify}
    if simplify:
        model, found = simplified(model, np.random.default_rng(0).random((1, 3, imgsz, imgsz), dtype=np.float32))
        simplifier |= found
        for name, reason in simplifier["failures"].items():
            note(f"  {name} was not used: {reason}")
    shortened = shorten_dfl(model) if short_dfl else 0
    write_metadata(model, detection_metadata(names, imgsz=imgsz, stride=stride, dynamic=dynamic_batch))
    model.ir_version = min(model.ir_version, MAX_IR)
    agreement = parity(module, model, parity_images, tolerance=tolerance)
    path = out / FILE
    write_bytes(path, model.SerializeToString())
    return {
        "file": FILE, "sha256": file_sha256(path), "size_bytes": path.stat().st_size, "opset": opset, "imgsz": imgsz,
        "dynamic_batch": dynamic_batch, "nodes": len(model.graph.node), "simplifier": simplifier, "dfl_shortened": shortened,
        "parity": agreement,
    }  # fmt: skip
