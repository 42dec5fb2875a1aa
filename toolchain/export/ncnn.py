"""ONNX -> ncnn: pnnx turns a graph of fixed shapes into ncnn's pair of files, which travel as one.

Of a Q/DQ graph whose convolutions alone are quantized the float graph goes through pnnx, then the integers into its files.

The file is an archive, stored and without dates, so that the same graph gives the same bytes: model.param and model.bin as ncnn
reads them, and about.json with what they do not say. The agent's rt_ncnn.py reads it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import onnx

from toolchain.errors import ExportError, UsageError
from toolchain.export.ncnn_int8 import quantize
from toolchain.export.unquantize import Int8Conv, is_quantized, unquantize
from toolchain.stage import file_sha256

FORMAT = 2
SUFFIX = ".ncnn"
FOREIGN = re.compile(r"[.:]")  # in the kind of a layer: what pnnx left as it was, "torch.cumsum", "aten::size"
LIMIT_S = 600.0


def to_ncnn(model: Path, out: Path) -> Path:
    """Write `out`, an ncnn engine of the graph.

    Raises:
        UsageError: pnnx is not installed.
        ExportError: the graph takes any shape, or is quantized as ncnn cannot be; pnnx cannot convert it, or leaves operators
            ncnn does not have.
    """
    floats, convs = _parts(onnx.load(model))
    graph = floats.graph
    inputs, outputs = _tensors(graph.input), _tensors(graph.output)
    _check(model, inputs)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        folder = Path(name)
        param, weights = _pnnx(model, floats, folder, inputs[0]["shape"])
        layers = [line.split() for line in param.splitlines()[2:]]
        if foreign := sorted({words[0] for words in layers if words and FOREIGN.search(words[0])}):
            raise ExportError("ncnn has no such operators", got=f"{model}: {', '.join(foreign)}", fix="another runtime")
        if convs:
            param, weights = quantize(param, weights, convs)
        about = {
            "format": FORMAT, "int8_convolutions": len(convs), "inputs": inputs, "outputs": outputs,
            "source_sha256": file_sha256(model),
            "input_blob": _blobs(layers, "in", 1)[0], "output_blobs": _blobs(layers, "out", len(outputs)),
        }  # fmt: skip
        made = folder / out.name
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (
                ("about.json", json.dumps(about, sort_keys=True).encode()),
                ("model.param", param.encode()),
                ("model.bin", weights),
            ):
                archive.writestr(zipfile.ZipInfo(name), data)
        made.replace(out)
    return out


def _tensors(values: Any) -> list[dict[str, Any]]:
    """Name, shape (None where it is free) and numpy type of the graph's inputs or outputs."""
    return [
        {
            "name": value.name,
            "shape": [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim],
            "type": onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        }
        for value in values
    ]


def _parts(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Int8Conv]]:
    return unquantize(model) if is_quantized(model.graph) else (model, [])


def _check(model: Path, inputs: list[dict[str, Any]]) -> None:
    shapes = [tensor["shape"] for tensor in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or None in shapes[0] or shapes[0][0] != 1:
        raise ExportError("ncnn takes one picture of a fixed size", got=f"{model}: {shapes}", fix="export without --dynamic")


def _pnnx(model: Path, floats: onnx.ModelProto, folder: Path, shape: list[int]) -> tuple[str, bytes]:
    """What the converter makes of a float graph: .param and .bin; weights stay FP32."""
    onnx.save(floats, folder / "model.onnx")
    words = [program(), "model.onnx", f"inputshape={json.dumps(shape, separators=(',', ':'))}", "fp16=0"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode or not (folder / "model.ncnn.param").is_file():
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise ExportError("pnnx could not convert the graph", got=f"{model}, status {done.returncode}: {said}")
    return (folder / "model.ncnn.param").read_text(), (folder / "model.ncnn.bin").read_bytes()


def program() -> str:
    """Where pip has put pnnx's program.

    Raises:
        UsageError: nowhere.
    """
    spec = importlib.util.find_spec("pnnx")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = next((str(path) for place in places for path in sorted(Path(place).glob("**/pnnx*")) if _runs(path)), None)
    if found is None:
        raise UsageError("pnnx, which makes ncnn engines, is not installed", fix="pip install 'edge-toolchain[ncnn]'")
    return found


def _runs(path: Path) -> bool:
    return path.is_file() and path.name in ("pnnx", "pnnx.exe") and path.stat().st_mode & 0o111 != 0


def _blobs(layers: list[list[str]], start: str, count: int) -> list[str]:
    """pnnx names the blobs at the ends in0, in1 ... and out0, out1 ...; all must be there."""
    blobs = {word for words in layers for word in words[4:]}
    names = [f"{start}{number}" for number in range(count)]
    if missing := [name for name in names if name not in blobs]:
        raise ExportError("pnnx named the ends of the graph otherwise", got=f"no blob {', '.join(missing)}")
    return names
