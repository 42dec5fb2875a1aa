"""One float graph on its way to INT8: its pictures are observed once, then any recipe and any choice of float layers is quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from toolchain import progress
from toolchain.export.edits import shorten_dfl
from toolchain.imaging import float_batches
from toolchain.quantization import tables
from toolchain.quantization.bias import correct_biases
from toolchain.quantization.calibrate import observe, ranges
from toolchain.quantization.pictures import Pictures, draw, few_images
from toolchain.quantization.qdq import Placement, place, plan_placement, share_ranges
from toolchain.quantization.ranges import Observed, Range
from toolchain.quantization.recipe import Recipe
from toolchain.quantization.rules import get_rules
from toolchain.quantization.source import load_float
from toolchain.quantization.structure import Structure
from toolchain.quantization.verify import verify
from toolchain.stage import file_sha256, write_bytes, write_json

FILE, CALIBRATION = "model.int8.onnx", "calibration.json"


@dataclass(frozen=True)
class Quantized:
    """An INT8 graph and what was decided for it.

    Attributes:
        graph: the float graph it was made from, biases corrected.
        ranges: of the tensors with Q/DQ; groups share theirs.
        biases_corrected, dfl_shortened: how many.
    """

    model: onnx.ModelProto
    graph: onnx.ModelProto
    placement: Placement
    ranges: dict[str, Range]
    biases_corrected: int
    dfl_shortened: int


class Quantizer:
    """
    Args:
        model: float ONNX file.
        images: pictures of the training split to draw from.
        imgsz: side of the square input, pixels; must be the model's.
        rules: row of `RULES`: the runtime that will read the file.
        vnni: the target CPU has 8-bit dot products (see `Rules.saturating_without_vnni`).
        seed: in place of the recipes' own.
        every_tensor: calibrate also what gets no Q/DQ, as TensorRT's calibration cache asks for.

    Raises:
        QuantizationError: a model that does not fit.
        UnknownNameError: rules.
    """

    def __init__(
        self, model: Path, images: Sequence[Path], *, imgsz: int, rules: str, vnni: bool, seed: int | None = None,
        every_tensor: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.images, self.imgsz, self.rules, self.vnni, self.seed = model, list(images), imgsz, rules, vnni, seed
        self.row = get_rules(rules)
        self.graph = load_float(model, imgsz)
        self.whole = plan_placement(self.graph, self.row)
        self.sha256 = file_sha256(model)
        self.tensors = tuple(dict.fromkeys((*self.whole.observed, *(_every(self.graph) if every_tensor else ()))))
        self._seen: tuple[str, dict[str, Observed]] | None = None  # of the last pictures: recipes usually share them

    @property
    def saturation_safe(self) -> bool:
        """Weights are held where the sums of kernels without VNNI cannot saturate."""
        return self.row.saturating_without_vnni and not self.vnni

    def pictures(self, recipe: Recipe) -> Pictures:
        """Those the recipe draws.

        Raises:
            QuantizationError: there are none.
        """
        return Pictures(tuple(draw(self.images, recipe.images, recipe.seed if self.seed is None else self.seed)))

    def origin(self, recipe: Recipe, images_sha256: str) -> tables.Origin:
        """What a table of this recipe depends on."""
        return tables.Origin(
            model_sha256=self.sha256, images_sha256=images_sha256, method=recipe.method, percentile=recipe.percentile,
            letterbox=tables.Frame(imgsz=self.imgsz), tensors_sha256=tables.tensors_sha256(self.tensors, self.whole.before_silu),
        )  # fmt: skip

    def table(self, recipe: Recipe) -> tables.Table:
        """Ranges by the recipe: from the cache, or by one pass over its pictures.

        Raises:
            QuantizationError: no pictures, or a network that fails on one.
        """
        pictures = self.pictures(recipe)
        origin = self.origin(recipe, pictures.sha256)
        known = tables.find(origin)
        if known is not None:
            progress.note(f"  ranges of {recipe.method} on {len(pictures.files)} pictures: calibrated before")
            return known
        if self._seen is None or self._seen[0] != origin.images_sha256:
            with progress.task("Calibrating", total=len(pictures.files), unit="images") as task:
                batches = float_batches(pictures.files, self.imgsz, recipe.batch)
                self._seen = origin.images_sha256, observe(self.graph, batches, self.tensors, advance=task.advance)
        percentile = 100.0 if recipe.percentile is None else recipe.percentile
        found = ranges(self._seen[1], recipe.method, percentile=percentile, before_silu=self.whole.before_silu)
        table = tables.make(origin, pictures.to_json(), found | share_ranges(found, self.whole))
        tables.keep(table)
        return table

    def plan(self, keep_float: Sequence[str] = ()) -> Placement:
        """Which nodes become INT8 when others stay in float.

        Raises:
            QuantizationError: a pattern that matches nothing, or nothing left to quantize.
        """
        return plan_placement(self.graph, self.row, keep_float)

    def place(self, table: tables.Table, recipe: Recipe, keep_float: Sequence[str] = ()) -> Quantized:
        """The INT8 graph.

        Args:
            table: of `table`, or one that `tables.check_fits` let through.
            recipe: says on how many pictures biases are corrected.
            keep_float: names or patterns of ONNX nodes to leave in float.

        Raises:
            QuantizationError: a pattern that matches nothing, or a graph the runtime would refuse.
        """
        placement = self.plan(keep_float)
        found = share_ranges({name: (low, high) for name, (low, high) in table.ranges.items()}, placement)
        graph, corrected = self.graph, 0
        if recipe.bias_images:
            some = self.pictures(recipe).some(recipe.bias_images)
            progress.note(f"  correcting biases on {len(some)} pictures")
            first = place(graph, found, placement, self.row, vnni=self.vnni)
            graph, corrected = correct_biases(graph, first, float_batches(some, self.imgsz))
        return self.place_as(graph, placement, found, corrected)

    def place_as(self, graph: onnx.ModelProto, placement: Placement, found: dict[str, Range], corrected: int = 0) -> Quantized:
        """The INT8 graph of this graph, or of one with other weights, by a placement and ranges that are known.

        Args:
            found: range of each tensor of the placement.
            corrected: biases of `graph` that make up for INT8.

        Raises:
            QuantizationError: a graph the runtime would refuse.
        """
        result = place(graph, found, placement, self.row, vnni=self.vnni)
        shortened = shorten_dfl(result) if self.row.short_dfl else 0
        verify(result, placement, self.row)
        return Quantized(result, graph, placement, found, corrected, shortened)

    def write(self, quantized: Quantized, table: tables.Table, recipe: Recipe, name: str, out: Path) -> dict[str, Any]:
        """`model.int8.onnx` and `calibration.json` into an existing folder.

        Args:
            name: of the recipe, as the user gave it.

        Returns:
            report: file, sha256, size_bytes, images, warnings, nodes in INT8 and in float, versions of the choice.
        """
        path = out / FILE
        write_bytes(path, quantized.model.SerializeToString())
        report = {
            "file": FILE, "sha256": file_sha256(path), "size_bytes": path.stat().st_size, "imgsz": self.imgsz,
            "recipe": name, "method": table.origin.method, "rules": self.rules, "vnni": self.vnni,
            "saturation_safe": self.saturation_safe, "images": len(table.images),
            "images_available": len(self.images), "seed": recipe.seed if self.seed is None else self.seed,
            "nodes_int8": len(quantized.placement.nodes), "nodes_float": len(quantized.placement.kept_float),
            "biases_corrected": quantized.biases_corrected, "dfl_shortened": quantized.dfl_shortened,
            "warnings": few_images(len(table.images)),
        }  # fmt: skip
        write_json(out / CALIBRATION, {
            "model_sha256": self.sha256, "recipe": recipe.model_dump(), "report": report,
            "images": [image.model_dump() for image in table.images], "ranges": quantized.ranges,
            "kept_float": quantized.placement.kept_float, "table": table.model_dump(),
        })  # fmt: skip
        return report


def _every(model: onnx.ModelProto) -> list[str]:
    """The input and all activations before the head's tail."""
    graph = Structure(model)
    tail, _ = graph.head_tail()
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    made = [name for node in graph.nodes if node.name not in tail for name in node.output]
    return [*graph.inputs, *(name for name in made if kinds.get(name) == onnx.TensorProto.FLOAT)]
