"""ONNX graphs for TensorRT: verify, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolchain.cli.options import AsJson, MaybeData, Out, app, finish, folder


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="any .onnx file")],
    tensorrt: Annotated[
        list[str] | None, typer.Option("--tensorrt", help="version, as 10.3; may be repeated; default: all from 8.5 to 11.4")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What TensorRT will refuse in an ONNX graph or run slowly, node by node, without a GPU. Exit code 7: refused."""
    from toolchain import verbs

    result = verbs.verify(model, tensorrt or ())
    finish(result, as_json, findings_text(result["versions"]))
    verbs.check_accepted(result)


@app.command()
def typed(
    model: Annotated[Path, typer.Argument(help="float32 .onnx, with Q/DQ or without")],
    out: Out = Path("runs/typed"),
    data: MaybeData = None,
    fp8: Annotated[
        bool, typer.Option("--fp8", help="int8 Q/DQ become FP8, for GPUs of compute capability 8.9 and later")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The same graph in FP16, with FP16 scales where there is Q/DQ: for TensorRT 11, and 10 strongly typed."""
    from toolchain import verbs

    result = verbs.typed(model, folder(out), data=data, fp8=fp8)
    agrees = result["agreement"]
    text = f"scores differ by {agrees['score_mean_abs']:.1e}, boxes by {agrees['box_mean_abs_px']:.2f} px on average"
    finish(result, as_json, f"{text}\n{out / result['file']}")


def findings_text(versions: dict[str, Any]) -> str:
    """Every finding once, with the versions it holds for."""
    where: dict[tuple[str, ...], list[str]] = {}
    for version, answer in versions.items():
        for one in answer["findings"]:
            where.setdefault((one["level"], one["rule"], one["node"] or "the graph", one["text"], one["fix"]), []).append(version)
    lines = [
        f"{level} {rule}  {node}: {text}  [{span(names)}]\n  try: {fix}"
        for (level, rule, node, text, fix), names in sorted(where.items(), key=lambda row: row[0][0])
    ]
    taken = [version for version, answer in versions.items() if answer["accepted"]]
    return "\n".join([*lines, f"accepted by: {span(taken) or 'none'} of {span(list(versions))}"])


def span(names: list[str]) -> str:
    """Versions in order, neighbours as one: 8.5 to 8.6, 10.0 to 10.16."""
    runs: list[list[tuple[int, int]]] = []
    for number in sorted((int(major), int(minor)) for major, minor in (name.split(".") for name in names)):
        if runs and number == (runs[-1][-1][0], runs[-1][-1][1] + 1):
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = [("{}.{}".format(*run[0]), "{}.{}".format(*run[-1])) for run in runs]
    return ", ".join(first if first == last else f"{first} to {last}" for first, last in ends)
