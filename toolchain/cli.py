"""The command line: one command per verb; each body is one call into the package.

`--json` puts exactly one JSON object on stdout; text for people and progress go to stderr. Exit codes are in `errors.py`.
"""

from __future__ import annotations

import errno
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from toolchain.errors import DiskFullError, RunFolderError, ToolchainError

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="A trained YOLO goes in with a device and a budget; a measured engine that meets it comes out.",
)  # fmt: skip

INTERRUPTED = 130  # exit code after Ctrl-C, by the shells' convention
Model = Annotated[Path, typer.Argument(help="ultralytics detection .pt or .yaml")]
Out = Annotated[Path, typer.Option("--out", "-o", help="folder to write into")]
Data = Annotated[Path, typer.Option("--data", "-d", help="ultralytics data YAML")]
MaybeData = Annotated[Path | None, typer.Option("--data", "-d", help="ultralytics data YAML")]
Imgsz = Annotated[int, typer.Option("--imgsz", help="side of the network input, pixels")]
Host = Annotated[str, typer.Option("--host", help="local, user@addr[:port], or a Host of your ssh config")]
Python = Annotated[str | None, typer.Option("--python", help="Python command on the host")]
Threads = Annotated[int, typer.Option("--threads", help="threads of the runtime")]
Provider = Annotated[str, typer.Option("--provider", help="ONNX Runtime execution provider; another one is an error")]
Seed = Annotated[int, typer.Option("--seed")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Criterion = Annotated[str, typer.Option("--criterion", help="l1, l2, bn-scale, lamp, fpgm, taylor, fisher, random")]
Strategy = Annotated[str, typer.Option("--strategy", help="uniform, per-layer, depth-aware, global, flops")]
Ratio = Annotated[float, typer.Option("--ratio", help="share to prune: of multiply-adds for flops, else of channels")]
Align = Annotated[int | None, typer.Option("--align", help="channels are multiples of this; default: the target's")]
Layer = Annotated[list[str] | None, typer.Option("--layer", help="own ratio of one group: NAME=0.3; may be repeated")]
Target = Annotated[str, typer.Option("--target", help="name in `toolchain targets`, or a TOML file")]
Split = Annotated[str, typer.Option("--split", help="val or test; train only if you ask for it")]


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """One JSON object for machines, or a sentence for people."""
    from toolchain.progress import note

    if as_json:
        typer.echo(json.dumps(result, default=str))
    else:
        note(text)


def folder(out: Path) -> Path:
    """The folder, made if it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    return out


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The whole job offline: made data, a small YOLOv8, prune, distil, ONNX, INT8, engine, benchmark, report."""
    from toolchain.demo.demo import demo as run_demo

    show(run_demo(out, seed=seed), out, as_json)


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="run.toml; flags override its keys")] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m")] = None,
    data: MaybeData = None,
    imgsz: Annotated[int | None, typer.Option("--imgsz")] = None,
    target: Annotated[str | None, typer.Option("--target")] = None,
    host: Annotated[str | None, typer.Option("--host")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    criterion: Annotated[str | None, typer.Option("--criterion")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy")] = None,
    ratio: Annotated[float | None, typer.Option("--ratio")] = None,
    align: Align = None,
    steps: Annotated[int | None, typer.Option("--steps", help="cuts, with a fine-tune after each")] = None,
    guard: Annotated[float | None, typer.Option("--guard", help="mAP a single group may cost in the sensitivity test")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="calibration recipe")] = None,
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="mAP50-95 INT8 may cost")] = None,
    threads: Annotated[int | None, typer.Option("--threads")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    as_json: AsJson = False,
) -> None:
    """The whole job: prune, distil, export, INT8, build, benchmark, report. Run it again to go on after a stop."""
    from toolchain.config import load_config
    from toolchain.pipeline import run as run_job

    flags = {
        "model": model,
        "data": data,
        "imgsz": imgsz,
        "target": target,
        "host": host,
        "out": out,
        "split": split,
        "seed": seed,
        "prune.criterion": criterion,
        "prune.strategy": strategy,
        "prune.ratio": ratio,
        "prune.align": align,
        "prune.steps": steps,
        "prune.guard": guard,
        "train.epochs": epochs,
        "int8.recipe": recipe,
        "int8.max_drop": max_drop,
        "bench.threads": threads,
    }
    settings = load_config(config, flags)
    show(run_job(settings, command=shlex.join(["toolchain", *sys.argv[1:]])), settings.out, as_json)


def show(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """The final table and where the report is."""
    from toolchain.progress import console
    from toolchain.report.tables import render_table
    from toolchain.report.variant import Variant

    if as_json:
        typer.echo(json.dumps({**summary, "out": str(out)}, default=str))
        return
    console.print(render_table([Variant(**row) for row in summary["variants"]], title=summary["title"]))
    for finding in summary["diagnosis"]:
        if finding["severity"] != "ok":
            console.print(f"{finding['severity']}: {finding['title']} — {finding['next']}", markup=False)
    console.print(f"Report: {(out / 'report.html').resolve()}", markup=False, soft_wrap=True)


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
    result = verbs.prune(model, folder(out), request, data=data, plan_file=plan)
    reached = result["reached"]
    finish(
        result, as_json,
        f"asked {result['asked_ratio']:.0%} by {result['strategy']}, reached {reached['macs']:.1%} of multiply-adds, "
        f"{reached['params']:.1%} of weights, {reached['channels']:.1%} of channels\n{out / 'pruned.pt'}\n"
        f"next: toolchain finetune {out / 'pruned.pt'} --teacher {model} --data DATA.yaml",
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
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what narrowing each group alone does to loss, mAP and boxes; cached, goes on after a stop."""
    from toolchain import verbs
    from toolchain.device.target import load_target
    from toolchain.pruning.explain import print_sensitivity

    result = verbs.sensitivity(
        model, folder(out), data=data, imgsz=imgsz, criterion=criterion, images=images, seed=seed,
        ratios=ratio or (0.25, 0.5, 0.75), align=align or load_target(target).channel_alignment,
    )  # fmt: skip
    page = verbs.sensitivity_page(result, out, f"Sensitivity of {model.name}")
    print_sensitivity(result, as_json)
    finish(result, as_json, f"{page}\nnext: toolchain prune {model} --guard {out / 'sensitivity.json'} --data {data}")


@app.command()
def finetune(
    model: Model,
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
    distill_scores: Annotated[float, typer.Option("--distill-scores", help="weight; 0 switches it off")] = 1.0,
    distill_boxes: Annotated[float, typer.Option("--distill-boxes", help="weight; 0 switches it off")] = 1.0,
    device: Annotated[str, typer.Option("--device", help="cpu, or a CUDA index")] = "cpu",
    extra: Annotated[list[str] | None, typer.Option("--set", help="any other ultralytics training key: NAME=VALUE")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the pruned network itself, distilled from its parent; the same command goes on after a stop."""
    from toolchain import requests, verbs

    section = requests.train_section(
        epochs=epochs, batch=batch, lr0=lr0, lrf=lrf, optimizer=optimizer, weight_decay=weight_decay, warmup_epochs=warmup_epochs,
        mosaic=mosaic, close_mosaic=close_mosaic, patience=patience, val_every=val_every, device=device, extra=extra,
        distill={"scores": distill_scores, "boxes": distill_boxes},
    )  # fmt: skip
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
    as_json: AsJson = False,
) -> None:
    """Simplified ONNX, compared with torch on real images before anything goes on."""
    from toolchain import verbs
    from toolchain.config import ExportSection

    section = ExportSection(opset=opset, dynamic_batch=dynamic, simplify=simplify)
    result = verbs.export(model, folder(out), data=data, imgsz=imgsz, export=section)
    used = result["simplifier"]["used"] or "not simplified"
    finish(result, as_json, f"{result['nodes']} nodes ({used}), agrees with torch\n{out / 'model.onnx'}")


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="model.onnx of `toolchain export`")],
    data: Data,
    out: Out = Path("runs/int8"),
    imgsz: Imgsz = 640,
    recipe: Annotated[str, typer.Option("--recipe", help="name in calibration/, or a TOML file")] = "percentile",
    max_drop: Annotated[float, typer.Option("--max-drop", help="mAP50-95 that INT8 may cost")] = 0.01,
    keep_float: Annotated[list[str] | None, typer.Option("--keep-float", help="ONNX nodes (patterns) to leave in float")] = None,
    split: Split = "val",
    host: Host = "local",
    python: Python = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """INT8 by Q/DQ from training images; refused when it costs more mAP than allowed."""
    from toolchain import verbs
    from toolchain.config import BenchSection, Int8Section

    section = Int8Section(recipe=recipe, max_drop=max_drop, keep_float=keep_float or [])
    result = verbs.quantize(
        model, folder(out), data=data, imgsz=imgsz, int8=section, split=split, host=host, seed=seed,
        bench=BenchSection(python=python),
    )  # fmt: skip
    maps = f"mAP50-95 {result['float']['map50_95']:.4f} in float, {result['int8']['map50_95']:.4f} in INT8 ({split})"
    finish(result, as_json, f"{maps}\n{out / 'model.int8.onnx'}")


@app.command()
def build(
    model: Annotated[Path, typer.Argument(help=".onnx")],
    out: Out = Path("runs/bundle"),
    imgsz: Imgsz = 640,
    host: Host = "local",
    target: Target = "host-cpu",
    precision: Annotated[str, typer.Option("--precision", help="fp32 or int8, for the record")] = "fp32",
    provider: Provider = "CPUExecutionProvider",
    threads: Threads = 2,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """A bundle (engine, manifest with hashes) whose engine has really run on the host."""
    from toolchain import verbs
    from toolchain.config import BenchSection

    settings = BenchSection(provider=provider, threads=threads, python=python)
    result = verbs.build(model, out, imgsz=imgsz, host=host, target=target, precision=precision, bench=settings)
    finish(result, as_json, f"loaded and run on {host}\n{out}")


@app.command()
def bench(
    engines: Annotated[list[str], typer.Argument(help="LABEL=PATH or PATH of .onnx files or bundles; the first is the baseline")],
    out: Out = Path("runs/bench"),
    host: Host = "local",
    provider: Provider = "CPUExecutionProvider",
    threads: Threads = 2,
    rounds: Annotated[int, typer.Option("--rounds")] = 11,
    runs: Annotated[int, typer.Option("--runs", help="inferences in a round")] = 20,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """Latency of engines in turns, one process each, one active at a time; every sample is kept."""
    from toolchain import requests, verbs
    from toolchain.config import BenchSection
    from toolchain.report.bench_table import bench_table

    settings = BenchSection(provider=provider, threads=threads, rounds=rounds, runs=runs, python=python)
    result = verbs.bench(requests.labelled(engines), folder(out), host=host, bench=settings).to_json()
    if not as_json:
        from toolchain.progress import console

        console.print(bench_table(result))
    finish(result, as_json, f"{out / 'bench.json'}")


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help=".pt, .onnx or bundle")],
    data: Data,
    out: Out = Path("runs/eval"),
    imgsz: Imgsz = 640,
    split: Split = "val",
    host: Host = "local",
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """mAP of a checkpoint, or of an engine's own outputs on the host."""
    from toolchain import verbs
    from toolchain.config import BenchSection

    result = verbs.evaluate(model, out, data=data, imgsz=imgsz, split=split, host=host, bench=BenchSection(python=python))
    shared = " (pictures shared with train)" if result["shared_with_train"] else ""
    finish(
        result,
        as_json,
        f"{split}{shared}: mAP50 {result['map50']:.4f}, mAP50-95 {result['map50_95']:.4f}, {result['images']} images",
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    as_json: AsJson = False,
) -> None:
    """Runs side by side, with what makes them hard to compare."""
    from toolchain.progress import console
    from toolchain.report.compare import compare_runs

    found = compare_runs(runs)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), default=str))
        return
    console.print(found.table())
    for warning in found.warnings:
        console.print(f"note: {warning}", markup=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="run folder")],
    as_json: AsJson = False,
) -> None:
    """Write the run's HTML page again."""
    from toolchain.report.html import write_report
    from toolchain.report.summary import read_summary

    write_report(read_summary(run).model_dump(), run / "report.html")
    finish({"report": str(run / "report.html")}, as_json, f"Report: {(run / 'report.html').resolve()}")


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="a target, or a TOML file")] = None,
    as_json: AsJson = False,
) -> None:
    """The devices known; one of them whole."""
    from toolchain.device.target import list_targets, load_target

    if name is None:
        known = list_targets()
        finish({"targets": known}, as_json, "\n".join(f"{n:<20} {load_target(n).title}" for n in known))
    else:
        found = load_target(name).to_json()
        finish(found, as_json, json.dumps(found, indent=1))


def fail(error: ToolchainError) -> NoReturn:
    """The message for people, and the exit code."""
    from toolchain.progress import console

    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, soft_wrap=True)
    sys.exit(error.exit_code)


def of_system(error: OSError) -> ToolchainError:
    """A file that could not be made, read or written, outside a stage."""
    place = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left", got=place, fix="free some space and run the same command: what is finished stays")
    return RunFolderError("the system refused a file", got=place, fix="check the path and its rights, or give another --out")


def main() -> None:
    """Entry point: errors raised on purpose become a message and their exit code; Ctrl-C keeps what is finished."""
    from toolchain.progress import console

    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # Typer turns Ctrl-C into a returned exit code
            raise KeyboardInterrupt
        sys.exit(code)
    except ToolchainError as error:
        fail(error)
    except OSError as error:
        fail(of_system(error))
    except (KeyboardInterrupt, typer.Abort):
        console.print("stopped; run the same command again to go on", markup=False)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own usage errors
            error.show()
            sys.exit(error.exit_code)
        raise


if __name__ == "__main__":
    main()
