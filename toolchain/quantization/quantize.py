"""The quantize stage: float ONNX and training pictures in, `model.int8.onnx` and `calibration.json` out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from toolchain import progress
from toolchain.errors import QuantizationError
from toolchain.export.edits import constants_as_initializers, shorten_dfl
from toolchain.imaging import float_batches
from toolchain.quantization.bias import correct_biases
from toolchain.quantization.calibrate import observe, ranges
from toolchain.quantization.qdq import place, plan_placement, share_ranges
from toolchain.quantization.recipe import DEFAULT, load_recipe
from toolchain.quantization.rules import get_rules
from toolchain.quantization.verify import verify
from toolchain.stage import file_sha256, write_bytes, write_json

FILE, CALIBRATION = "model.int8.onnx", "calibration.json"
FEW_IMAGES = 100


def quantize(
    model: Path,
    images: Sequence[Path],
    out: Path,
    *,
    imgsz: int,
    recipe: str | Path = DEFAULT,
    vnni: bool,
    rules: str = "onnxruntime-x86",
    keep_float: Sequence[str] = (),
    seed: int | None = None,
) -> dict[str, Any]:
    """Write `out/model.int8.onnx` with Q/DQ pairs and `out/calibration.json` with what they were made from.

    Args:
        model: float ONNX file of `export_onnx`.
        images: pictures of the training split; the recipe's number of them is drawn with the seed.
        out: existing folder.
        imgsz: side of the square input, pixels; must be the model's.
        recipe: name in `calibration/`, or path of a TOML file.
        vnni: the target CPU has 8-bit dot products (see `Rules.saturating_without_vnni`).
        rules: row of `RULES`: the runtime that will read the file.
        keep_float: names or patterns of ONNX nodes to leave in float.
        seed: instead of the recipe's.

    Returns:
        report: file, sha256, size_bytes, images, warnings, nodes in INT8 and in float, versions of the choice.

    Raises:
        QuantizationError: no pictures, a model that does not fit, or a graph the runtime would refuse.
        UnknownNameError: recipe or rules.
        ConfigError: a recipe file that breaks the schema.
    """
    chosen, row = load_recipe(recipe), get_rules(rules)
    seed = chosen.seed if seed is None else seed
    graph = load_float(model, imgsz)
    used = draw(images, chosen.images, seed)
    warnings = few_images(len(used))
    placement = plan_placement(graph, row, keep_float)
    with progress.task("Calibrating", total=len(used), unit="images") as task:
        batches = float_batches(used, imgsz, chosen.batch)
        seen = observe(graph, batches, placement.observed, advance=task.advance)
    found = ranges(seen, chosen.method, percentile=chosen.percentile or 100.0, before_silu=placement.before_silu)
    found = share_ranges(found, placement)
    result = place(graph, found, placement, row, vnni=vnni)
    corrected = 0
    if chosen.bias_images:
        some = used[:: max(1, len(used) // chosen.bias_images)][: chosen.bias_images]
        progress.note(f"  correcting biases on {len(some)} pictures")
        graph, corrected = correct_biases(graph, result, float_batches(some, imgsz))
        result = place(graph, found, placement, row, vnni=vnni)
    shortened = shorten_dfl(result) if row.short_dfl else 0
    verify(result, placement, row)
    path = out / FILE
    write_bytes(path, result.SerializeToString())
    report = {
        "file": FILE, "sha256": file_sha256(path), "size_bytes": path.stat().st_size, "imgsz": imgsz,
        "recipe": str(recipe), "method": chosen.method, "rules": rules, "vnni": vnni,
        "saturation_safe": row.saturating_without_vnni and not vnni, "images": len(used), "images_available": len(images),
        "seed": seed, "nodes_int8": len(placement.nodes), "nodes_float": len(placement.kept_float),
        "biases_corrected": corrected, "dfl_shortened": shortened, "warnings": warnings,
    }  # fmt: skip
    write_json(out / CALIBRATION, {
        "model_sha256": file_sha256(model), "recipe": chosen.model_dump(), "report": report,
        "images": [{"file": str(image), "sha256": file_sha256(image)} for image in used],
        "ranges": {name: list(pair) for name, pair in found.items()}, "kept_float": placement.kept_float,
    })  # fmt: skip
    return report


def load_float(path: Path, imgsz: int) -> onnx.ModelProto:
    """A float detector with one (n, 3, imgsz, imgsz) input, shapes inferred.

    Raises:
        QuantizationError: not ONNX, quantized already, or another input.
    """
    try:
        model = onnx.load(path)
        constants_as_initializers(model)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        raise QuantizationError(
            "not a readable ONNX file", got=f"{path}: {error!r:.200}", fix="run `toolchain export` first"
        ) from error
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in model.graph.node):
        raise QuantizationError("the model is quantized already", got=path, fix="give the float model.onnx")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs]
    if len(shapes) != 1 or shapes[0][1:] != [3, imgsz, imgsz]:
        fix = "quantize at the size the model was exported with"
        raise QuantizationError(f"expected one input of shape (n, 3, {imgsz}, {imgsz})", got=shapes, fix=fix)
    return model


def draw(images: Sequence[Path], count: int, seed: int) -> list[Path]:
    """At most `count` pictures, the same for the same seed and set, whatever order they are listed in.

    Raises:
        QuantizationError: there are none.
    """
    if not images:
        raise QuantizationError("no calibration pictures", got=0, fix="point `data` at a data set with training images")
    ordered = sorted(set(images))
    return sorted(random.Random(seed).sample(ordered, min(count, len(ordered))))


def few_images(count: int) -> list[str]:
    """Warning, also shown to the user, when ranges rest on few pictures."""
    if count >= FEW_IMAGES:
        return []
    text = f"calibrated on {count} pictures only; ranges are steadier with {FEW_IMAGES} or more"
    progress.note(f"  warning: {text}")
    return [text]
