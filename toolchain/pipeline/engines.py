"""Stages of the engines: INT8, bundles, latency, layer times, accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain import progress, verbs
from toolchain.device.conditions import Conditions
from toolchain.device.manifest import FORMAT, engine_of
from toolchain.device.profile import RUNTIMES as PROFILED
from toolchain.errors import AccuracyGateError
from toolchain.pipeline.job import Job
from toolchain.results import DENSE, PRUNED
from toolchain.stage import Stage, file_sha256
from toolchain.yolo.dataset import load_dataset

TOLD = Conditions(keep_unstable=True)  # a run ends with its report, which says what must not be used


def int8_stage(job: Job, graph: Path) -> tuple[Path | None, AccuracyGateError | None]:
    """The INT8 graph, or why there is none."""
    config = job.config
    if not config.int8.enabled:
        return None, None
    try:
        stage = job.stage(
            "int8",
            lambda out: verbs.quantize(
                graph,
                out,
                data=config.data,
                imgsz=config.imgsz,
                int8=config.int8,
                split=config.split,
                on=job.on,
                seed=config.seed,
                work=job.work,
            ),
            inputs={"model": graph, "data": job.data_sha256},
            params={
                **config.int8.model_dump(),
                "split": config.split,
                "host": config.host,
                "seed": config.seed,
                "target": config.target,
                "runtime": job.on.runtime,
            },
            outputs=("model.int8.onnx",),
        )
    except AccuracyGateError as error:
        progress.note(f"✗ refused int8\n{error}")
        return None, error
    return stage / "model.int8.onnx", None


def build_stage(job: Job, graphs: dict[str, Path], sizes: dict[str, int]) -> Stage:
    """A bundle for each engine, loaded and run on the host, and tried there on the first picture of the split."""
    config = job.config
    sample = load_dataset(config.data).images(config.split)[0]

    def work(out: Path) -> dict[str, Any]:
        for label, graph in graphs.items():
            verbs.build(graph, out / label, imgsz=sizes[label], on=job.on, sample=sample)
        return {label: file_sha256(engine_of(out / label)) for label in graphs}

    params = {"host": config.host, "target": config.target, "format": FORMAT}
    params |= job.engine_params
    return job.stage("build", work, inputs={**graphs, "data": job.data_sha256}, params=params)


def bench_stage(job: Job, engines: dict[str, Path]) -> Stage:
    """Latency in turns; rounds already measured survive a kill."""
    config = job.config
    return job.stage(
        "bench",
        lambda out: verbs.bench(
            engines, out, on=job.on, pace=config.bench.pace(), conditions=TOLD, command=job.command, imgsz=config.imgsz
        ).to_json(),
        inputs=dict(engines),
        params={"host": config.host, **config.bench.model_dump(), **job.engine_params},
    )


def profile_stage(job: Job, engines: dict[str, Path]) -> dict[str, Any]:
    """Time of every node of the float engines, to say which layers did not get faster; nothing where the runtime cannot tell."""
    config = job.config
    if job.on.runtime not in PROFILED:
        progress.note(f"- without profile: {job.on.runtime} does not tell the time of single layers")
        return {}
    pair = {label: engines[label] for label in (DENSE, PRUNED)}
    return job.stage(
        "profile",
        lambda out: verbs.profile(pair, out, on=job.on, imgsz=config.imgsz),
        inputs=dict(pair),
        params={"host": config.host, **job.engine_params},
    ).result


def accuracy_stage(job: Job, engines: dict[str, Path], sizes: dict[str, int]) -> Stage:
    """mAP of the engines' own outputs, and of the network right after the cut."""
    config = job.config
    subjects = {**engines, "cut": job.cut_model}

    def work(out: Path) -> dict[str, Any]:
        return {
            label: verbs.evaluate(
                path,
                job.work,
                data=config.data,
                imgsz=sizes.get(label, sizes[PRUNED]),
                split=config.split,
                on=job.on,
                name=label,
            )
            for label, path in subjects.items()
        }

    return job.stage(
        "accuracy", work, inputs={**subjects, "data": job.data_sha256}, params={"split": config.split, "host": config.host}
    )
