"""The cut: a plan and the original network -> a smaller stock network, each step proven on the way.

Three equalities are checked on real input: splitting C2f changes nothing; the cut network equals the original with the removed
channels' BN scale and shift at zero (so SiLU gives 0 and nobody downstream sees them); merging C2f back changes nothing.
A Bottleneck that goes whole is silenced in the same way, in both its BNs.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from toolchain.errors import AlignmentError
from toolchain.pruning.depth import renamed
from toolchain.pruning.groups import Network
from toolchain.pruning.plan import PruningPlan
from toolchain.yolo.blocks import SplitC2f, drop_bottlenecks, prove_equal, to_stock

Removed = dict[tuple[str, str], NDArray[np.int64]]  # (layer, dim) -> positions to delete


@dataclass(frozen=True)
class Cut:
    """The result of a cut.

    Attributes:
        network: stock DetectionModel, eval mode.
        parameters: number of weights.
        differences: max absolute difference of raw outputs at each proof.
    """

    network: nn.Module
    parameters: int
    differences: dict[str, float]


def apply_plan(original: nn.Module, prunable: nn.Module, network: Network, plan: PruningPlan, images: torch.Tensor) -> Cut:
    """Cut a copy of `prunable` as the plan says.

    Args:
        original: the stock network the plan was made for.
        prunable: `to_prunable(original)`; not changed.
        network: its groups.
        images: (n, 3, s, s) float32 in 0..1 for the proofs; real pictures are the better proof.

    Raises:
        RewriteError: one of the equalities does not hold.
        AlignmentError: a conv ends with a width that is not aligned.
    """
    differences = {"split": prove_equal(original, prunable, images, "splitting C2f")}
    cut, removed = _cut(prunable, network, plan)
    differences["cut"] = prove_equal(_masked(prunable, removed, plan.gone), cut, images, "cutting channels")
    stock = to_stock(cut).eval()
    differences["merge"] = prove_equal(cut, stock, images, "merging C2f")
    check_alignment(cut, network, plan)
    return Cut(stock, sum(p.numel() for p in stock.parameters()), differences)


def cut_network(prunable: nn.Module, network: Network, plan: PruningPlan) -> nn.Module:
    """The cut alone, still in prunable form: for measuring what one width costs."""
    return _cut(prunable, network, plan)[0]


def _cut(prunable: nn.Module, network: Network, plan: PruningPlan) -> tuple[nn.Module, Removed]:
    removed = removed_positions(network, plan)
    cut = deepcopy(prunable).eval()
    for name, module in cut.named_modules():
        gone_in, gone_out = removed.get((name, "in")), removed.get((name, "out"))
        if gone_in is not None or gone_out is not None:
            _shrink(module, gone_in, gone_out)
    for name, module in list(cut.named_modules()):
        if isinstance(module, SplitC2f):
            drop_bottlenecks(module, [i for i in range(len(module.m)) if f"{name}.m.{i}" in plan.gone])
    return cut, removed


def removed_positions(network: Network, plan: PruningPlan) -> Removed:
    """(layer, dim) -> positions to delete."""
    gone: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    kept = {g.name: g.kept for g in plan.groups}
    for group in network.groups:
        for part, stay in zip(group.parts, kept[group.name], strict=True):
            out = np.setdiff1d(np.arange(group.channels), stay)
            for piece in part:
                gone.setdefault((piece.layer, piece.dim), []).append(piece.positions[out].ravel())
    joined = {key: np.unique(np.concatenate(values)) for key, values in gone.items()}
    return {key: positions for key, positions in joined.items() if len(positions)}


def _stay(size: int, gone: NDArray[np.int64] | None) -> torch.Tensor:
    return torch.from_numpy(np.setdiff1d(np.arange(size), gone if gone is not None else []))


def _shrink(module: nn.Module, gone_in: NDArray[np.int64] | None, gone_out: NDArray[np.int64] | None) -> None:
    if isinstance(module, nn.Conv2d):
        out = _stay(module.out_channels, gone_out)
        weight = module.weight.data[out]
        if module.groups == 1:
            weight = weight[:, _stay(module.in_channels, gone_in)]
            module.in_channels = weight.shape[1]
        else:
            module.groups = module.in_channels = len(out)
        module.weight = nn.Parameter(weight.contiguous().clone())
        module.out_channels = len(out)
        if module.bias is not None:
            module.bias = nn.Parameter(module.bias.data[out].clone())
    elif isinstance(module, nn.BatchNorm2d):
        out = _stay(module.num_features, gone_out)
        for name in ("weight", "bias"):
            setattr(module, name, nn.Parameter(getattr(module, name).data[out].clone()))
        for name in ("running_mean", "running_var"):
            setattr(module, name, getattr(module, name)[out].clone())
        module.num_features = len(out)


def _masked(prunable: nn.Module, removed: Removed, blocks: Collection[str]) -> nn.Module:
    masked = deepcopy(prunable).eval()
    for name, module in masked.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            whole = any(name.startswith(f"{block}.") for block in blocks)
            gone = np.arange(module.num_features) if whole else removed.get((name, "out"), np.arange(0))
            module.weight.data[gone] = 0
            module.bias.data[gone] = 0
    return masked


def check_alignment(cut: nn.Module, network: Network, plan: PruningPlan) -> None:
    """Every conv's inputs and outputs are multiples of the alignment, but for what the detector fixes: the picture's 3 channels,
    the outputs of frozen layers, and groups that are thinner than the alignment from the start.

    Raises:
        AlignmentError: lists the convs.
    """
    thin = {g.name for g in plan.groups if g.frozen or g.channels < plan.align}
    names = {renamed(name, plan.gone): name for name in network.convs}
    wrong = []
    for name, module in cut.named_modules():
        if not isinstance(module, nn.Conv2d) or ".dfl." in name:
            continue
        name = names[name]
        feeds = set(network.removed_in.get(name, {}))
        makes = set(network.removed_out.get(name, {}))
        if module.groups == 1 and feeds and not feeds & thin and module.in_channels % plan.align:
            wrong.append(f"{name}: {module.in_channels} inputs")
        if makes and not makes & thin and module.out_channels % plan.align:
            wrong.append(f"{name}: {module.out_channels} outputs")
    if wrong:
        raise AlignmentError(f"convs that are not aligned to {plan.align} after the cut", got=wrong)
