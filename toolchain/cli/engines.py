"""Engines where they will live: build, bench, eval."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import (
    AsJson,
    Calibration,
    Data,
    Host,
    Imgsz,
    MaybeData,
    MaybeTarget,
    Out,
    Patience,
    Provider,
    Python,
    Runtime,
    Split,
    Target,
    Threads,
    Wait,
    app,
    finish,
    folder,
)


@app.command()
def build(
    model: Annotated[Path, typer.Argument(help=".onnx, or OpenVINO's model.xml")],
    out: Out = Path("runs/bundle"),
    imgsz: Imgsz = 640,
    host: Host = "local",
    target: Target = "host-cpu",
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, fp16, bf16, int8, fp8; default: as graph and provider say")
    ] = None,
    runtime: Runtime = "",
    provider: Provider = "",
    calibration: Calibration = None,
    threads: Threads = 2,
    sample: Annotated[Path | None, typer.Option("--sample", help="picture to try it on; default: a drawn pattern")] = None,
    keep_plan: Annotated[
        bool, typer.Option("--plan/--no-plan", help="TensorRT: bring its plan into the bundle, or leave it on the host")
    ] = True,
    wait: Wait = 0.0,
    patience: Patience = 300.0,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """A bundle (engine, infer.py, manifest with hashes) that has really run on the host."""
    from toolchain import requests, verbs
    from toolchain.device.settings import On

    on = On(
        host=host, runtime=runtime, provider=provider, threads=threads, python=python, target=target, wait_s=wait,
        patience_s=patience,
    )  # fmt: skip
    on = replace(on, calibration=requests.calibration(calibration, [on.runtime], provider))
    result = verbs.build(model, out, imgsz=imgsz, on=on, precision=precision, sample=sample, keep_plan=keep_plan)
    finish(result, as_json, f"loaded and run on {host}\n{out}\nnext: toolchain deploy {out} HOST")


@app.command()
def bench(
    engines: Annotated[list[str], typer.Argument(help="LABEL=PATH or PATH of .onnx, .xml or bundles; the first is the baseline")],
    out: Out = Path("runs/bench"),
    hosts: Annotated[list[str] | None, typer.Option("--host", help="local, user@addr[:port] or a Host; repeatable")] = None,
    target: MaybeTarget = None,
    profile: Annotated[str, typer.Option("--profile", help="quick, search (9 s an engine) or report (90 s or more)")] = "search",
    rounds: Annotated[int | None, typer.Option("--rounds", help="passes of every engine; default: the profile's")] = None,
    runs: Annotated[int | None, typer.Option("--runs", help="least inferences in a pass; default: the profile's")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="time whole detections too; always in a report")] = False,
    rate_hz: Annotated[
        float | None, typer.Option("--rate-hz", help="also the latency at so many frames a second, idle in between")
    ] = None,
    accuracy: Annotated[bool, typer.Option("--accuracy", help="mAP of each engine's own outputs there; needs --data")] = False,
    data: MaybeData = None,
    split: Split = "val",
    energy: Annotated[bool, typer.Option("--energy", help="energy of an inference too")] = False,
    meter: Annotated[
        str | None, typer.Option("--meter", help="csv:PATH, http:URL#path or command:WORDS; else the target's")
    ] = None,
    meter_scope: Annotated[str, typer.Option("--meter-scope", help="what the meter sees: ac_wall or dc_input")] = "ac_wall",
    meter_error_percent: Annotated[
        float | None, typer.Option("--meter-error-percent", help="largest error of the meter, of its reading")
    ] = None,
    meter_error_w: Annotated[float | None, typer.Option("--meter-error-w", help="and in watts, added to it")] = None,
    energy_repeats: Annotated[int, typer.Option("--energy-repeats", help="windows of every engine; 6 give an interval")] = 3,
    power_mode: Annotated[str | None, typer.Option("--power-mode", help="run in this mode, then put the old one back")] = None,
    pin_clocks: Annotated[bool, typer.Option("--pin-clocks", help="hold the clocks, then let them go")] = False,
    cool_down: Annotated[
        float | None,
        typer.Option("--cool-down", help="longest wait for the start temperature, s; report: 300"),
    ] = None,
    start_temperature: Annotated[
        float | None, typer.Option("--start-temperature", help="of the hottest zone, C; default: as when the folder was begun")
    ] = None,
    keep_unstable: Annotated[bool, typer.Option("--keep-unstable", help="record what must not be used, and mark it")] = False,
    export_times: Annotated[bool, typer.Option("--export-times", help="the samples also as trtexec would write them")] = False,
    trtexec: Annotated[
        bool, typer.Option("--trtexec", help="time TensorRT's plans by its own program too; in a report always")
    ] = False,
    attach: Annotated[bool, typer.Option("--attach", help="keep the usable results in the bundles measured")] = False,
    wait: Wait = 0.0,
    patience: Patience = 300.0,
    imgsz: Annotated[int | None, typer.Option("--imgsz", help="side of the input, for engines that take any")] = None,
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", help="NAME, or all that the host has; repeatable; default: the target's")
    ] = None,
    provider: Provider = "",
    calibration: Calibration = None,
    threads: Threads = 2,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """Latency of engines in turns, one process each, one active at a time; every sample is kept. Exit code 10: not to be used.

    Several --host are measured at once, each into a folder of its own.
    """
    from toolchain import requests, verbs
    from toolchain.device.settings import On
    from toolchain.progress import console
    from toolchain.report.bench_table import bench_table
    from toolchain.report.fleet_table import fleet_table

    places = hosts or ["local"]
    labelled = requests.labelled(engines)
    runtime, several = requests.runtimes_of(runtimes or [""], provider, attach=attach)
    runtime, provider = requests.as_built(labelled.values(), runtime, provider)
    on = On(
        host=places[0], runtime=runtime, provider=provider, threads=threads, python=python, target=target, wait_s=wait,
        patience_s=patience,
    )  # fmt: skip
    on = replace(on, calibration=requests.calibration(calibration, several or [on.runtime], provider))
    asked = requests.bench_request(
        profile=profile, rounds=rounds, runs=runs, end_to_end=end_to_end, power_mode=power_mode,
        energy=requests.energy_request(profile, meter, meter_scope, energy_repeats, meter_error_percent, meter_error_w)
        if energy or meter else None,
        pin_clocks=pin_clocks, keep_unstable=keep_unstable, accuracy=accuracy, data=data,
        cool_down=cool_down, start_temperature=start_temperature, rate_hz=rate_hz, export_times=export_times, trtexec=trtexec,
    )  # fmt: skip
    asked |= {"split": split, "imgsz": imgsz, "runtimes": several, "command": shlex.join(["toolchain", *sys.argv[1:]])}
    bundles = verbs.bundles_of(labelled) if attach else {}
    if len(places) == 1:
        result = verbs.bench(labelled, folder(out), on=on, **asked).to_json()
        results, error = [result], None
    else:
        result, error = verbs.bench_fleet(labelled, folder(out), places, on=on, **asked)
        results = [one["result"] for one in result["devices"] if one["result"]]
    if not as_json:
        console.print(bench_table(result) if len(places) == 1 else fleet_table(result["rows"]))
    finish(result, as_json, str(out / ("bench.json" if len(places) == 1 else verbs.FLEET)))
    verbs.attach_results(bundles, results)
    if error is not None:
        raise error
    for one in results:
        requests.check_usable(one)


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help=".pt, .onnx, .xml or bundle")],
    data: Data,
    out: Out = Path("runs/eval"),
    imgsz: Imgsz = 640,
    split: Split = "val",
    host: Host = "local",
    target: MaybeTarget = None,
    runtime: Runtime = "",
    provider: Provider = "",
    calibration: Calibration = None,
    wait: Wait = 0.0,
    patience: Patience = 300.0,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """mAP of a checkpoint, or of an engine's own outputs on the host."""
    from toolchain import requests, verbs
    from toolchain.device.settings import On

    runtime, provider = requests.as_built([model], runtime, provider)
    on = On(
        host=host, runtime=runtime, provider=provider, python=python, target=target, wait_s=wait, patience_s=patience
    )  # fmt: skip
    on = replace(on, calibration=requests.calibration(calibration, [on.runtime], provider))
    result = verbs.evaluate(model, out, data=data, imgsz=imgsz, split=split, on=on)
    shared = " (pictures shared with train)" if result["shared_with_train"] else ""
    finish(
        result,
        as_json,
        f"{split}{shared}: mAP50 {result['map50']:.4f}, mAP50-95 {result['map50_95']:.4f}, {result['images']} images",
    )
