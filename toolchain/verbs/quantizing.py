"""The verb that makes INT8: ranges by a recipe or the best of all, layers left in float on request, the gate at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import progress, requests
from toolchain.config import Int8Section
from toolchain.device.profile import RUNTIMES as PROFILED
from toolchain.device.profile import profile
from toolchain.device.recover import recover
from toolchain.device.settings import HERE, On
from toolchain.errors import AccuracyGateError, UsageError
from toolchain.stage import write_bytes, write_json
from toolchain.verbs.accuracy import cpu_features, engine_accuracy, judged_on

if TYPE_CHECKING:
    from toolchain.quantization.gate import Attempt
    from toolchain.quantization.mixed import Layer
    from toolchain.quantization.quantizer import Quantized, Quantizer
    from toolchain.quantization.recipe import Recipe
    from toolchain.quantization.tables import Table
    from toolchain.yolo.dataset import Dataset

HELD_OUT = "held-out"  # training pictures that did not calibrate
TRIALS = "trials"  # folder of the INT8 models that were judged on the way


@dataclass
class Judge:
    """mAP of engines' own outputs on one device.

    Attributes:
        split: of the gate.
        folder: keeps their predictions.
        attempts: every INT8 model judged so far.
    """

    dataset: Dataset
    split: str
    imgsz: int
    on: On
    folder: Path
    attempts: list[Attempt] = field(default_factory=list)

    def accuracy(self, engine: Path, name: str, split: str) -> dict[str, Any]:
        """As `evaluate` gives it."""
        return engine_accuracy(
            engine, self.folder, dataset=self.dataset, split=split, imgsz=self.imgsz, on=self.on, name=name.replace("/", "_")
        )

    def attempt(
        self, engine: Path, name: str, recipe: str, *, left_float: int = 0, split: str | None = None, qat_epochs: int = 0
    ) -> dict[str, Any]:
        """The same of an INT8 model, remembered for the gate."""
        from toolchain.quantization.gate import Attempt

        found = self.accuracy(engine, name, split or self.split)
        self.attempts.append(Attempt(recipe, left_float, found["map50_95"], split or self.split, qat_epochs))
        return found


@dataclass
class Making:
    """An INT8 model under way.

    Attributes:
        name, recipe, ranges: set by `calibrate`.
        trials: what each recipe came to, if all were tried.
    """

    quantizer: Quantizer
    section: Int8Section
    judge: Judge
    out: Path
    seed: int = 0
    name: str = ""
    recipe: Recipe = field(init=False)
    ranges: Table = field(init=False)
    trials: list[dict[str, Any]] = field(default_factory=list)

    def place(self, floats: Sequence[str] = ()) -> Quantized:
        """The graph, with these nodes in float too."""
        return self.quantizer.place(self.ranges, self.recipe, [*self.section.keep_float, *map(escape, floats)])

    def trial(self, quantized: Quantized, name: str) -> Path:
        """A file of its own, kept."""
        engine = self.out / TRIALS / f"{name}.int8.onnx"
        engine.parent.mkdir(exist_ok=True)
        write_bytes(engine, quantized.model.SerializeToString())
        return engine

    def write(self, quantized: Quantized) -> dict[str, Any]:
        """`model.int8.onnx` and `calibration.json`."""
        return self.quantizer.write(quantized, self.ranges, self.recipe, self.name, self.out)


def quantize(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    int8: Int8Section | None = None,
    split: str = "val",
    on: On = HERE,
    seed: int = 0,
    work: Path | None = None,
    table: Path | None = None,
    trt_cache: Path | None = None,
    trt_version: str | None = None,
) -> dict[str, Any]:
    """Float ONNX -> `model.int8.onnx`, calibrated on training pictures and judged by the engines' own outputs on `split`.

    Args:
        work: keeps prepared pictures and predictions; default: `out`.
        on: its runtime says how the graph is placed; it is judged there by that runtime, or, where the host has none, by ONNX
            Runtime with a warning. A target of another architecture than the host is what it is placed for.
        table: `calibration.json` of an earlier call, in place of calibrating.
        trt_cache: write the ranges there too, as TensorRT's implicit INT8 reads them.
        trt_version: of the TensorRT that will read it.

    Raises:
        AccuracyGateError: INT8 lost more than `max_drop`; `refused.json` in `out` says what was measured and tried.
        QuantizationError: a model, pictures or a table that do not fit.
    """
    from toolchain.quantization.gate import check_gate
    from toolchain.quantization.pictures import also_judged_on, warn
    from toolchain.quantization.quantizer import FILE

    where, warned = judged_on(on)
    for text in warned:
        warn(text)
    making = _start(model, out, data, imgsz, int8 or Int8Section(), split, on, where, seed, work or out, trt_cache is not None)
    section, judge = making.section, making.judge
    _calibrate(making, table)
    if trt_cache is not None:
        _write_trt_cache(making.ranges, trt_cache, trt_version)
    quantized = making.place()
    report = making.write(quantized)
    drawn = [Path(image.file) for image in making.ranges.images]
    warnings = [*warned, *report["warnings"], *also_judged_on(drawn, judge.dataset.images(split), split)]
    float_ = judge.accuracy(model, "float", split)
    found = judge.attempt(out / FILE, "int8", making.name)
    least, mixed = float_["map50_95"] - section.max_drop, None
    if section.mixed and found["map50_95"] < least:
        mixed, better = _mix(making, least)
        if better is not None:
            quantized, found = better
            report = making.write(quantized)
    trained = None
    if section.qat.epochs and found["map50_95"] < least:
        trained, quantized, found, warning = _train(making, quantized, found)
        warnings += warning
        report = making.write(quantized)
    costs = _costs(making.quantizer, quantized, trained) if found["map50_95"] < least else []
    report |= {
        "judged_by": where.runtime,
        "float": float_, "int8": found, "max_drop": section.max_drop, "trials": making.trials, "mixed": mixed, "qat": trained,
        "tried": [str(attempt) for attempt in judge.attempts], "warnings": warnings,
        "noisiest": [{"layer": cost.name, "sqnr_db": cost.sqnr_db} for cost in costs],
    }  # fmt: skip
    try:
        report["gate"] = check_gate(
            float_["map50_95"], found["map50_95"], section.max_drop, tried=judge.attempts, images=report["images"], costs=costs
        )
    except AccuracyGateError:
        write_json(out / "refused.json", report)
        (out / FILE).rename(out / "refused.int8.onnx")
        raise
    return report


def _start(
    model: Path, out: Path, data: Path, imgsz: int, section: Int8Section, split: str, on: On, where: On, seed: int,
    work: Path, every_tensor: bool,
) -> Making:  # fmt: skip
    """Everything that can be checked before a picture is read."""
    from toolchain.quantization.pictures import set_aside
    from toolchain.quantization.quantizer import Quantizer
    from toolchain.quantization.recipe import AUTO
    from toolchain.yolo.dataset import load_dataset

    requests.check_qat(section.qat, seed)
    dataset = load_dataset(data)
    dataset.images(split)
    images = dataset.images("train")
    if section.recipe == AUTO or section.mixed:
        images, held_out = set_aside(images, seed)
        dataset = dataset.with_split(HELD_OUT, held_out)
    quantizer = Quantizer(model, images, imgsz=imgsz, seed=seed, every_tensor=every_tensor, **cpu_features(on))
    quantizer.plan(section.keep_float)
    return Making(quantizer, section, Judge(dataset, split, imgsz, where, work), out, seed)


def _calibrate(making: Making, given: Path | None) -> None:
    """Recipe and ranges: from a table that is given, by the recipe asked for, or by the best of all."""
    from toolchain.quantization.recipe import AUTO, default_recipe, load_recipe

    asked, quantizer = making.section.recipe, making.quantizer
    if given is not None:
        _take_table(making, given)
        return
    if asked == AUTO:
        _try_all(making)
        usual = default_recipe(quantizer.rules, making.judge.on.target)
        best = max(making.trials, key=lambda trial: (trial["map50_95"], trial["recipe"] == usual))
        progress.note(f"  best on {best['images']} training pictures set aside: {best['recipe']}")
        asked = str(best["recipe"])
    making.name = asked or default_recipe(quantizer.rules, making.judge.on.target)
    making.recipe = load_recipe(making.name)
    making.ranges = quantizer.table(making.recipe)


def _take_table(making: Making, given: Path) -> None:
    from toolchain.quantization.recipe import AUTO, list_recipes, load_recipe
    from toolchain.quantization.tables import check_fits, load_table

    asked, table = making.section.recipe, load_table(given)
    name = asked or next(name for name in list_recipes() if load_recipe(name).method == table.origin.method)
    if name == AUTO or load_recipe(name).method != table.origin.method:
        got = f"{given}: {table.origin.method}; asked for {name}"
        raise UsageError("the calibration table is by another method", got=got, fix="leave --recipe or --calibration out")
    making.name, making.recipe, making.ranges = name, load_recipe(name), table
    check_fits(table, making.quantizer.origin(making.recipe, table.origin.images_sha256))


def _try_all(making: Making) -> None:
    """mAP of every recipe for these rules on training pictures that did not calibrate."""
    from toolchain.quantization.recipe import load_recipe, recipes_for

    for name in recipes_for(making.quantizer.rules):
        making.recipe = load_recipe(name)
        making.ranges = making.quantizer.table(making.recipe)
        engine = making.trial(making.place(), name)
        found = making.judge.attempt(engine, f"{HELD_OUT}-{name}", name, split=HELD_OUT)
        making.trials.append({"recipe": name, "map50_95": found["map50_95"], "images": found["images"]})
        progress.note(f"  {name}: mAP50-95 {found['map50_95']:.4f} on {found['images']} training pictures set aside")


def _mix(making: Making, least: float) -> tuple[dict[str, Any], tuple[Quantized, dict[str, Any]] | None]:
    """The fewest layers in float with which mAP reaches `least`.

    Returns:
        what was measured, and the graph with its accuracy, if there is one.
    """
    from toolchain.quantization import mixed

    quantizer, judge = making.quantizer, making.judge
    held_out = judge.dataset.images(HELD_OUT)
    layers = mixed.layers_of(quantizer.graph, quantizer.plan(making.section.keep_float))
    damage = mixed.damages(quantizer, making.ranges, layers, held_out)
    saved, source = _saved(making, layers)
    order = mixed.rank(layers, damage, saved)
    made: dict[int, tuple[Quantized, dict[str, Any]]] = {}

    def passes(count: int) -> bool:
        quantized = making.place([node for layer in order[:count] for node in layer.nodes])
        engine = making.trial(quantized, f"mixed-{count}")
        found = judge.attempt(engine, f"int8-mixed-{count}", making.name, left_float=count)
        made[count] = quantized, found
        progress.note(f"  {count} layers in float: mAP50-95 {found['map50_95']:.4f}, wanted {least:.4f}")
        return bool(found["map50_95"] >= least)

    count = mixed.smallest(len(order) - 1, passes)
    report = {
        "saved_by": source, "images": min(len(held_out), mixed.PICTURES), "layers": mixed.to_json(order, damage, saved),
        "left_float": None if count is None else [layer.name for layer in order[:count]],
    }  # fmt: skip
    return report, None if count is None else made[count]


def _saved(making: Making, layers: Sequence[Layer]) -> tuple[dict[str, float], str]:
    """What INT8 saves in each layer, and how that is known."""
    from toolchain.quantization.mixed import times_of
    from toolchain.quantization.quantizer import FILE

    on, quantizer = making.judge.on, making.quantizer
    by_macs = {layer.name: float(layer.macs) for layer in layers}
    if on.runtime not in PROFILED:
        return by_macs, f"multiply-adds: {on.runtime} does not tell the time of single layers"
    times = []
    for engine in (quantizer.model, making.out / FILE):
        nodes = recover(lambda engine=engine: profile(engine, on, imgsz=quantizer.imgsz), on)  # type: ignore[misc]
        times.append(times_of(layers, quantizer.graph.graph, ((node.name, node.min_ms) for node in nodes)))
    unknown = [layer.name for layer in layers if not all(layer.name in found for found in times)]
    if unknown:
        return by_macs, f"multiply-adds: the profile does not name {len(unknown)} of {len(layers)} layers, as {unknown[0]}"
    return {layer.name: times[0][layer.name] - times[1][layer.name] for layer in layers}, f"profile on {on.host}, ms"


def _train(
    making: Making, calibrated: Quantized, before: dict[str, Any]
) -> tuple[dict[str, Any], Quantized, dict[str, Any], list[str]]:
    """QAT; what calibration alone gave is kept where that is no better, and said.

    Returns:
        what was done, the graph that is kept, its accuracy, warnings.
    """
    from toolchain.quantization.pictures import warn
    from toolchain.verbs.qat import train_int8

    report, trained, after = train_int8(making, calibrated)
    report["kept"] = after["map50_95"] > before["map50_95"]
    if report["kept"]:
        return report, trained, after, []
    maps = f"mAP50-95 {after['map50_95']:.4f} after, {before['map50_95']:.4f} by calibration alone"
    return report, calibrated, before, [warn(f"QAT did not help and is not kept: {maps}")]


def _costs(quantizer: Quantizer, quantized: Quantized, qat: dict[str, Any] | None) -> Any:
    """Noise of every layer."""
    from toolchain.imaging import float_batches
    from toolchain.quantization.costs import layer_costs

    graph = quantized.graph if qat and qat["kept"] else quantizer.graph  # what QAT changed is no noise
    return layer_costs(graph, quantized.model, float_batches(quantizer.images[:8], quantizer.imgsz))


def _write_trt_cache(ranges: Table, path: Path, version: str | None) -> None:
    from toolchain.quantization.trt_cache import VERSION, trt_cache

    text = trt_cache(ranges.ranges, version or VERSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
