"""Devices: targets, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from toolchain.cli.options import AsJson, Out, Python, Wait, app, finish


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="a target, or a TOML file")] = None,
    as_json: AsJson = False,
) -> None:
    """The devices known; one of them whole, every value with its source."""
    from toolchain.device.target import list_targets, load_target
    from toolchain.progress import console
    from toolchain.report.target_table import target_page, targets_table

    if name is None and as_json:
        typer.echo(json.dumps({"targets": list_targets()}))
    elif name is None:
        console.print(targets_table([load_target(known).to_json() for known in list_targets()]))
    elif as_json:
        typer.echo(json.dumps(load_target(name).to_json()))
    else:
        console.print(target_page(load_target(name).to_json()))


@app.command()
def doctor(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="[HOST]...", help="local (default), user@addr[:port] or a Host")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="what it ought to be; default: the target that fits")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="put missing numpy and runtime into the agent's own folder there")
    ] = False,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="which one to install: onnxruntime, openvino or ncnn; default: the target's")
    ] = None,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """What a host is and whether a measurement there can be trusted, with the commands that mend it. Exit code 10: not fit."""
    from toolchain import verbs
    from toolchain.errors import MeasurementError
    from toolchain.progress import console
    from toolchain.report.doctor_page import doctor_page

    def show(exam: dict[str, Any]) -> None:
        if not as_json:
            console.print(doctor_page(exam))

    found, error = verbs.examine(hosts or ["local"], target=target, python=python, install=install, runtime=runtime, found=show)
    exams = [one["result"] for one in found if one["result"]]
    if as_json and len(found) > 1:
        typer.echo(json.dumps({"devices": found}))
    elif as_json and exams:
        typer.echo(json.dumps(exams[0]))
    if error is not None:
        raise error
    if not all(exam["fit"] for exam in exams):
        raise typer.Exit(MeasurementError.exit_code)


@app.command()
def selftest(
    host: Annotated[str, typer.Argument(metavar="HOST", help="local, user@addr[:port] or a Host")] = "local",
    out: Out = Path("runs/selftest"),
    wait: Wait = 0.0,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """What only a real board can show of TensorRT: one archive to send. Exit code 10: something failed, or no TensorRT there."""
    from toolchain import verbs
    from toolchain.device.selftest import check_passed
    from toolchain.device.settings import On

    result = verbs.selftest(out, on=On(host=host, python=python, wait_s=wait))
    counts = [sum(step.status == status for step in result.steps) for status in ("ok", "failed", "skipped")]
    text = "{} steps ok, {} failed, {} skipped".format(*counts)
    finish(result.to_json(), as_json, f"TensorRT {result.tensorrt or 'not there'}: {text}\n{result.archive}")
    check_passed(result)
