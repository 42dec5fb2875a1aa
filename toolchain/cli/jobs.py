"""The whole job, and what is made of its results: demo, run, compare, report."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from toolchain.cli.options import Align, AsJson, MaybeData, Out, Seed, app, finish


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The whole job offline: made data, a small YOLOv8, prune, fine-tune, ONNX, INT8, engine, benchmark, report."""
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
    runtime: Annotated[str | None, typer.Option("--runtime", help="default: the target's")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    criterion: Annotated[str | None, typer.Option("--criterion")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy")] = None,
    ratio: Annotated[float | None, typer.Option("--ratio")] = None,
    align: Align = None,
    budget: Annotated[list[str] | None, typer.Option("--budget", help="latency=0.5x, 8ms, size=1.5MB")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="cuts, with a fine-tune after each")] = None,
    guard: Annotated[float | None, typer.Option("--guard", help="mAP a single group may cost in the sensitivity test")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="calibration recipe")] = None,
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="mAP50-95 INT8 may cost")] = None,
    mixed: Annotated[bool | None, typer.Option("--mixed", help="leave as many layers in float as --max-drop asks for")] = None,
    qat_epochs: Annotated[int | None, typer.Option("--qat-epochs", min=0, help="QAT where calibration misses --max-drop")] = None,
    threads: Annotated[int | None, typer.Option("--threads")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    as_json: AsJson = False,
) -> None:
    """The whole job: prune, fine-tune, export, INT8, build, benchmark, report. Run it again to go on after a stop."""
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
        "budget": budget or None,
        "prune.criterion": criterion,
        "prune.strategy": strategy,
        "prune.ratio": ratio,
        "prune.align": align,
        "prune.steps": steps,
        "prune.guard": guard,
        "train.epochs": epochs,
        "int8.recipe": recipe,
        "int8.max_drop": max_drop,
        "int8.mixed": mixed,
        "int8.qat.epochs": qat_epochs,
        "bench.threads": threads,
        "bench.runtime": runtime,
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
