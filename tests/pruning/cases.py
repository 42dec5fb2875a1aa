"""Networks and random cuts that the pruning tests share."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from tests.helpers import live_model, tiny_yaml
from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.depth import emptied
from toolchain.pruning.groups import Network, trace
from toolchain.pruning.plan import PruningPlan, make_plan
from toolchain.yolo.blocks import head_outputs, to_prunable

IMGSZ = 64
PICTURES = torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(1))
SEEDS = st.integers(0, 2**32 - 1)
SHORT, CHAIN = ("model.4.m.0", "model.4.m.1", "model.4.m.2"), ("model.9.m.0", "model.9.m.1", "model.9.m.2")


@functools.cache
def subject(seed: int = 0) -> tuple[Any, Any, Network]:
    """Stock network, prunable form, groups; shared, so never to be changed."""
    stock = live_model(seed=seed)
    prunable = to_prunable(stock)
    return stock, prunable, trace(prunable, IMGSZ)


def deep_yaml() -> dict[str, Any]:
    """The tiny network with three Bottlenecks in its second and its last C2f, with and without shortcuts."""
    config = tiny_yaml()
    config["backbone"][4][1] = config["head"][2][1] = 3
    return {key: config[key] for key in ("backbone", "head")}


@functools.cache
def deep() -> tuple[Any, Any, Network]:
    """Stock network, prunable form, groups; shared, so never to be changed."""
    stock = live_model(**deep_yaml())
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


def without(network: Network, widths: dict[str, int], blocks: set[str]) -> dict[str, int]:
    """The same widths with these Bottlenecks, and what they take along, gone."""
    empty = {g for r in network.removals if r.block in blocks for g in emptied(network.removals, r.hidden)}
    return {**widths, **dict.fromkeys(empty, 0)}


def random_depth(network: Network, seed: int, align: int = 1) -> dict[str, int]:
    """Random widths, each Bottleneck gone with one chance in three."""
    rng = np.random.default_rng(seed)
    blocks = {r.block for r in network.removals if rng.random() < 1 / 3}
    return without(network, random_widths(network, seed, align), blocks)


def full(network: Network) -> dict[str, int]:
    return {g.name: g.channels for g in network.free}


def random_plan(network: Network, seed: int, align: int = 1) -> PruningPlan:
    return plan_of(network, random_widths(network, seed, align), random_scores(network, seed + 1), align)


def plan_of(network: Network, widths: Mapping[str, int], scores: GroupScores, align: int = 1, sha256: str = "m") -> PruningPlan:
    return make_plan(
        network, widths, scores, model_sha256=sha256, imgsz=IMGSZ, criterion="random", strategy="uniform", asked_ratio=0.5,
        align=align,
    )  # fmt: skip


def silenced(prunable: Any, network: Network, plan: PruningPlan) -> dict[str, torch.Tensor]:
    """Raw outputs of the dense network with removed channels and Bottlenecks at zero, by hooks: not by the product's way."""
    kept = {g.name: g.kept for g in plan.groups}
    gone = {f"{block}.cv2": set(range(prunable.get_submodule(f"{block}.cv2.conv").out_channels)) for block in plan.gone}
    for group in network.groups:
        for part, stay in zip(group.parts, kept[group.name], strict=True):
            for piece in part:
                if piece.dim == "out" and piece.layer.endswith(".conv"):
                    rows = [piece.positions[c] for c in range(group.channels) if c not in set(stay)]
                    gone.setdefault(piece.layer.removesuffix(".conv"), set()).update(int(p) for row in rows for p in row)
    hooks = []
    for path, channels in gone.items():

        def silence(_: Any, __: Any, out: torch.Tensor, channels: tuple[int, ...] = tuple(channels)) -> torch.Tensor:
            out = out.clone()
            out[:, list(channels)] = 0
            return out

        hooks.append(prunable.get_submodule(path).register_forward_hook(silence))
    with torch.no_grad():
        outputs = head_outputs(prunable, PICTURES)
    for hook in hooks:
        hook.remove()
    return outputs


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
