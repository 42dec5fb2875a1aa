"""The quantize stage: float ONNX and training pictures in, `model.int8.onnx` and `calibration.json` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.quantization.quantizer import Quantizer
from toolchain.quantization.recipe import default_recipe, load_recipe


def quantize(
    model: Path,
    images: Sequence[Path],
    out: Path,
    *,
    imgsz: int,
    recipe: str | Path | None = None,
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
        recipe: name in `calibration/`, or path of a TOML file; None: the one for these rules.
        vnni: the target CPU has 8-bit dot products (see `Rules.saturating_without_vnni`).
        rules: row of `RULES`: the runtime that will read the file.
        keep_float: names or patterns of ONNX nodes to leave in float.
        seed: instead of the recipe's.

    Returns:
        report of `Quantizer.write`.

    Raises:
        QuantizationError: no pictures, a model that does not fit, or a graph the runtime would refuse.
        UnknownNameError: recipe or rules.
        ConfigError: a recipe file that breaks the schema.
    """
    name = str(recipe or default_recipe(rules))
    chosen = load_recipe(name)
    quantizer = Quantizer(model, images, imgsz=imgsz, rules=rules, vnni=vnni, seed=seed)
    quantizer.plan(keep_float)  # a name that matches nothing is told before the pictures are read
    table = quantizer.table(chosen)
    return quantizer.write(quantizer.place(table, chosen, keep_float), table, chosen, name, out)
