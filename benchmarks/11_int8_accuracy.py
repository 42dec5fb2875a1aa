"""INT8 against float and against what others make of the same network: mAP of the engines' own outputs, latency in turns.

    python benchmarks/11_int8_accuracy.py --model best.pt --data data.yaml --imgsz 320 --out runs/int8-accuracy

Rows: float; ours by the default recipe, by the best of all recipes, and placed for OpenVINO; ONNX Runtime's `quantize_static`
with its defaults and as it can be for this graph (scales per channel, unsigned activations, the same nodes in float, narrow
weights where the processor lacks VNNI); ultralytics' INT8 exports for ONNX and OpenVINO. All rivals get the pictures on which the
default recipe calibrated; the best of all sets a quarter of the training pictures aside and calibrates on others. A row that
cannot be made or run says why. A pruned .pt is a model too.

Every step is kept in --out, and a second call goes on; what failed is tried again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rivals
from common import save

from toolchain import verbs
from toolchain.config import Int8Section
from toolchain.device.bench import bench
from toolchain.device.pace import pace_of
from toolchain.device.results import BenchResult, EngineResult
from toolchain.device.settings import On
from toolchain.errors import DataError, ExportError, ModelError, ProviderError, RuntimeMissingError, ToolchainError, UsageError
from toolchain.quantization.recipe import AUTO
from toolchain.stage import Stages, file_sha256, read_json
from toolchain.verbs.accuracy import cpu_features
from toolchain.yolo.dataset import load_dataset

FLOAT, OURS, OURS_AUTO, OURS_OPENVINO = "float", "ours-int8", "ours-int8-auto", "ours-int8-openvino"
STATIC, STATIC_BEST = "quantize-static-default", "quantize-static-same-head"
ULTRALYTICS = {"ultralytics-onnx": "onnx", "ultralytics-openvino": "openvino"}
CANNOT = (UsageError, ModelError, ExportError, ProviderError, RuntimeMissingError)  # which another try would not change


@dataclass
class Row:
    """One engine.

    Attributes:
        engine: None where there is none.
        why: there is no engine, or it does not run here.
        found: mAP, or why there is none.
    """

    on: On
    engine: Path | None = None
    why: str | None = None
    found: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    kernels_ms: dict[str, float] | None = None

    @property
    def runs(self) -> bool:
        return self.engine is not None and self.why is None

    def files(self) -> dict[str, Path]:
        """The engine's own; OpenVINO's are two."""
        parts = {"engine": self.engine, "weights": self.engine and self.engine.with_suffix(".bin")}
        return {name: path for name, path in parts.items() if path is not None and path.is_file()}


class Job:
    """The rows of one call, made step by step; each step is a stage."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.stages = args, Stages(args.out / "stages")
        self.dataset = load_dataset(args.data)
        self.on = On(threads=args.threads, wait_s=3600.0)
        self.rows: dict[str, Row] = {}

    def step(self, name: str, work: Callable[[Path], Any], inputs: dict[str, Any], **params: Any) -> tuple[Path, Any]:
        """Folder and result of a stage that rests on the data set too."""
        shown = {"data": self.dataset.sha256, **inputs}
        done = self.stages.run(name, lambda out: {"value": work(out)}, inputs=shown, params={"imgsz": self.args.imgsz, **params})
        return done.folder, done.result["value"]

    def add(
        self, label: str, make: Callable[[], Path], runtime: str = "onnxruntime", *, excuses: tuple[type[Exception], ...] = ()
    ) -> None:  # fmt: skip
        """A row; where `excuses` are raised, why there is none."""
        row = self.rows[label] = Row(replace(self.on, runtime=runtime, provider=""))
        try:
            row.engine = make()
        except excuses as error:
            row.why = reason(error)

    def ours(self, label: str, graph: Path, recipe: str | None) -> Path:
        """Our INT8 model, judged where its row runs."""
        args, on = self.args, self.rows[label].on
        section = Int8Section(recipe=recipe, max_drop=args.max_drop, mixed=args.mixed)

        def work(out: Path) -> dict[str, Any]:
            return verbs.quantize(
                graph, out, data=args.data, imgsz=args.imgsz, int8=section, split=args.split, on=on, seed=args.seed,
                work=out / "work",
            )  # fmt: skip

        asked = {"int8": section.model_dump(mode="json"), "split": args.split, "on": on.engine_fields(), "seed": args.seed}
        folder, self.rows[label].made = self.step(label, work, {"graph": graph}, **asked)
        return folder / "model.int8.onnx"

    def static(self, label: str, graph: Path, images: list[Path], options: dict[str, Any]) -> Path:
        def work(out: Path) -> None:
            rivals.quantize_static(graph, out / "model.onnx", images, self.args.imgsz, **options)

        asked = {"images": list(map(str, images)), "options": {key: str(value) for key, value in options.items()}}
        return self.step(label, work, {"graph": graph}, **asked)[0] / "model.onnx"

    def ultralytics(self, label: str, images: list[Path]) -> Path:
        args, names = self.args, self.dataset.names
        asked = {"kind": ULTRALYTICS[label], "python": args.exporter_python}

        def work(out: Path) -> str:
            made = rivals.by_ultralytics(args.model, out, images, names, imgsz=args.imgsz, **asked)
            return str(made.relative_to(out.resolve()))

        folder, name = self.step(label, work, {"model": args.model}, images=list(map(str, images)), **asked)
        return folder / name

    def judge(self, label: str) -> None:
        """mAP of a row's own outputs; of a rival, why there is none: its outputs are no scores, or it does not run."""
        args, row = self.args, self.rows[label]
        engine = row.engine
        if engine is None:
            return

        def work(out: Path) -> dict[str, Any]:
            asked: dict[str, Any] = {"data": args.data, "imgsz": args.imgsz, "split": args.split, "on": row.on}
            return verbs.evaluate(engine, out, name=label, prepared=args.out, **asked)

        try:
            _, row.found = self.step(f"map-{label}", work, row.files(), split=args.split, on=row.on.engine_fields())
        except DataError as error:
            if label not in (STATIC, STATIC_BEST, *ULTRALYTICS):
                raise
            row.found = {"map50_95": None, "map50": None, "why": reason(error)}
        except CANNOT as error:
            if label in (FLOAT, OURS, OURS_AUTO):
                raise
            row.why = reason(error)

    def timed(self) -> BenchResult:
        """Every row that runs, in turns; ours is the baseline."""
        there = {label: self.rows[label] for label in sorted(self.rows, key=lambda label: label != OURS) if self.rows[label].runs}
        files = {label: row.engine for label, row in there.items() if row.engine is not None}
        kinds = {label: [file_sha256(path) for path in row.files().values()] for label, row in there.items()}
        pace = pace_of(self.args.profile, rounds=self.args.rounds)
        folder = self.args.out / f"bench-{short(kinds, self.args.threads, self.args.imgsz, pace.of_a_round())}"
        return bench(files, folder, self.on, pace, ons={label: row.on for label, row in there.items()}, imgsz=self.args.imgsz)

    def profile(self, label: str) -> None:
        row = self.rows[label]
        if not row.runs or row.engine is None:
            return
        engine = row.engine

        def work(out: Path) -> dict[str, float]:
            return by_operator(verbs.profile({label: engine}, out, on=row.on, imgsz=self.args.imgsz)[label])

        _, row.kernels_ms = self.step(f"profile-{label}", work, row.files(), on=row.on.engine_fields())


def short(*values: Any) -> str:
    """A name for these values."""
    import hashlib

    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def reason(error: Exception) -> str:
    """What stands in place of a number."""
    if isinstance(error, ToolchainError):
        said = error.what if error.got is None else f"{error.what}: {error.got}"
    else:
        said = f"{type(error).__name__}: {error}"
    return said.strip().splitlines()[0]


def by_operator(nodes: list[dict[str, Any]]) -> dict[str, float]:
    """Fastest run of every kernel, added up by kind, ms."""
    found: dict[str, float] = {}
    for node in nodes:
        found[node["op"]] = found.get(node["op"], 0.0) + node["min_ms"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def ours_times_faster(engine: EngineResult) -> list[float | None] | None:
    """Latency of the row / latency of ours in the same round: median and 95 % interval; None for ours itself."""
    ratio = engine.speedup  # of ours to the row
    if ratio is None:
        return None
    return [1 / ratio.value, None if ratio.high is None else 1 / ratio.high, None if ratio.low is None else 1 / ratio.low]


def shown(row: Row, engine: EngineResult | None, float_map: float) -> dict[str, Any]:
    """A row as it is kept."""
    map50_95 = row.found.get("map50_95")
    figures: dict[str, Any] = {
        "runtime": row.on.runtime, "why": row.why or row.found.get("why"), "map50_95": map50_95, "map50": row.found.get("map50"),
        "drop": None if map50_95 is None else float_map - map50_95,
        "size_bytes": sum(path.stat().st_size for path in row.files().values()) or None,
        "recipe": row.made.get("recipe"), "trials": row.made.get("trials"), "mixed": row.made.get("mixed"),
        "calibration_images": row.made.get("images"), "warnings": row.made.get("warnings"), "kernels_ms": row.kernels_ms,
    }  # fmt: skip
    if engine is not None:
        figures |= {
            "latency_ms": engine.p50_ms, "ours_times_faster": ours_times_faster(engine), "version": engine.runtime_version,
            "load_ms": engine.load_ms, "first_inference_ms": engine.first_inference_ms, "options": engine.options,
        }  # fmt: skip
    return figures


def line(label: str, row: dict[str, Any]) -> str:
    """A row for people."""

    def number(value: float | None, form: str) -> str:
        return "none" if value is None else format(value, form)

    ratio = row.get("ours_times_faster")
    text = f"{label:26s} mAP50-95 {number(row['map50_95'], '.4f'):>7s}  drop {number(row['drop'], '.4f'):>7s}"
    text += f"  {number(row.get('latency_ms'), '8.3f')} ms"
    text += f"  ours {ratio[0]:.2f} times faster ({number(ratio[1], '.2f')} to {number(ratio[2], '.2f')})" if ratio else ""
    return text + (f"  {row['why']}" if row["why"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", default="int8-accuracy")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--split", default="val")
    parser.add_argument("--recipe", help="of the row ours-int8; default: the one for this processor")
    parser.add_argument("--mixed", action="store_true", help="leave layers in float where the drop is above --max-drop")
    parser.add_argument("--max-drop", type=float, default=1.0, help="1: nothing is refused, the figure tells")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="quick", help="of the timing")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exporter-python", default=sys.executable, help="has ultralytics, and nncf for its OpenVINO INT8")
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    job = Job(args)
    folder, _ = job.step(
        "onnx", lambda out: verbs.export(args.model, out, data=args.data, imgsz=args.imgsz), {"model": args.model}
    )
    graph = folder / "model.onnx"
    job.add(FLOAT, lambda: graph)
    job.add(OURS, lambda: job.ours(OURS, graph, args.recipe))
    record = read_json(args.out / "stages" / OURS / "calibration.json")
    images = [Path(image["file"]) for image in record["images"]]
    best = rivals.best_options(list(record["kept_float"]), cpu_features(job.on)["vnni"])
    job.add(OURS_AUTO, lambda: job.ours(OURS_AUTO, graph, AUTO))
    job.add(OURS_OPENVINO, lambda: job.ours(OURS_OPENVINO, graph, args.recipe), "openvino", excuses=CANNOT)
    job.add(STATIC, lambda: job.static(STATIC, graph, images, {}), excuses=(Exception,))
    job.add(STATIC_BEST, lambda: job.static(STATIC_BEST, graph, images, best), excuses=(Exception,))
    for label, kind in ULTRALYTICS.items():
        runtime = "openvino" if kind == "openvino" else "onnxruntime"
        job.add(label, lambda label=label: job.ultralytics(label, images), runtime, excuses=(ExportError,))  # type: ignore[misc]
    for label in job.rows:
        job.judge(label)
    timed = job.timed()
    for label in job.rows:
        job.profile(label)
    float_ = job.rows[FLOAT].found
    rows = {label: shown(row, timed.engines.get(label), float_["map50_95"]) for label, row in job.rows.items()}
    figures = {
        "rows": rows, "split": args.split, "images": float_["images"], "model_sha256": file_sha256(args.model),
        "valid": timed.valid, "reasons": timed.reasons,
        "control": timed.control and [timed.control.value, timed.control.low, timed.control.high],
    }  # fmt: skip
    for label, row in rows.items():
        print(line(label, row))
    print("valid" if timed.valid else f"not valid: {'; '.join(timed.reasons)}")
    if not args.dry:
        hidden = ("model", "data", "out", "exporter_python", "dry")
        save(args.name, figures, {key: str(value) for key, value in vars(args).items() if key not in hidden})


if __name__ == "__main__":
    main()
