"""The whole job: which stage feeds which. Every stage is a folder under `RUN/stages`, whole or absent, and never done twice.

model.pt ─ dense ─────────────────────────────────┐
    └ cut-1 ─ tune-1 ─ … ─ cut-N ─ tune ─ export ─ int8 ─ build ─ bench ─ profile ─ accuracy ─ report
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import progress, requests, results, verbs
from toolchain.config import RunConfig
from toolchain.device.manifest import FORMAT, engine_of
from toolchain.device.probe import probe
from toolchain.device.profile import RUNTIMES as PROFILED
from toolchain.device.settings import On
from toolchain.device.target import load_target
from toolchain.errors import AccuracyGateError, RunFolderError
from toolchain.pruning.plan import PruningPlan, compose
from toolchain.pruning.prune import check_imgsz, check_request
from toolchain.pruning.sensitivity import Row, guard
from toolchain.quantization.recipe import load_recipe
from toolchain.results import DENSE, INT8, PRUNED
from toolchain.stage import Stage, Stages, file_sha256, read_json, write_json
from toolchain.yolo.dataset import load_dataset


@dataclass(frozen=True)
class Job:
    """A run under way: its settings, its stages in the order they were done, and what INT8 was refused for, if it was."""

    config: RunConfig
    stages: Stages
    data_sha256: str
    done: list[Stage]
    command: str

    def stage(
        self, name: str, work: Any, *, inputs: dict[str, Any], params: dict[str, Any], outputs: tuple[str, ...] = ()
    ) -> Stage:
        """Run or reuse one stage and say which."""
        stage = self.stages.run(name, work, inputs=inputs, params={"imgsz": self.config.imgsz, **params}, keep_outputs=outputs)
        self.done.append(stage)
        progress.note(f"{'✓ kept ' if stage.reused else '✓ done '} {name:<10} {stage.duration_s:7.1f} s")
        return stage

    @property
    def cut_model(self) -> Path:
        """The network right after its last cut, before its fine-tune."""
        steps = self.config.prune.steps
        return self.stages.root / ("cut" if steps == 1 else f"cut-{steps}") / "pruned.pt"

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of one picture, dense and pruned."""
        cuts = [stage for stage in self.done if stage.name.startswith("cut")]
        return cuts[0].result["macs_dense"], cuts[-1].result["macs"]

    @property
    def on(self) -> On:
        """Where the engines run."""
        return self.config.bench.on(self.config.host, self.config.target)

    @property
    def work(self) -> Path:
        """Prepared picture sets, shared by the stages."""
        return self.config.out / "work"


def run(config: RunConfig, command: str = "") -> dict[str, Any]:
    """Prune, distil, export, quantize, build, benchmark, report; stages already done with the same inputs are kept.

    Returns:
        the summary, also in `summary.json`; the page is `report.html`.

    Raises:
        RunFolderError: the folder belongs to another model or data set.
        AccuracyGateError: INT8 lost too much; everything else is measured and reported first.
    """
    job = start(config, command)
    dense = dense_stage(job)
    model, plan = cut_and_tune(job)
    exported = export_stage(job, "export", model)
    int8, refused = int8_stage(job, exported / "model.onnx")
    graphs = {DENSE: dense / "model.onnx", PRUNED: exported / "model.onnx", **({INT8: int8} if int8 else {})}
    bundles = build_stage(job, graphs)
    engines = {label: engine_of(bundles / label) for label in graphs}
    measured = bench_stage(job, engines)
    layers = profile_stage(job, engines)
    accuracy = accuracy_stage(job, engines, model)
    summary = results.write_results(job, plan, model, engines, measured.result, accuracy.result, refused, layers)
    if refused is not None:
        raise refused
    return summary


def start(config: RunConfig, command: str = "") -> Job:
    """Check everything that can be checked before the first long stage."""
    from toolchain.yolo.checkpoint import load_model

    loaded = load_model(config.model)
    check_imgsz(config.imgsz, loaded.stride)
    dataset = load_dataset(config.data, class_names=loaded.names)
    dataset.images(config.split)
    align = load_target(config.target).channel_alignment
    check_request(loaded, requests.request_of(config.prune, config.imgsz, align, config.seed))
    requests.check_training(config.train, config.seed)
    if config.int8.enabled:
        load_recipe(config.int8.recipe)
    identity = {"model_sha256": loaded.sha256, "data_sha256": dataset.sha256, "imgsz": config.imgsz}
    marker = config.out / "run.json"
    if marker.exists():
        before = read_json(marker)["identity"]
        if before != identity:
            changed = ", ".join(key for key in identity if before.get(key) != identity[key])
            raise RunFolderError(
                "this run folder was made with other inputs", got=f"{config.out}: {changed} differ", fix="another --out"
            )
    if not (config.out / "stages" / "bench").exists():
        probe(config.host, python=config.bench.python)  # hours of training must not end at a host that was never there
    stages = Stages(config.out / "stages")
    write_json(marker, {"identity": identity, "command": command, "config": config.model_dump(mode="json")})
    return Job(config, stages, dataset.sha256, [], command)


def dense_stage(job: Job) -> Stage:
    """The unpruned network as an engine: the baseline of everything."""
    return export_stage(job, "dense", job.config.model)


def cut_and_tune(job: Job) -> tuple[Path, PruningPlan]:
    """N cuts with a fine-tune after each; equal shares of what is left, so that together they reach the ratio asked."""
    config = job.config
    model: Path = config.model
    whole: PruningPlan | None = None
    least = guard_stage(job) if config.prune.guard > 0 else {}
    for step in range(1, config.prune.steps + 1):
        last = step == config.prune.steps
        ratio = 1 - (1 - config.prune.ratio) ** (1 / config.prune.steps)
        left = {} if whole is None else {group.name: group.width / group.channels for group in whole.groups}
        now = {name: min(share / left.get(name, 1.0), 1.0) for name, share in least.items()}
        cut = cut_stage(job, model, ratio, now, "cut" if config.prune.steps == 1 else f"cut-{step}")
        plan = PruningPlan.load(cut / "plan.json")
        whole = plan if whole is None else compose(whole, plan)
        model = cut / "pruned.pt"
        epochs = config.train.epochs if last else config.prune.step_epochs
        if epochs:
            model = tune_stage(job, model, epochs, "tune" if last else f"tune-{step}") / "tuned.pt"
    assert whole is not None
    whole.save(config.out / "plan.json")
    return model, whole


def guard_stage(job: Job) -> dict[str, float]:
    """Measured sensitivity of every group -> the least share each keeps."""
    config, align = job.config, load_target(job.config.target).channel_alignment
    stage = job.stage(
        "sensitivity",
        lambda out: verbs.sensitivity(
            config.model, out, data=config.data, imgsz=config.imgsz, align=config.prune.align or align, seed=config.seed
        ),
        inputs={"model": config.model, "data": job.data_sha256},
        params={"align": config.prune.align or align, "seed": config.seed},
    )
    return guard([Row(**row) for row in stage.result["rows"]], config.prune.guard)


def cut_stage(job: Job, model: Path, ratio: float, least: dict[str, float], name: str) -> Stage:
    config, align = job.config, load_target(job.config.target).channel_alignment
    layers = {group: 1 - (1 - share) ** (1 / config.prune.steps) for group, share in config.prune.layers.items()}
    section = config.prune.model_copy(update={"ratio": ratio, "layers": layers})
    request = requests.request_of(section, config.imgsz, align, config.seed, least)
    return job.stage(
        name,
        lambda out: verbs.prune(model, out, request, data=config.data),
        inputs={"model": model, "data": job.data_sha256},
        params={"request": vars(request)},
        outputs=("plan.json", "pruned.pt"),
    )


def tune_stage(job: Job, model: Path, epochs: int, name: str) -> Stage:
    config = job.config
    section = config.train.model_copy(update={"epochs": epochs})
    return job.stage(
        name,
        lambda out: verbs.finetune(
            model,
            out,
            data=config.data,
            imgsz=config.imgsz,
            train=section,
            teacher=config.model,
            seed=config.seed,
            title=f"Fine-tuning ({name})",
        ),
        inputs={"model": model, "teacher": config.model, "data": job.data_sha256},
        params={"train": section.model_dump(), "seed": config.seed},
        outputs=("tuned.pt",),
    )


def export_stage(job: Job, name: str, model: Path) -> Stage:
    config = job.config
    return job.stage(
        name,
        lambda out: verbs.export(model, out, data=config.data, imgsz=config.imgsz, export=config.export),
        inputs={"model": model, "data": job.data_sha256},
        params=config.export.model_dump(),
        outputs=("model.onnx",),
    )


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
            params={**config.int8.model_dump(), "split": config.split, "host": config.host, "seed": config.seed},
            outputs=("model.int8.onnx",),
        )
    except AccuracyGateError as error:
        progress.note(f"✗ refused int8\n{error}")
        return None, error
    return stage / "model.int8.onnx", None


def build_stage(job: Job, graphs: dict[str, Path]) -> Stage:
    """A bundle for each engine, loaded and run on the host, and tried there on the first picture of the split."""
    config = job.config
    sample = load_dataset(config.data).images(config.split)[0]

    def work(out: Path) -> dict[str, Any]:
        for label, graph in graphs.items():
            precision = "int8" if label == INT8 else "fp32"
            verbs.build(graph, out / label, imgsz=config.imgsz, on=job.on, precision=precision, sample=sample)
        return {label: file_sha256(engine_of(out / label)) for label in graphs}

    params = {"host": config.host, "target": config.target, "format": FORMAT}
    params |= config.bench.model_dump(exclude={"rounds", "runs"})
    return job.stage("build", work, inputs={**graphs, "data": job.data_sha256}, params=params)


def bench_stage(job: Job, engines: dict[str, Path]) -> Stage:
    """Latency in turns; rounds already measured survive a kill."""
    config = job.config
    return job.stage(
        "bench",
        lambda out: verbs.bench(engines, out, on=job.on, rounds=config.bench.rounds, runs=config.bench.runs).to_json(),
        inputs=dict(engines),
        params={"host": config.host, **config.bench.model_dump()},
    )


def profile_stage(job: Job, engines: dict[str, Path]) -> dict[str, Any]:
    """Time of every node of the float engines, to say which layers did not get faster; nothing where the runtime cannot tell."""
    config = job.config
    if config.bench.runtime not in PROFILED:
        progress.note(f"- without profile: {config.bench.runtime} does not tell the time of single layers")
        return {}
    pair = {label: engines[label] for label in (DENSE, PRUNED)}
    return job.stage(
        "profile",
        lambda out: verbs.profile(pair, out, on=job.on, imgsz=config.imgsz),
        inputs=dict(pair),
        params={"host": config.host, **config.bench.model_dump(exclude={"rounds", "runs"})},
    ).result


def accuracy_stage(job: Job, engines: dict[str, Path], model: Path) -> Stage:
    """mAP of the engines' own outputs, and of the network right after the cut."""
    config = job.config
    subjects = {**engines, "cut": job.cut_model}

    def work(out: Path) -> dict[str, Any]:
        return {
            label: verbs.evaluate(
                path,
                job.work,
                data=config.data,
                imgsz=config.imgsz,
                split=config.split,
                on=job.on,
                name=label,
            )
            for label, path in subjects.items()
        }

    return job.stage(
        "accuracy", work, inputs={**subjects, "data": job.data_sha256}, params={"split": config.split, "host": config.host}
    )
