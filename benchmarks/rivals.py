"""INT8 by others, from the same network and calibration pictures: ONNX Runtime's `quantize_static`, ultralytics' exports."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import ExportError
from toolchain.imaging import float_batches
from toolchain.stage import write_json

EXPORTER = Path(__file__).with_name("ultralytics_export.py")


def quantize_static(graph: Path, out: Path, images: Sequence[Path], imgsz: int, **options: Any) -> Path:
    """ONNX Runtime's own."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization import quantize_static as static

    name = onnx.load(graph).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = float_batches(images, imgsz)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    static(graph, out, Reader(), **options)
    return out


def best_options(kept_float: list[str], vnni: bool) -> dict[str, Any]:
    """What ONNX Runtime's documentation advises for x86, and the nodes that ours leaves in float."""
    from onnxruntime.quantization import QuantFormat, QuantType

    return {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": not vnni, "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8, "nodes_to_exclude": kept_float,
    }  # fmt: skip


def by_ultralytics(
    model: Path, out: Path, images: Sequence[Path], names: dict[int, str], *, kind: str, imgsz: int, python: str
) -> Path:
    """The engine's file in `out`.

    Its exporter calibrates on the YAML's `val`, every picture once, so the YAML calls the calibration pictures that. They are
    links in `out`, where its cache of labels lands too; it needs no labels.

    Args:
        kind: "onnx" or "openvino".
        python: has ultralytics, and for openvino nncf.

    Raises:
        ExportError: why there is none, in the exporter's words.
    """
    pictures = out / "calibration" / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        link = pictures / f"{index:05d}{image.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(image.resolve())
    data = out / "calibration" / "data.yaml"  # JSON is YAML
    write_json(data, {"path": str(pictures.parent.resolve()), "train": "images", "val": "images", "names": names})
    words = [python, EXPORTER, "--model", model, "--data", data, "--imgsz", imgsz, "--format", kind, "--out", out]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    (out / "export.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise ExportError(
            f"no {kind} by ultralytics' exporter", got=(done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
        )
    return Path(done.stdout.strip().splitlines()[-1])
