"""Which layers lose most to INT8: the noise each one adds on its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from toolchain.quantization.compare import layer_errors


@dataclass(frozen=True)
class LayerCost:
    """Noise of one conv, everything before it in float.

    Attributes:
        name: ONNX node.
        sqnr_db: signal-to-quantization-noise ratio of its output, decibels; lower is worse.
    """

    name: str
    sqnr_db: float


def layer_costs(model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> list[LayerCost]:
    """Every conv that reads rounded values, the noisiest first.

    Args:
        model: float graph the quantized one was made from.
        quantized: graph with Q/DQ pairs.
        batches: (n, 3, s, s) float32; a handful of pictures is enough.

    Raises:
        QuantizationError: no picture, or no conv of the one is quantized in the other.
    """
    sums, _ = layer_errors(model, quantized, batches, _energies)
    costs = [LayerCost(name, _decibel(float(signal), float(noise))) for name, (signal, noise) in sums.items()]
    return sorted(costs, key=lambda cost: cost.sqnr_db)


def _energies(true: str, twin: str, prefix: str) -> tuple[list[onnx.NodeProto], list[str]]:
    signal, difference, noise = (f"{prefix}/{key}" for key in ("signal", "difference", "noise"))
    return [
        helper.make_node("ReduceSumSquare", [true], [signal], signal, keepdims=0),
        helper.make_node("Sub", [true, twin], [difference], difference),
        helper.make_node("ReduceSumSquare", [difference], [noise], noise, keepdims=0),
    ], [signal, noise]


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
