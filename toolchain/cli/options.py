"""The options that several commands share, and what every command does at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="A trained YOLO goes in with a device and a budget; a measured engine that meets it comes out.",
)  # fmt: skip

Model = Annotated[Path, typer.Argument(help="ultralytics detection .pt or .yaml")]
Out = Annotated[Path, typer.Option("--out", "-o", help="folder to write into")]
Data = Annotated[Path, typer.Option("--data", "-d", help="ultralytics data YAML")]
MaybeData = Annotated[Path | None, typer.Option("--data", "-d", help="ultralytics data YAML")]
Imgsz = Annotated[int, typer.Option("--imgsz", help="side of the network input, pixels")]
Host = Annotated[str, typer.Option("--host", help="local, user@addr[:port], or a Host of your ssh config")]
Python = Annotated[str | None, typer.Option("--python", help="Python command on the host")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="seconds to wait while someone else has the device")]
Patience = Annotated[float, typer.Option("--patience", min=0, help="seconds to wait after a lost link; 0: an error at once")]
Threads = Annotated[int, typer.Option("--threads", help="threads of the runtime")]
Runtime = Annotated[str, typer.Option("--runtime", help="onnxruntime, openvino, ncnn or tensorrt; default: the target's")]
Provider = Annotated[
    str, typer.Option("--provider", help="the runtime's provider or device, NAME or NAME:KEY=VALUE,...; another one is an error")
]
Calibration = Annotated[
    Path | None,
    typer.Option("--calibration", help="TensorRT up to 10 with precision=int8: pictures (.npy) or a calibration cache"),
]
Seed = Annotated[int, typer.Option("--seed")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Criterion = Annotated[str, typer.Option("--criterion", help="l1, l2, bn-scale, lamp, fpgm, taylor, fisher, random")]
Compensate = Annotated[str, typer.Option("--compensate", help="accuracy won back without training: none, lsq, bn, both")]
Strategy = Annotated[str, typer.Option("--strategy", help="uniform, per-layer, depth-aware, global, flops")]
Ratio = Annotated[float, typer.Option("--ratio", help="share to prune: of multiply-adds for flops, else of channels")]
Align = Annotated[int | None, typer.Option("--align", help="channels are multiples of this; default: the target's")]
Layer = Annotated[list[str] | None, typer.Option("--layer", help="own ratio of one group: NAME=0.3; may be repeated")]
Target = Annotated[str, typer.Option("--target", help="name in `toolchain targets`, or a TOML file")]
MaybeTarget = Annotated[
    str | None, typer.Option("--target", help="what the host is: names its runtime, sensors, rails, modes; default: not said")
]
Executor = Annotated[str, typer.Option("--executor", help="where tasks run: serial, processes (of this machine), ray")]
Workers = Annotated[int | None, typer.Option("--workers", help="tasks at a time; default: one a core, of processes at most 8")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="HOST:PORT of a Ray cluster's head")]
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
