"""Simplify an ONNX graph without trusting the simplifier.

onnxsim has crashed the interpreter and has written empty graphs (onnx-simplifier issues 341 and 260), so it runs in a process
of its own and its result is compared with what it was given. If it fails, onnxslim is tried; if that fails, the graph stays.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import ExportError
from toolchain.export.session import cpu_session

TIMEOUT_S = 300.0
TOLERANCE = 1e-4  # relative to the largest output: folding constants may reorder float sums, nothing more
PROGRAMS = {
    "onnxsim": (
        "import sys, onnx, onnxsim\n"
        "model, ok = onnxsim.simplify(onnx.load(sys.argv[1]))\n"
        "onnx.save(model, sys.argv[2]) if ok else sys.exit('its own check failed')"
    ),
    "onnxslim": "import sys, onnx, onnxslim\nonnx.save(onnxslim.slim(onnx.load(sys.argv[1])), sys.argv[2])",
}
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def simplify(model: onnx.ModelProto, probe: NDArray[np.float32]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The simplest graph that still computes the same.

    Args:
        probe: (n, 3, s, s) float32 input on which both graphs must agree.

    Returns:
        the graph and {"used": name or None, "version", "failures": {name: reason}, "nodes_before", "nodes_after"}.
    """
    failures: dict[str, str] = {}
    result, used = model, None
    for name, program in PROGRAMS.items():
        try:
            result = _run(name, program, model)
            compare(model, result, probe)
        except ExportError as error:
            failures[name] = str(error)
            result = model
            continue
        used = name
        break
    version = metadata.version(used) if used else None
    nodes_before, nodes_after = len(model.graph.node), len(result.graph.node)
    return result, {
        "used": used, "version": version, "failures": failures, "nodes_before": nodes_before, "nodes_after": nodes_after,
    }  # fmt: skip


def _run(name: str, program: str, model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="simplify-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(model, source)
        command = [sys.executable, "-c", program, str(source), str(target)]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{name} did not end within {TIMEOUT_S:.0f} s") from error
        if done.returncode != 0 or not target.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            raise ExportError(f"{name} failed", got=f"{how}: {last[:300]}")
        try:
            return onnx.load(target)
        except Exception as error:
            raise ExportError(f"{name} wrote a file that is not ONNX", got=repr(error)) from error


def compare(before: onnx.ModelProto, after: onnx.ModelProto, probe: NDArray[np.float32]) -> None:
    """Raises ExportError unless `after` is a whole graph with the same interface, layers and outputs as `before`."""
    if not after.graph.node or len(after.graph.node) > len(before.graph.node):
        raise ExportError(
            "the simplified graph is empty or larger", got=f"{len(before.graph.node)} -> {len(after.graph.node)} nodes"
        )
    if not _same_interface(before.graph, after.graph):
        raise ExportError("simplifying changed the inputs or outputs", got=_shapes(after.graph.output))
    if _weighted(before) != _weighted(after):
        raise ExportError("simplifying changed the number of layers", got=f"{_weighted(before)} -> {_weighted(after)}")
    try:
        want, have = (run_all(graph, probe) for graph in (before, after))
    except Exception as error:
        raise ExportError("the simplified graph does not run", got=repr(error)[:300]) from error
    worst = max(float(np.abs(a - b).max() / max(1.0, float(np.abs(a).max()))) for a, b in zip(want, have, strict=True))
    if not worst <= TOLERANCE:
        raise ExportError("the simplified graph computes something else", got=f"relative difference {worst:.2e}")


def run_all(model: onnx.ModelProto, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """All outputs of a graph with one input."""
    session = cpu_session(model)
    return list(session.run(None, {session.get_inputs()[0].name: images}))


def _same_interface(before: onnx.GraphProto, after: onnx.GraphProto) -> bool:
    """Same names and sizes; an output size that was unknown may have been found out, one that is free at the input may not."""
    inputs = _shapes(before.input)
    free = {size for _, shape in inputs for size in shape if isinstance(size, str)}
    old, new = _shapes(before.output), _shapes(after.output)
    if inputs != _shapes(after.input) or [(name, len(shape)) for name, shape in old] != [
        (name, len(shape)) for name, shape in new
    ]:
        return False
    sizes = [(a, b) for (_, x), (_, y) in zip(old, new, strict=True) for a, b in zip(x, y, strict=True)]
    return all(a == b or (isinstance(a, str) and a not in free) for a, b in sizes)


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> list[tuple[str, list[int | str]]]:
    return [(value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]) for value in values]


def _weighted(model: onnx.ModelProto) -> dict[str, int]:
    counts = Counter(node.op_type for node in model.graph.node)
    return {name: counts[name] for name in WEIGHTED if counts[name]}
