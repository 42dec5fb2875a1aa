"""One stage of a network: prune, sensitivity, finetune, export, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import (
    Align,
    AsJson,
    Compensate,
    Criterion,
    Data,
    Executor,
    Host,
    Imgsz,
    Layer,
    MaybeData,
    Model,
    Out,
    Provider,
    Python,
    Ratio,
    RayAddress,
    Runtime,
    Seed,
    Split,
    Strategy,
    Target,
    Threads,
    Workers,
    app,
    finish,
    folder,
)


@app.command()
def prune(
    model: Model,
    out: Out = Path("runs/prune"),
    data: MaybeData = None,
    imgsz: Imgsz = 640,
    ratio: Ratio = 0.5,
    criterion: Criterion = "fisher",
    strategy: Strategy = "flops",
    layer: Layer = None,
    layers: Annotated[Path | None, typer.Option("--layers", help="TOML of NAME = ratio")] = None,
    align: Align = None,
    target: Target = "host-cpu",
    images: Annotated[int | None, typer.Option("--images", help="training images for the scores; default: all")] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="replay this plan.json")] = None,
    guard: Annotated[Path | None, typer.Option("--guard", help="sensitivity.json: sensitive groups keep more")] = None,
    guard_drop: Annotated[float, typer.Option("--guard-drop", help="mAP a single group may cost")] = 0.02,
    compensate: Compensate = "none",
    explain: Annotated[bool, typer.Option("--explain", help="print every group and change nothing")] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Cut channels by dependency groups; writes plan.json and pruned.pt, which plain ultralytics loads."""
    from toolchain import requests, verbs
    from toolchain.device.target import load_target
    from toolchain.pruning.explain import print_groups

    if explain:
        print_groups(verbs.explain(model, imgsz, plan), as_json)
        return
    request = requests.prune_request(
        imgsz=imgsz, ratio=ratio, criterion=criterion, strategy=strategy,
        layers=requests.layer_ratios(layers, requests.ratios(layer)),
        align=align or load_target(target).channel_alignment, images=images, seed=seed, guard=guard, guard_drop=guard_drop,
    )  # fmt: skip
    result = verbs.prune(model, folder(out), request, data=data, plan_file=plan, compensate=compensate)
    reached = result["reached"]
    finish(
        result, as_json,
        f"asked {result['asked_ratio']:.0%} by {result['strategy']}, reached {reached['macs']:.1%} of multiply-adds, "
        f"{reached['params']:.1%} of weights, {reached['channels']:.1%} of channels\n{out / 'pruned.pt'}\n"
        f"next: toolchain finetune {out / 'pruned.pt'} --data DATA.yaml",
    )  # fmt: skip


@app.command()
def select(
    models: Annotated[list[Path], typer.Argument(help="detection .pt; of several, the one that does best in a trial is cut")],
    data: Data,
    budget: Annotated[list[str], typer.Option("--budget", help="latency=0.5x, 8ms, energy=20mJ, size=1.5MB; repeatable")],
    out: Out = Path("runs/select"),
    imgsz: Annotated[str, typer.Option("--imgsz", help="side of the picture; of several, as 640,512, one is chosen")] = "640",
    precision: Annotated[
        str, typer.Option("--precision", help="of the engine that must meet the budget: fp32, fp16, int8")
    ] = "int8",
    target: Target = "host-cpu",
    host: Host = "local",
    runtime: Runtime = "",
    provider: Provider = "",
    threads: Threads = 2,
    python: Python = None,
    strategy: Annotated[str, typer.Option("--strategy", help="latency, table, flops, global, lamp, uniform, …")] = "latency",
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="plans timed; default: 40 to 100, while the model gets better"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="most turns of solve, build, time, learn")] = 4,
    align: Align = None,
    criterion: Criterion = "fisher",
    value: Annotated[str, typer.Option("--value", help="of a width: remaining, fisher, measured")] = "remaining",
    trial_epochs: Annotated[int, typer.Option("--trial-epochs", help="of training for each start, where there are several")] = 10,
    compensate: Compensate = "none",
    stairs: Annotated[int, typer.Option("--stairs", help="groups whose widths are timed one by one, for the page")] = 0,
    energy_samples: Annotated[int, typer.Option("--energy-samples", help="plans whose energy is measured, for that budget")] = 12,
    energy_repeats: Annotated[int, typer.Option("--energy-repeats", help="windows of each")] = 3,
    meter: Annotated[str | None, typer.Option("--meter", help="of power: as bench takes it; else the target's")] = None,
    meter_scope: Annotated[str, typer.Option("--meter-scope", help="what the meter sees: ac_wall or dc_input")] = "ac_wall",
    helper: Annotated[
        list[str] | None, typer.Option("--helper", help="another host of the same model, to share the timing")
    ] = None,
    executor: Executor = "serial",
    workers: Workers = None,
    ray_address: RayAddress = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Choose every layer's width so that the engine measured on the device meets the budget."""
    from toolchain import requests, verbs
    from toolchain.device.settings import On
    from toolchain.device.target import load_target
    from toolchain.executor.registry import Scale, make_executor
    from toolchain.selection.budget import parse_budgets

    section = requests.select_section(
        precision=precision, samples=samples, rounds=rounds, criterion=criterion, strategy=strategy, value=value,
        trial_epochs=trial_epochs, stairs=stairs, energy_samples=energy_samples, energy_repeats=energy_repeats, meter=meter,
        meter_scope=meter_scope,
    )  # fmt: skip
    result = verbs.select(
        models, folder(out), parse_budgets(budget), data=data, sizes=requests.sizes(imgsz), section=section, seed=seed,
        on=On(host, runtime, provider, threads, python, target), align=align or load_target(target).channel_alignment,
        compensate=compensate, helpers=helper or (), executor=make_executor(Scale(executor, workers, ray_address)),
    )  # fmt: skip
    finish(
        result, as_json,
        f"{result['measured']:.3f} of the dense engine's latency, "
        f"{'asked' if result['limited'] else 'not limited, predicted'} {result['share']:.3f}: "
        f"{result['rounds'][-1]['measured'] * result['dense_ms']:.2f} ms, dense {result['dense_ms']:.2f} ms; "
        + "".join(f"{n} {o['measured']:.3f} of the dense engine's; " for n, o in result["rounds"][-1]["others"].items())
        + f"{(n := len(result['rounds']))} round{'s' * (n > 1)}, {result['timings']} engines timed, "
        f"{result['reached']['macs']:.1%} of multiply-adds gone\n{out / 'pruned.pt'}\nwhy: {out / 'select.html'}\n"
        f"next: toolchain finetune {out / 'pruned.pt'} --data {data} --imgsz {result['imgsz']}",
    )  # fmt: skip


@app.command()
def sensitivity(
    model: Model,
    data: Data,
    out: Out = Path("runs/sensitivity"),
    imgsz: Imgsz = 640,
    criterion: Criterion = "fisher",
    images: Annotated[int, typer.Option("--images", help="training images to measure on")] = 64,
    ratio: Annotated[list[float] | None, typer.Option("--ratio", help="pruned shares to try; default 0.25 0.5 0.75")] = None,
    align: Align = None,
    target: Target = "host-cpu",
    executor: Executor = "serial",
    workers: Workers = None,
    ray_address: RayAddress = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what narrowing each group alone does to loss, mAP and boxes; cached, goes on after a stop."""
    from toolchain import verbs
    from toolchain.device.target import load_target
    from toolchain.executor.registry import Scale, make_executor
    from toolchain.pruning.explain import print_sensitivity

    result = verbs.sensitivity(
        model, folder(out), data=data, imgsz=imgsz, criterion=criterion, images=images, seed=seed,
        ratios=ratio or (0.25, 0.5, 0.75), align=align or load_target(target).channel_alignment,
        executor=make_executor(Scale(executor, workers, ray_address)),
    )  # fmt: skip
    page = verbs.sensitivity_page(result, out, f"Sensitivity of {model.name}")
    print_sensitivity(result, as_json)
    finish(result, as_json, f"{page}\nnext: toolchain prune {model} --guard {out / 'sensitivity.json'} --data {data}")


@app.command()
def finetune(
    models: Annotated[
        list[str], typer.Argument(help="detection .pt, or NAME=PATH; of several, each has a folder NAME in --out to itself")
    ],
    data: Data,
    out: Out = Path("runs/finetune"),
    teacher: Annotated[Path | None, typer.Option("--teacher", help="dense parent to distil from")] = None,
    imgsz: Imgsz = 640,
    epochs: Annotated[int, typer.Option("--epochs")] = 60,
    batch: Annotated[int, typer.Option("--batch")] = 16,
    lr0: Annotated[float, typer.Option("--lr0")] = 1e-3,
    lrf: Annotated[float, typer.Option("--lrf")] = 0.01,
    optimizer: Annotated[str, typer.Option("--optimizer")] = "AdamW",
    weight_decay: Annotated[float, typer.Option("--weight-decay")] = 5e-4,
    warmup_epochs: Annotated[float, typer.Option("--warmup-epochs")] = 1.0,
    mosaic: Annotated[float, typer.Option("--mosaic")] = 1.0,
    close_mosaic: Annotated[int, typer.Option("--close-mosaic")] = 10,
    patience: Annotated[int, typer.Option("--patience", help="epochs without a better mAP before stopping; 0: never")] = 0,
    val_every: Annotated[int, typer.Option("--val-every")] = 5,
    distill_scores: Annotated[float, typer.Option("--distill-scores", help="weight, with --teacher")] = 1.0,
    distill_boxes: Annotated[float, typer.Option("--distill-boxes", help="weight, with --teacher")] = 1.0,
    device: Annotated[str, typer.Option("--device", help="cpu, or a CUDA index")] = "cpu",
    extra: Annotated[list[str] | None, typer.Option("--set", help="any other ultralytics training key: NAME=VALUE")] = None,
    executor: Executor = "serial",
    workers: Workers = None,
    ray_address: RayAddress = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the pruned network itself, on request distilled from its parent; the same command goes on after a stop."""
    from toolchain import requests, verbs
    from toolchain.executor.registry import Scale

    section = requests.train_section(
        epochs=epochs, batch=batch, lr0=lr0, lrf=lrf, optimizer=optimizer, weight_decay=weight_decay, warmup_epochs=warmup_epochs,
        mosaic=mosaic, close_mosaic=close_mosaic, patience=patience, val_every=val_every, device=device, extra=extra,
        distill={"scores": distill_scores, "boxes": distill_boxes},
    )  # fmt: skip
    scale, named = Scale(executor, workers, ray_address), requests.labelled(models)
    if len(named) > 1 or scale != Scale():
        results = verbs.finetune_all(
            named, folder(out), data=data, imgsz=imgsz, train=section, teacher=teacher, seed=seed, scale=scale
        )
        lines = [f"{out / name / 'tuned.pt'}: best mAP50-95 {one['best_map50_95']:.4f}" for name, one in results.items()]
        finish(results, as_json, "\n".join(lines))
        return
    (model,) = named.values()
    result = verbs.finetune(model, folder(out), data=data, imgsz=imgsz, train=section, teacher=teacher, seed=seed)
    best = f"best mAP50-95 {result['best_map50_95']:.4f} at epoch {result['best_epoch']}"
    finish(
        result, as_json, f"{best}\n{out / 'tuned.pt'}\nnext: toolchain export {out / 'tuned.pt'} --imgsz {imgsz} --data {data}"
    )


@app.command()
def export(
    model: Model,
    out: Out = Path("runs/export"),
    data: MaybeData = None,
    imgsz: Imgsz = 640,
    opset: Annotated[int, typer.Option("--opset")] = 17,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="leave the batch size free")] = False,
    simplify: Annotated[bool, typer.Option("--simplify/--no-simplify")] = True,
    short_dfl: Annotated[
        bool, typer.Option("--short-dfl", help="the box softmax in a form that is quick in ONNX Runtime")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simplified ONNX, compared with torch on real images before anything goes on."""
    from toolchain import verbs
    from toolchain.config import ExportSection

    section = ExportSection(opset=opset, dynamic_batch=dynamic, simplify=simplify, short_dfl=short_dfl)
    result = verbs.export(model, folder(out), data=data, imgsz=imgsz, export=section)
    used = result["simplifier"]["used"] or "not simplified"
    finish(result, as_json, f"{result['nodes']} nodes ({used}), agrees with torch\n{out / 'model.onnx'}")


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="model.onnx of `toolchain export`")],
    data: Data,
    out: Out = Path("runs/int8"),
    imgsz: Imgsz = 640,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="in calibration/, a TOML file, or auto; default: the target's or runtime's"),
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="mAP50-95 that INT8 may cost")] = 0.01,
    mixed: Annotated[bool, typer.Option("--mixed", help="leave as many layers in float as --max-drop asks for")] = False,
    keep_float: Annotated[list[str] | None, typer.Option("--keep-float", help="ONNX nodes (patterns) to leave in float")] = None,
    qat_epochs: Annotated[
        int, typer.Option("--qat-epochs", min=0, help="training with the rounding in place, if calibration misses --max-drop")
    ] = 0,
    qat_lr0: Annotated[float, typer.Option("--qat-lr0", min=1e-8, help="its learning rate")] = 1e-4,
    device: Annotated[str, typer.Option("--device", help="of QAT: cpu, or a CUDA index")] = "cpu",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="calibration.json of an earlier call, in place of calibrating")
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="that will run it, and judges it where it is there; default: the target's")
    ] = "",
    trt_cache: Annotated[
        Path | None, typer.Option("--trt-cache", help="also write a calibration cache for TensorRT's implicit INT8")
    ] = None,
    trt_version: Annotated[
        str | None, typer.Option("--trt-version", help="of the TensorRT that reads it; 8.5.3 unless given")
    ] = None,
    split: Split = "val",
    target: Annotated[str | None, typer.Option("--target", help="what will run it; may have a recipe of its own")] = None,
    host: Host = "local",
    python: Python = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """INT8 by Q/DQ from training images; refused when it costs more mAP than allowed."""
    from toolchain import verbs
    from toolchain.config import Int8Section, QatSection
    from toolchain.device.settings import On

    qat = QatSection(epochs=qat_epochs, lr0=qat_lr0, device=device)
    section = Int8Section(recipe=recipe, max_drop=max_drop, mixed=mixed, keep_float=keep_float or [], qat=qat)
    result = verbs.quantize(
        model, folder(out), data=data, imgsz=imgsz, int8=section, split=split, seed=seed, table=calibration,
        trt_cache=trt_cache, trt_version=trt_version, on=On(host=host, runtime=runtime, python=python, target=target),
    )  # fmt: skip
    maps = f"mAP50-95 {result['float']['map50_95']:.4f} in float, {result['int8']['map50_95']:.4f} in INT8"
    trained = f", QAT of {qat_epochs} epochs" if result["qat"] and result["qat"]["kept"] else ""
    how = f"({split}, {result['judged_by']}), recipe {result['recipe']}{trained}"
    finish(result, as_json, f"{maps} {how}\n{out / 'model.int8.onnx'}")
