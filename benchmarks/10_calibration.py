"""Calibration of many pictures: peak memory and time beside plain inference of the same pictures, thresholds beside a computation
that keeps everything in memory.

    python benchmarks/10_calibration.py --model best.pt --data data.yaml --imgsz 640 --images 512 --method entropy

Every pass runs in a fresh process, whose peak is that of resident memory, imports and all. Plain inference and calibration take
turns, in turned order every other time, and both count reading the pictures; what plain inference spends in the network alone is
given beside it. Fewer training pictures than asked for are read several times under several names. Thresholds are compared on
--reference-images, which is what fits in memory; the entropy reference is plain Python and takes minutes.
`--onnxruntime-images N` adds ONNX Runtime's own calibrator, which keeps every activation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import save

from toolchain.memory import peak_memory

SEED = 0
PERCENTILE = 99.9  # of the textbook's, see tests/contracts/test_calibration.py
LIMIT_MB, LIMIT_TIMES = 1000.0, 2.0


def plain(graph: Path, files: list[Path], imgsz: int, method: str) -> dict[str, Any]:
    """Read and run every picture, keep nothing."""
    from toolchain.export.session import cpu_session
    from toolchain.imaging import float_batches

    session = cpu_session(graph)
    name, network_s = session.get_inputs()[0].name, 0.0
    for batch in float_batches(files, imgsz):
        started = time.monotonic()
        session.run(None, {name: batch})
        network_s += time.monotonic() - started
    return {"network_s": network_s}


def ours(graph: Path, files: list[Path], imgsz: int, method: str) -> dict[str, Any]:
    """Ranges of the tensors that INT8 for x86 needs."""
    quantizer, recipe = quantizer_of(graph, files, imgsz, method)
    return {"ranges": quantizer.table(recipe).ranges, "tensors": len(quantizer.tensors)}


def reference(graph: Path, files: list[Path], imgsz: int, method: str) -> dict[str, Any]:
    """All activations in memory, then the textbook's steps on each tensor: what the contract test holds every method against."""
    import numpy as np

    from tests.contracts import test_calibration as textbook
    from toolchain.imaging import float_batches
    from toolchain.quantization.calibrate import Probe

    quantizer, _ = quantizer_of(graph, files, imgsz, method)
    if textbook.PERCENTILE != PERCENTILE:
        raise SystemExit("the contract test's percentile is another one")
    probe = Probe(quantizer.graph, quantizer.tensors)
    kept: dict[str, list[Any]] = {name: [] for name in quantizer.tensors}
    for [picture] in float_batches(files, imgsz):
        for name, value in probe.run(picture).items():
            if name in kept:
                kept[name].append(np.array(value).ravel())
    found = {name: textbook.REFERENCES[method](kept.pop(name)) for name in quantizer.tensors}
    return {"ranges": {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in found.items()}}


def raw(graph: Path, files: list[Path], imgsz: int, method: str) -> dict[str, Any]:
    """Streamed ranges before groups share theirs and before the clip for SiLU: what `reference` computes."""
    from toolchain.imaging import float_batches
    from toolchain.quantization.calibrate import observe, ranges

    quantizer, recipe = quantizer_of(graph, files, imgsz, method)
    seen = observe(quantizer.graph, float_batches(files, imgsz), quantizer.tensors)
    return {"ranges": ranges(seen, method, percentile=recipe.percentile or 100.0)}


def onnxruntime(graph: Path, files: list[Path], imgsz: int, method: str) -> dict[str, Any]:
    """ONNX Runtime's calibrator of the same method."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from toolchain.imaging import float_batches

    name = onnx.load(graph).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = float_batches(files, imgsz)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    kinds = {"entropy": CalibrationMethod.Entropy, "minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(graph, calibrate_method=kinds[method], augmented_model_path=f"{folder}/augmented.onnx")
        calibrator.collect_data(Reader())
        calibrator.compute_data()
    return {}


def quantizer_of(graph: Path, files: list[Path], imgsz: int, method: str) -> Any:
    """What calibrates, with a recipe that takes all the pictures."""
    from toolchain.quantization.quantizer import Quantizer
    from toolchain.quantization.recipe import Recipe

    recipe = Recipe(method=method, percentile=PERCENTILE if method == "percentile" else None, images=len(files), seed=SEED,
                    runtimes=("onnxruntime-x86",), comment="benchmark", source="benchmark")  # fmt: skip
    return Quantizer(graph, files, imgsz=imgsz, rules="onnxruntime-x86", vnni=True), recipe


PASSES = {"plain": plain, "ours": ours, "reference": reference, "raw": raw, "onnxruntime": onnxruntime}


def child(args: argparse.Namespace) -> None:
    """One pass; its result on stdout."""
    files = sorted(args.folder.iterdir())[: args.images]
    started = time.monotonic()
    with peak_memory() as memory:
        found = PASSES[args.child](args.onnx, files, args.imgsz, args.method)
    seconds = time.monotonic() - started
    print(json.dumps({"pass": args.child, "images": len(files), "seconds": seconds, "peak_rss_mb": memory.peak_mb, **found}))


def run(name: str, args: argparse.Namespace, images: int) -> dict[str, Any]:
    """A pass in its own process, its cache empty."""
    with tempfile.TemporaryDirectory(prefix="edge-calibration-") as cache:
        words = [sys.executable, __file__, "--child", name, "--onnx", str(args.onnx), "--folder", str(args.folder),
                 "--imgsz", str(args.imgsz), "--method", args.method, "--images", str(images)]  # fmt: skip
        done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, "EDGE_CACHE": cache})
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:12s} {result['images']:4d} images  {result['seconds']:7.1f} s  {result['peak_rss_mb']:7.0f} MB at most")
    return result


def link(images: list[Path], count: int, folder: Path) -> None:
    """`count` names for the pictures, each picture as often as needed."""
    for index in range(count):
        source = images[index % len(images)].resolve()
        (folder / f"{index:05d}{source.suffix}").symlink_to(source)


def compare(found: dict[str, list[float]], want: dict[str, list[float]]) -> dict[str, Any]:
    """Largest relative difference of a threshold, and whose."""
    rows = [(abs(a - b) / abs(b) if b else abs(a), name) for name in want for a, b in zip(found[name], want[name], strict=True)]
    worst, name = max(rows)
    return {"thresholds": len(rows), "largest_relative_difference": worst, "of": name, "within_1e-3": worst <= 1e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help=".pt or .onnx")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--method", default="entropy")
    parser.add_argument(
        "--repeats", type=int, default=6, help="turns of plain inference and calibration; 6 or more give an interval"
    )
    parser.add_argument("--reference-images", type=int, default=4, help="kept in memory whole; 0: no comparison")
    parser.add_argument("--onnxruntime-images", type=int, default=0)
    parser.add_argument("--name", default="calibration")
    parser.add_argument("--dry", action="store_true", help="write no file")
    parser.add_argument("--child", choices=PASSES, help=argparse.SUPPRESS)
    parser.add_argument("--onnx", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    from toolchain import verbs
    from toolchain.measurement.stats import ratio_of_rounds
    from toolchain.yolo.dataset import load_dataset

    with tempfile.TemporaryDirectory(prefix="edge-calibration-") as place:
        args.onnx, args.folder = args.model.resolve(), Path(place) / "pictures"
        args.folder.mkdir()
        if args.model.suffix != ".onnx":
            (Path(place) / "onnx").mkdir()
            verbs.export(args.model, Path(place) / "onnx", data=args.data, imgsz=args.imgsz)
            args.onnx = Path(place) / "onnx" / "model.onnx"
        pictures = load_dataset(args.data).images("train")
        link(pictures, args.images, args.folder)
        turns: list[dict[str, Any]] = []
        for number in range(args.repeats):
            order = ("plain", "ours") if number % 2 == 0 else ("ours", "plain")
            turns.append({name: run(name, args, args.images) for name in order})
        plains, ours_ = [turn["plain"] for turn in turns], [turn["ours"] for turn in turns]
        ratio = ratio_of_rounds([[one["seconds"]] for one in ours_], [[one["seconds"]] for one in plains])
        peak = max(one["peak_rss_mb"] for one in ours_)
        figures: dict[str, Any] = {
            "method": args.method, "tensors": ours_[0]["tensors"], "distinct_images": min(len(pictures), args.images),
            "plain": [{key: one[key] for key in ("seconds", "network_s", "peak_rss_mb")} for one in plains],
            "ours": [{key: one[key] for key in ("seconds", "peak_rss_mb")} for one in ours_],
            "times_plain": asdict(ratio), "within_twice": None if ratio.high is None else ratio.high <= LIMIT_TIMES,
            "peak_rss_mb": peak, "within_1_gb": peak <= LIMIT_MB,
        }  # fmt: skip
        if args.reference_images:
            found, want = (run(name, args, args.reference_images) for name in ("raw", "reference"))
            figures["against_all_in_memory"] = {**compare(found["ranges"], want["ranges"]), "images": args.reference_images}
        if args.onnxruntime_images:
            both = {name: run(name, args, args.onnxruntime_images) for name in ("ours", "onnxruntime")}
            figures["against_onnxruntime"] = {
                name: {key: one[key] for key in ("images", "seconds", "peak_rss_mb")} for name, one in both.items()
            }
    print(json.dumps(figures, indent=1))
    if not args.dry:
        hidden = ("child", "onnx", "folder", "model", "data", "dry")
        save(args.name, figures, {key: str(value) for key, value in vars(args).items() if key not in hidden})


if __name__ == "__main__":
    main()
