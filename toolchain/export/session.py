"""ONNX Runtime on this machine's CPU, for checks and calibration (the device has its own runner)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx


def cpu_session(model: onnx.ModelProto | Path, *, optimise: bool = True, threads: int = 0, spin: bool = True) -> Any:
    """`onnxruntime.InferenceSession` on the CPU provider.

    Args:
        model: a graph in memory or a file.
        optimise: False keeps every node as it is written.
        threads: 0 lets the runtime choose.
        spin: False where other work follows each run: threads that wait for the next one keep the processor busy.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
