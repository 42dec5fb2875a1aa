"""Batch norm recalibration: running statistics moved towards those of the cut network.

Plain recalibration (reset, cumulative averages over training pictures) revives a dead network and harms a live one: even the
dense network's own averages differ from what training left in it. So the dense network is averaged over the same pictures, and
only what the cut changed is applied, in units of the spread: on an uncut network this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from toolchain.pruning.compensate import Kept

SHARES = (0.0, 0.25, 0.5, 1.0)  # of the way to the new statistics

Statistics = dict[str, tuple[torch.Tensor, torch.Tensor]]  # batch norm -> mean and variance of what it is given


@torch.no_grad()
def statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> Statistics:
    """Averages of every batch's mean and variance, each layer reading what batch norm by batch statistics gives.

    Args:
        network: not changed.
        batches: (n, 3, s, s) float32 in 0..1 each.
    """
    copy = deepcopy(network).eval()
    norms: dict[str, Any] = {name: module for name, module in copy.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for pictures in batches:
        copy(pictures)
    return {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}


def moved(dense: nn.Module, cut: nn.Module, kept: Kept, was: Statistics, now: Statistics) -> Statistics:
    """Running statistics for the cut network: the dense one's, with the change from `was` to `now` applied.

    Args:
        was, now: `statistics` of both over the same pictures.
    """
    found: Statistics = {}
    for name, (mean, variance) in now.items():
        path, left = kept[name]
        norm: Any = dense.get_submodule(path)
        dense_mean, dense_variance = (each[left] for each in was[path])
        ratio = (variance + norm.eps) / (dense_variance + norm.eps)
        found[name] = (
            mean + (norm.running_mean[left] - dense_mean) * ratio.sqrt(),
            (norm.running_var[left] + norm.eps) * ratio - norm.eps,
        )
    return found


def blend(network: nn.Module, towards: Statistics, share: float) -> nn.Module:
    """A copy with running statistics moved by `share` of the way."""
    copy = deepcopy(network)
    for name, (mean, variance) in towards.items():
        norm: Any = copy.get_submodule(name)
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)
    return copy


def recalibrate(
    cut: nn.Module, towards: Statistics, judge: Callable[[nn.Module], float]
) -> tuple[nn.Module, float, dict[str, float]]:
    """The share with the lowest loss.

    Args:
        judge: loss of a network on pictures that the statistics were not taken from.

    Returns:
        the network, its share, and the loss of every share tried.
    """
    tried = {share: blend(cut, towards, share) for share in SHARES}
    losses = {share: judge(network) for share, network in tried.items()}
    best = min(losses, key=lambda share: (losses[share], share))
    return tried[best], best, {f"{share:g}": loss for share, loss in losses.items()}
