"""The metadata properties that let stock `ultralytics.YOLO("model.onnx")` read the file."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from toolchain.errors import ExportError


def detection_metadata(
    names: Mapping[int, str], *, imgsz: int, stride: int, batch: int = 1, channels: int = 3, dynamic: bool = False
) -> dict[str, str]:
    """Properties as ultralytics' ONNX loader parses them: integers as digits, the rest as Python literals."""
    values: dict[str, object] = {
        "description": "exported by edge-toolchain", "stride": stride, "task": "detect", "batch": batch, "imgsz": [imgsz, imgsz],
        "names": dict(names), "channels": channels, "args": {"batch": batch, "dynamic": dynamic, "nms": False}, "end2end": False,
    }  # fmt: skip
    return {key: str(value) for key, value in values.items()}


def write_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Set the properties in `values`, keep the others."""
    merged = read_metadata(model) | dict(values)
    del model.metadata_props[:]
    for key, value in merged.items():
        model.metadata_props.add(key=key, value=value)


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """All metadata properties."""
    return {prop.key: prop.value for prop in model.metadata_props}


def class_names(path: Path) -> list[str]:
    """Class names of an exported graph, by class id.

    Raises:
        ExportError: the file does not say; it is neither ours nor ultralytics'.
    """
    try:
        names = ast.literal_eval(read_metadata(onnx.load(path, load_external_data=False))["names"])
        return [str(names[index]) for index in range(len(names))]
    except (KeyError, ValueError, SyntaxError, OSError, DecodeError) as error:
        fix = "export it with `toolchain export`"
        raise ExportError("the graph does not name its classes", got=f"{path}: {error}", fix=fix) from error
