"""Engines where they will live: build, bench, eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import AsJson, Data, Host, Imgsz, Out, Provider, Python, Split, Target, Threads, app, finish, folder


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
    sample: Annotated[Path | None, typer.Option("--sample", help="picture to try it on; default: a drawn pattern")] = None,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """A bundle (engine, infer.py, manifest with hashes) that has really run on the host."""
    from toolchain import verbs
    from toolchain.device.settings import On

    on = On(host=host, provider=provider, threads=threads, python=python, target=target)
    result = verbs.build(model, out, imgsz=imgsz, on=on, precision=precision, sample=sample)
    finish(result, as_json, f"loaded and run on {host}\n{out}\nnext: toolchain deploy {out} HOST")


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
    from toolchain.device.settings import On
    from toolchain.report.bench_table import bench_table

    on = On(host=host, provider=provider, threads=threads, python=python)
    result = verbs.bench(requests.labelled(engines), folder(out), on=on, rounds=rounds, runs=runs).to_json()
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
    from toolchain.device.settings import On

    result = verbs.evaluate(model, out, data=data, imgsz=imgsz, split=split, on=On(host=host, python=python))
    shared = " (pictures shared with train)" if result["shared_with_train"] else ""
    finish(
        result,
        as_json,
        f"{split}{shared}: mAP50 {result['map50']:.4f}, mAP50-95 {result['map50_95']:.4f}, {result['images']} images",
    )
