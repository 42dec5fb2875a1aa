"""Bias correction: rounding and clipping shift the mean of a layer's output; the shift is measured and taken out of the bias.

Errors of single values average out over the inputs of the next layer, shifts add up. Source: Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2 (here measured on pictures).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from toolchain.quantization.compare import layer_errors


def correct_biases(
    model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]
) -> tuple[onnx.ModelProto, int]:
    """Float graph whose biases make up for the mean error of INT8, to be quantized again with the same ranges.

    Args:
        model: float graph the quantized one was made from; it is copied.
        batches: (n, 3, s, s) float32.

    Returns:
        the graph and how many convs were corrected.
    """
    sums, pictures = layer_errors(model, quantized, batches, _mean_error)
    shifts = {name: mean / pictures for name, (mean,) in sums.items()}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    biases = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    corrected = 0
    for node in result.graph.node:
        if node.name not in shifts or (len(node.input) > 2 and node.input[2] not in biases):
            continue
        old = biases[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.float32)
        name = f"{node.name}/corrected_bias"  # its own: exporters let convs share equal biases
        value = (old - shifts[node.name].reshape(-1)).astype(np.float32)
        result.graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[:] = [*node.input[:2], name]
        corrected += 1
    used = {name for node in result.graph.node for name in node.input}
    kept = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result, corrected


def _mean_error(true: str, twin: str, prefix: str) -> tuple[list[onnx.NodeProto], list[str]]:
    difference, pooled = f"{prefix}/shift", f"{prefix}/mean"
    return [
        helper.make_node("Sub", [twin, true], [difference], difference),
        helper.make_node("GlobalAveragePool", [difference], [pooled], pooled),
    ], [pooled]
