"""The verbs: one function a command, from files to files. The command line and the pipeline both call these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import progress, requests
from toolchain.config import BenchSection, ExportSection, Int8Section, TrainSection
from toolchain.device.bench import bench as bench_engines
from toolchain.device.bundle import build as build_bundle
from toolchain.device.infer import infer
from toolchain.device.profile import profile as profile_engine
from toolchain.device.results import BenchResult
from toolchain.errors import AccuracyGateError, UsageError
from toolchain.pruning.prune import PruneRequest, check_imgsz, explain, prune
from toolchain.pruning.sensitivity import sensitivity
from toolchain.stage import write_json

__all__ = [
    "PruneRequest",
    "bench",
    "build",
    "evaluate",
    "explain",
    "export",
    "finetune",
    "profile",
    "prune",
    "quantize",
    "sensitivity",
]

PARITY_IMAGES = 4


def finetune(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    train: TrainSection,
    teacher: Path | None = None,
    seed: int = 0,
    title: str = "Fine-tuning",
) -> dict[str, Any]:
    """Train the network itself, distilled from `teacher`; writes `tuned.pt`."""
    from toolchain.yolo.finetune import finetune as stage

    return stage(model, out, data=data, imgsz=imgsz, settings=requests.train_settings(train, seed), teacher=teacher, title=title)


def export(model: Path, out: Path, *, data: Path | None, imgsz: int, export: ExportSection | None = None) -> dict[str, Any]:
    """Checkpoint -> `model.onnx` that agrees with torch on real pictures (seeded noise when there is no data)."""
    from toolchain.export.exporter import export_onnx
    from toolchain.imaging import network_input, read_image
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset
    from toolchain.yolo.loss import choose_images

    section = export or ExportSection()
    loaded = load_model(model)
    check_imgsz(imgsz, loaded.stride)
    if data is None:
        images = np.random.default_rng(0).integers(0, 256, (PARITY_IMAGES, 3, imgsz, imgsz), dtype=np.uint8)
    else:
        dataset = load_dataset(data, class_names=loaded.names)
        paths = dataset.images("train")
        images = np.stack(
            [network_input(read_image(paths[i]), imgsz)[0] for i in choose_images(dataset, "train", PARITY_IMAGES, 0)]
        )
    return export_onnx(
        loaded.module,
        out,
        imgsz=imgsz,
        names=loaded.names,
        stride=loaded.stride,
        parity_images=images,
        opset=section.opset,
        dynamic_batch=section.dynamic_batch,
        simplify=section.simplify,
    )


def quantize(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    int8: Int8Section | None = None,
    split: str = "val",
    host: str = "local",
    bench: BenchSection | None = None,
    seed: int = 0,
    work: Path | None = None,
) -> dict[str, Any]:
    """Float ONNX -> `model.int8.onnx`, calibrated on training pictures and judged by the engines' own outputs on `split`.

    Raises:
        AccuracyGateError: INT8 lost more than `max_drop`; `refused.json` in `out` says what was measured.
    """
    from toolchain.quantization.gate import check_gate
    from toolchain.quantization.quantize import quantize as place
    from toolchain.yolo.dataset import load_dataset

    section, run = int8 or Int8Section(), bench or BenchSection()
    dataset = load_dataset(data)
    features = cpu_features(host, run)
    report = place(
        model,
        dataset.images("train"),
        out,
        imgsz=imgsz,
        recipe=section.recipe,
        vnni=features["vnni"],
        rules=features["rules"],
        keep_float=section.keep_float,
        seed=seed,
    )
    folder = work or out
    maps = {
        name: evaluate(engine, folder, data=data, imgsz=imgsz, split=split, host=host, bench=run, name=name)
        for name, engine in {"float": model, "int8": out / "model.int8.onnx"}.items()
    }
    report |= {"float": maps["float"], "int8": maps["int8"], "max_drop": section.max_drop}
    try:
        report["gate"] = check_gate(
            maps["float"]["map50_95"],
            maps["int8"]["map50_95"],
            section.max_drop,
            tried=[section.recipe],
            images=report["images"],
            costs=_costs(model, out / "model.int8.onnx", dataset.images("train"), imgsz, maps, section.max_drop),
        )
    except AccuracyGateError:
        write_json(out / "refused.json", report)
        (out / "model.int8.onnx").rename(out / "refused.int8.onnx")
        raise
    return report


def _costs(model: Path, int8: Path, images: Sequence[Path], imgsz: int, maps: Mapping[str, Any], max_drop: float) -> Any:
    """Noise of every layer, only when the gate is about to refuse."""
    if maps["float"]["map50_95"] - maps["int8"]["map50_95"] <= max_drop:
        return ()
    import onnx

    from toolchain.imaging import float_batches
    from toolchain.quantization.costs import layer_costs

    return layer_costs(onnx.load(model), onnx.load(int8), float_batches(images[:8], imgsz))


def cpu_features(host: str, bench: BenchSection) -> dict[str, Any]:
    """What Q/DQ placement must know of the host's CPU: 8-bit dot products, and the rule table of its architecture."""
    from toolchain.device.probe import probe

    found = probe(host, python=bench.python)
    flags = set(found["cpu_flags"] or [])
    vnni = bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"})
    return {"vnni": vnni, "rules": "onnxruntime-arm" if found["arch"] in ("aarch64", "arm64") else "onnxruntime-x86"}


def build(
    model: Path,
    out: Path,
    *,
    imgsz: int,
    host: str = "local",
    target: str = "host-cpu",
    precision: str = "fp32",
    bench: BenchSection | None = None,
) -> dict[str, Any]:
    """ONNX -> a bundle whose engine really ran on the host."""
    from toolchain.export.metadata import class_names

    run = bench or BenchSection()
    return build_bundle(
        model,
        out,
        host=host,
        runtime=run.runtime,
        provider=run.provider,
        threads=run.threads,
        labels=class_names(model),
        imgsz=imgsz,
        precision=precision,
        target=target,
        python=run.python,
    )


def engine_files(engines: Mapping[str, Path]) -> dict[str, Path]:
    """Label -> engine; a bundle folder stands for its engine, after its hashes were checked."""
    from toolchain.device.bundle import verify

    for path in engines.values():
        if not path.exists():
            raise UsageError("an engine's file does not exist", got=path, fix="`toolchain export` or `toolchain build` makes one")
        if path.is_dir():
            verify(path)
    return {label: path / "engine.onnx" if path.is_dir() else path for label, path in engines.items()}


def bench(engines: Mapping[str, Path], out: Path, *, host: str = "local", bench: BenchSection | None = None) -> BenchResult:
    """Latency of several engines in turns; the first is the baseline. A bundle folder stands for its engine."""
    run = bench or BenchSection()
    return bench_engines(
        engine_files(engines),
        out,
        host=host,
        runtime=run.runtime,
        provider=run.provider,
        threads=run.threads,
        rounds=run.rounds,
        runs=run.runs,
        python=run.python,
    )


def profile(
    engines: Mapping[str, Path], out: Path, *, host: str = "local", bench: BenchSection | None = None, imgsz: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Time of every node of each engine, one engine after the other; writes `profile.json`."""
    run = bench or BenchSection()
    result = {}
    with progress.task(f"Profiling on {host}", total=len(engines), unit="engines") as task:
        for label, path in engine_files(engines).items():
            nodes = profile_engine(
                path,
                host=host,
                runtime=run.runtime,
                provider=run.provider,
                threads=run.threads,
                python=run.python,
                imgsz=imgsz,
            )
            result[label] = [node.to_json() for node in nodes]
            task.advance(note=label)
    write_json(out / "profile.json", result)
    return result


def evaluate(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    split: str = "val",
    host: str = "local",
    bench: BenchSection | None = None,
    name: str = "accuracy",
) -> dict[str, Any]:
    """mAP of a checkpoint (torch) or of an engine's own outputs (`.onnx` or bundle, run on the host); writes `NAME.json`."""
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset
    from toolchain.yolo.evaluate import evaluate_file, evaluate_module, prepare_split

    if model.is_dir():
        model = model / "engine.onnx"
    if model.suffix not in (".pt", ".onnx"):
        raise UsageError("cannot evaluate this file", got=model, fix="a .pt, an .onnx or a bundle folder")
    out.mkdir(parents=True, exist_ok=True)
    if model.suffix == ".pt":
        loaded = load_model(model)
        check_imgsz(imgsz, loaded.stride)
        dataset = load_dataset(data, class_names=loaded.names)
        result = evaluate_module(loaded.module, dataset, split, imgsz, out).to_dict() | {"engine": None}
    else:
        run = bench or BenchSection()
        dataset = load_dataset(data)
        images, letterboxes = prepare_split(dataset, split, imgsz, out)
        predictions = out / f"{name}.npz"
        ran = infer(
            model,
            images,
            predictions,
            host=host,
            runtime=run.runtime,
            provider=run.provider,
            threads=run.threads,
            python=run.python,
        )
        accuracy = evaluate_file(predictions, dataset, split, imgsz, letterboxes)
        result = accuracy.to_dict() | {"engine": ran.to_json()}
    write_json(out / f"{name}.json", result)
    return result


def sensitivity_page(result: Mapping[str, Any], out: Path, title: str) -> Path:
    """The sensitivity plot as a page of its own."""
    import datetime

    from toolchain.report.html import write_report

    rows = [{"group": r["group"], "kept_ratio": r["kept_ratio"], "drop": r["map_drop"]} for r in result["rows"]]
    created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    write_report(
        {"title": title, "created": created, "command": "toolchain sensitivity", "sensitivity": rows}, out / "sensitivity.html"
    )
    return out / "sensitivity.html"
