"""Verbs on ONNX graphs for TensorRT: what each version will say of one, and the typed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.errors import ExportError
from toolchain.stage import file_sha256, write_bytes, write_json

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

IMAGES = 4


def verify(model: Path, versions: Sequence[str] = ()) -> dict[str, Any]:
    """What versions of TensorRT refuse in a graph, and what they run slowly.

    Args:
        versions: such as "10.3"; none: all that are known.

    Returns:
        model, sha256, versions: {name: {"accepted", "findings": [{"rule", "level", "node", "text", "fix"}]}}.

    Raises:
        ExportError: not a readable ONNX file.
        UnknownNameError: a version.
    """
    from toolchain.tensorrt.verify import verify as ask
    from toolchain.tensorrt.versions import VERSIONS, get_version

    names = list(dict.fromkeys(get_version(version).name for version in versions)) or list(VERSIONS)
    graph = _load(model)
    found = {name: ask(graph, name) for name in names}
    return {
        "model": str(model), "sha256": file_sha256(model),
        "versions": {
            name: {"accepted": all(one.level != "error" for one in findings), "findings": [asdict(one) for one in findings]}
            for name, findings in found.items()
        },
    }  # fmt: skip


def typed(model: Path, out: Path, *, data: Path | None = None, fp8: bool = False) -> dict[str, Any]:
    """Float32 graph, with Q/DQ or without -> `NAME.typed.onnx` in FP16 for strongly typed TensorRT 10 and 11, and `typed.json`.

    Args:
        data: the outputs must agree on pictures of its training split; None: on seeded noise.
        fp8: its int8 Q/DQ become FP8, for GPUs of compute capability 8.9 and later.

    Raises:
        ExportError: a graph that cannot be written so, or that TensorRT 11 would refuse.
        ParityError: outputs differ by more than FP16 explains.
        QuantizationError: not a detector.
    """
    from toolchain.tensorrt.agreement import agreement
    from toolchain.tensorrt.graph import Graph
    from toolchain.tensorrt.typed import to_typed
    from toolchain.tensorrt.verify import check_accepted
    from toolchain.tensorrt.versions import VERSIONS

    before = _load(model)
    after = to_typed(before, fp8=fp8)
    newest = list(VERSIONS)[-1]
    warnings = [str(finding) for finding in check_accepted(after, newest)]
    agrees = agreement(before, after, _pictures(before, data))
    path = out / f"{model.stem}.typed.onnx"
    write_bytes(path, after.SerializeToString())
    graph = Graph(after)
    report = {
        "file": path.name, "sha256": file_sha256(path), "size_bytes": path.stat().st_size, "source_sha256": file_sha256(model),
        "opset": graph.opset, "nodes": len(graph.nodes), "int8": bool(graph.pairs) and not fp8, "fp8": fp8, "warnings": warnings,
        "agreement": agrees,
    }  # fmt: skip
    write_json(out / "typed.json", report)
    return report


def check_accepted(result: dict[str, Any]) -> None:
    """
    Args:
        result: of `verify`.

    Raises:
        ExportError: a version refuses the graph; names them and the nodes of the first.
    """
    from toolchain.tensorrt.registry import Finding
    from toolchain.tensorrt.verify import refusal

    refusing = [name for name, answer in result["versions"].items() if not answer["accepted"]]
    if not refusing:
        return
    findings = [Finding(**one) for one in result["versions"][refusing[0]]["findings"]]
    raise refusal(", ".join(refusing), findings)


def _load(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # whatever the parser makes of a file that is none
        raise ExportError(
            "not a readable ONNX file", got=f"{path}: {error!r:.200}", fix="run `toolchain export` first"
        ) from error
    if not model.graph.node:
        raise ExportError("not a readable ONNX file", got=f"{path}: no nodes", fix="run `toolchain export` first")
    return model


def _pictures(model: onnx.ModelProto, data: Path | None) -> Iterator[NDArray[np.float32]]:
    """(1, 3, s, s) float32 in 0..1, for the graph's input."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or not shape[2] or shape[2] != shape[3]:
        raise ExportError(
            "expected one input (n, 3, size, size) of a fixed size", got=shape, fix="export it with `toolchain export`"
        )
    if data is None:
        noise = np.random.default_rng(0)
        return (noise.random((1, *shape[1:]), dtype=np.float32) for _ in range(IMAGES))
    from toolchain.imaging import float_batches
    from toolchain.yolo.dataset import load_dataset
    from toolchain.yolo.loss import choose_images

    dataset = load_dataset(data)
    paths = dataset.images("train")
    return float_batches([paths[index] for index in choose_images(dataset, "train", IMAGES, 0)], shape[2])
