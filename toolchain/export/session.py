"""ONNX Runtime on this machine's CPU, for checks and calibration (the device has its own runner)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx


def cpu_session(model: onnx.ModelProto | Path, *, optimise: bool = True, threads: int = 0) -> Any:
    """`onnxruntime.InferenceSession` on the CPU provider.

    Args:
        model: a graph in memory or a file.
        optimise: False keeps every node as it is written.
        threads: 0 lets the runtime choose.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else its threads keep the processor busy between runs
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
