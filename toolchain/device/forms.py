"""Each graph in the form a runtime reads: most read the graph itself."""

from __future__ import annotations

from pathlib import Path

from toolchain.device.settings import On
from toolchain.errors import ExportError
from toolchain.export import openvino

ENGINES = "engines"  # folder of what was made of the graphs


def for_runtime(engine: Path, on: On, out: Path) -> Path:
    """The file the runtime reads: the graph itself, or one made in `out`, of it for ncnn, of OpenVINO's own pair for OpenVINO.

    Raises:
        ExportError: the runtime cannot have it.
    """
    if engine.suffix in (openvino.XML, openvino.SUFFIX):
        return _openvino(engine, on, out)
    if on.runtime != "ncnn" or engine.suffix != ".onnx":
        return engine
    from toolchain.export.ncnn import SUFFIX, to_ncnn

    (out / ENGINES).mkdir(parents=True, exist_ok=True)
    return to_ncnn(engine, out / ENGINES / f"{engine.stem}{SUFFIX}")


def _openvino(engine: Path, on: On, out: Path) -> Path:
    if on.runtime != "openvino":
        raise ExportError("OpenVINO alone reads its own files", got=f"{engine} for {on.runtime}", fix="--runtime openvino")
    if engine.suffix == openvino.SUFFIX:
        return engine
    (out / ENGINES).mkdir(parents=True, exist_ok=True)
    return openvino.pack(engine, out / ENGINES / f"{engine.stem}{openvino.SUFFIX}")
