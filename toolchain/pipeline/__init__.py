"""The whole job: which stage feeds which. Every stage is a folder under `RUN/stages`, whole or absent, and never done twice.

model.pt ─ dense ─────────────────────────────────┐
    └ cut-1 ─ tune-1 ─ … ─ cut-N ─ tune ─ export ─ int8 ─ build ─ bench ─ profile ─ accuracy ─ report
"""

from __future__ import annotations

from typing import Any

from toolchain import results
from toolchain.config import RunConfig
from toolchain.device.manifest import engine_of
from toolchain.pipeline.engines import accuracy_stage, bench_stage, build_stage, int8_stage, profile_stage
from toolchain.pipeline.job import Job, start
from toolchain.pipeline.networks import cut_and_tune, dense_stage, export_stage, guard_stage
from toolchain.results import DENSE, INT8, PRUNED

__all__ = ["Job", "cut_and_tune", "dense_stage", "guard_stage", "run", "start"]


def run(config: RunConfig, command: str = "") -> dict[str, Any]:
    """Prune, fine-tune, export, quantize, build, benchmark, report; stages already done with the same inputs are kept.

    Returns:
        the summary, also in `summary.json`; the page is `report.html`.

    Raises:
        RunFolderError: the folder belongs to another model or data set.
        AccuracyGateError: INT8 lost too much; everything else is measured and reported first.
    """
    job = start(config, command)
    dense = dense_stage(job)
    model, plan = cut_and_tune(job)
    chosen = job.at(plan.imgsz)
    exported = export_stage(chosen, "export", model)
    int8, refused = int8_stage(chosen, exported / "model.onnx")
    graphs = {DENSE: dense / "model.onnx", PRUNED: exported / "model.onnx", **({INT8: int8} if int8 else {})}
    sizes = {label: config.imgsz if label == DENSE else plan.imgsz for label in graphs}
    bundles = build_stage(job, graphs, sizes)
    engines = {label: engine_of(bundles / label) for label in graphs}
    measured = bench_stage(job, engines)
    layers = profile_stage(job, engines)
    accuracy = accuracy_stage(job, engines, sizes)
    summary = results.write_results(job, plan, model, engines, measured.result, accuracy.result, refused, layers)
    if refused is not None:
        raise refused
    return summary
