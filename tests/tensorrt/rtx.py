"""The RTX oracle: NVIDIA's real ONNX parser and a builder, on a CPU, through the wheels of TensorRT-RTX (an API like that of 11).

A refusal by its parser is strong evidence for TensorRT 10 and 11, acceptance good evidence; that it builds says little about a
board, that it does not may be its own limit. Nothing is said about 8.x, nor about speed. Every graph is asked in a process of its
own with a time limit: a malformed one can crash the parser. `python -m tests.tensorrt.rtx` writes `expected.json` anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest

BINDINGS = "tensorrt_rtx_bindings"
REQUIRED = "EDGE_LAB_REQUIRED"  # set where no test may be skipped
LIMIT_S = 120.0


def need_rtx() -> None:
    """Skip where the wheels are not installed, unless nothing may be skipped."""
    if importlib.util.find_spec(BINDINGS) is None:
        there_are_wheels = sys.version_info < (3, 12) and platform.machine() == "x86_64" and sys.platform == "linux"
        reason = "no RTX oracle: pip install 'edge-toolchain[rtx]' (x86-64 Linux, Python 3.10 or 3.11)"
        if there_are_wheels and os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)


def ask(model: onnx.ModelProto, *, build: bool = True) -> dict[str, Any]:
    """{"stage": "parse", "build", "crash", "timeout" or "ok", "errors": [{"node", "op", "text"}]}."""
    with tempfile.TemporaryDirectory(prefix="rtx-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        command = [sys.executable, __file__, "--one", str(path), *([] if build else ["--parse"])]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return {"stage": "timeout", "errors": []}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"stage": "crash", "errors": [{"node": "", "op": "", "text": f"{done.returncode}: {done.stderr[-300:]}"}]}
    return dict(json.loads(lines[-1]))


def one(path: str, *, build: bool) -> dict[str, Any]:
    """The verdict; runs in a process of its own. Network, parser and builder stay referenced, or the process dies."""
    import tensorrt_rtx_bindings as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        return {
            "stage": "parse",
            "errors": [{"node": e.node_name(), "op": e.node_operator(), "text": e.desc().strip()} for e in errors],
        }
    if not build:
        return {"stage": "ok", "errors": []}
    config = builder.create_builder_config()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if any(-1 in tuple(each.shape) for each in inputs):
        profile = builder.create_optimization_profile()
        for each in inputs:
            profile.set_shape(each.name, *[tuple(batch if size == -1 else size for size in each.shape) for batch in (1, 4, 8)])
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return {"stage": "ok" if plan is not None else "build", "errors": []}


def write_expected() -> None:
    """Verdicts of the whole corpus."""
    from tests.tensorrt.corpus import EXPECTED, corpus

    found = {name: ask(model) for name, model in corpus().items()}
    rows = {
        name: {"stage": answer["stage"], "text": [e["text"][:160] for e in answer["errors"]][:1]}
        for name, answer in found.items()
    }
    EXPECTED.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--one":
        print(json.dumps(one(sys.argv[2], build="--parse" not in sys.argv)))
    else:
        write_expected()
