"""Stages of the network itself: dense baseline, cuts with a fine-tune after each, export."""

from __future__ import annotations

from pathlib import Path

from toolchain import requests, verbs
from toolchain.device.target import load_target
from toolchain.pipeline.job import Job
from toolchain.pruning.plan import PruningPlan, compose
from toolchain.pruning.sensitivity import Row, guard
from toolchain.selection.budget import parse_budgets
from toolchain.stage import Stage


def dense_stage(job: Job) -> Stage:
    """The unpruned network as an engine: the baseline of everything."""
    return export_stage(job, "dense", job.config.model)


def cut_and_tune(job: Job) -> tuple[Path, PruningPlan]:
    """N cuts with a fine-tune after each; equal shares of what is left, so that together they reach what was asked."""
    config = job.config
    model: Path = config.model
    whole: PruningPlan | None = None
    least = guard_stage(job) if config.prune.guard > 0 else {}
    share = 1.0  # of the dense engine's latency that the cuts so far have left
    for step in range(1, config.prune.steps + 1):
        last, name = step == config.prune.steps, "cut" if config.prune.steps == 1 else f"cut-{step}"
        if config.budget:
            cut = select_stage(job, model, step, share, name)
            share *= cut.result["measured"]
        else:
            ratio = 1 - (1 - config.prune.ratio) ** (1 / config.prune.steps)
            left = {} if whole is None else {group.name: group.width / group.channels for group in whole.groups}
            now = {group: min(kept / left.get(group, 1.0), 1.0) for group, kept in least.items()}
            cut = cut_stage(job, model, ratio, now, name)
        plan = PruningPlan.load(cut / "plan.json")
        whole = plan if whole is None else compose(whole, plan)
        model = cut / "pruned.pt"
        epochs = config.train.epochs if last else config.prune.step_epochs
        if epochs:
            model = tune_stage(job.at(plan.imgsz), model, epochs, "tune" if last else f"tune-{step}") / "tuned.pt"
    assert whole is not None
    whole.save(config.out / "plan.json")
    return model, whole


def select_stage(job: Job, model: Path, step: int, share: float, name: str) -> Stage:
    """A cut by a budget: the part of it that this step is to reach, after earlier steps left `share` of the dense latency."""
    config, align = job.config, load_target(job.config.target).channel_alignment
    part, align = 1 / (config.prune.steps - step + 1), config.prune.align or align
    return job.stage(
        name,
        lambda out: verbs.select(
            [model, *config.select.models], out, parse_budgets(config.budget), data=config.data,
            sizes=[config.imgsz, *config.select.imgsz], on=job.on, seed=config.seed, section=config.select, align=align,
            part=part, share_before=share, compensate=config.prune.compensate,
        ),
        inputs={"model": model, **{f"model-{i}": path for i, path in enumerate(config.select.models)}, "data": job.data_sha256},
        params={"budget": config.budget, "select": config.select.model_dump(mode="json"), "seed": config.seed, "align": align,
                "part": part, "share": share, "on": vars(job.on), "compensate": config.prune.compensate},
        outputs=("plan.json", "pruned.pt"),
    )  # fmt: skip


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
        lambda out: verbs.prune(model, out, request, data=config.data, compensate=config.prune.compensate),
        inputs={"model": model, "data": job.data_sha256},
        params={"request": vars(request), "compensate": config.prune.compensate},
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
    section = config.export.for_runtime(job.on.runtime)
    return job.stage(
        name,
        lambda out: verbs.export(model, out, data=config.data, imgsz=config.imgsz, export=section),
        inputs={"model": model, "data": job.data_sha256},
        params=section.model_dump(),
        outputs=("model.onnx",),
    )
