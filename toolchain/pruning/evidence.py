"""What the detection loss says about every channel: gradients over training images, kept per batch.

All loss-based criteria read the same evidence, so the images are run once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from toolchain import progress
from toolchain.yolo.loss import detection_loss

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """First-order effect of closing each channel, one row per batch.

    Attributes:
        gates: BN path -> (batches, channels), γ·∂L/∂γ + β·∂L/∂β: the derivative of the loss by a gate on the BN's output.
        outputs: conv path -> (batches, outputs), Σ w·∂L/∂w over each filter.
        inputs: conv path -> (batches, inputs), Σ w·∂L/∂w over each input's column.
        images: how many images were seen.
    """

    gates: dict[str, Matrix]
    outputs: dict[str, Matrix]
    inputs: dict[str, Matrix]
    images: int


def collect(network: nn.Module, batches: Iterable[dict[str, Any]], total: int) -> Evidence:
    """Run forward and backward over labelled batches with frozen BN statistics; weights do not change.

    Args:
        network: prunable DetectionModel, float32.
        batches: dicts of ultralytics' training batch form (img, batch_idx, cls, bboxes).
        total: number of batches, for the progress bar.
    """
    network.eval()
    rows: tuple[dict[str, list[Matrix]], ...] = ({}, {}, {})
    images = 0
    with progress.task("Scoring channels on the detection loss", total, "batches") as bar:
        for batch in batches:
            network.zero_grad(set_to_none=True)
            detection_loss(network, batch).backward()  # type: ignore[no-untyped-call]
            images += len(batch["img"])
            for name, module in network.named_modules():
                _record(name, module, rows)
            bar.advance()
    network.zero_grad(set_to_none=True)
    gates, outputs, inputs = ({name: np.stack(values) for name, values in table.items()} for table in rows)
    return Evidence(gates, outputs, inputs, images)


def _record(name: str, module: nn.Module, rows: tuple[dict[str, list[Matrix]], ...]) -> None:
    gates, outputs, inputs = rows
    if isinstance(module, nn.BatchNorm2d) and module.weight.grad is not None and module.bias.grad is not None:
        gate = module.weight * module.weight.grad + module.bias * module.bias.grad
        gates.setdefault(name, []).append(gate.detach().double().numpy().copy())
    elif isinstance(module, nn.Conv2d) and module.weight.grad is not None:
        effect = (module.weight * module.weight.grad).detach().double()
        outputs.setdefault(name, []).append(effect.sum(dim=(1, 2, 3)).numpy())
        inputs.setdefault(name, []).append(effect.sum(dim=(0, 2, 3)).numpy())


def effect_per_batch(table: dict[str, Matrix], layer: str, positions: NDArray[np.int64]) -> Matrix | None:
    """(batches, channels) of one slice, positions of a channel added up; None if the layer saw no gradient."""
    rows = table.get(layer)
    return None if rows is None else rows[:, positions].sum(axis=2)


def no_grad_copy(tensor: Any) -> NDArray[np.float64]:
    """A float64 numpy copy."""
    copy: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return copy
