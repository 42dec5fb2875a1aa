"""Networks and random cuts that the pruning tests share."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from tests.helpers import live_model
from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.groups import Network, trace
from toolchain.pruning.plan import PruningPlan, make_plan
from toolchain.yolo.blocks import to_prunable

IMGSZ = 64
PICTURES = torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(1))
SEEDS = st.integers(0, 2**32 - 1)


@functools.cache
def subject(seed: int = 0) -> tuple[Any, Any, Network]:
    """Stock network, prunable form, groups; shared, so never to be changed."""
    stock = live_model(seed=seed)
    prunable = to_prunable(stock)
    return stock, prunable, trace(prunable, IMGSZ)


def random_scores(network: Network, seed: int) -> GroupScores:
    rng = np.random.default_rng(seed)
    return {g.name: [rng.random(g.channels) for _ in g.parts] for g in network.free}


def random_widths(network: Network, seed: int, align: int = 1) -> dict[str, int]:
    """Any width that is a multiple of `align`; at least one group loses something."""
    rng = np.random.default_rng(seed)
    widths = {g.name: int(rng.integers(1, g.channels // align + 1)) * align for g in network.free if g.channels >= align}
    widths |= {g.name: g.channels for g in network.free if g.channels < align}
    first = next(g for g in network.free if g.channels >= 2 * align)
    widths[first.name] = align
    return widths


def random_plan(network: Network, seed: int, align: int = 1) -> PruningPlan:
    return plan_of(network, random_widths(network, seed, align), random_scores(network, seed + 1), align)


def plan_of(network: Network, widths: Mapping[str, int], scores: GroupScores, align: int = 1, sha256: str = "m") -> PruningPlan:
    return make_plan(
        network, widths, scores, model_sha256=sha256, imgsz=IMGSZ, criterion="random", strategy="uniform", asked_ratio=0.5,
        align=align,
    )  # fmt: skip


def counted(network: nn.Module, imgsz: int = IMGSZ) -> tuple[int, int]:
    """(multiply-adds of one picture, weights) of all convolutions but the DFL, from what each conv really did."""
    macs, weights, hooks = [0], [0], []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and ".dfl." not in name:
            weights[0] += module.weight.numel()

            def add(conv: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
                assert inputs[0].shape[1] == conv.in_channels
                macs[0] += output[0].numel() * conv.weight[0].numel()

            hooks.append(module.register_forward_hook(add))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, imgsz, imgsz))
    for hook in hooks:
        hook.remove()
    return macs[0], weights[0]
