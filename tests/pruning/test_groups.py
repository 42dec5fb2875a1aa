"""Groups cover every channel once, freeze only what the detector fixes, and their arithmetic is that of the real network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from tests.helpers import live_model, tiny_model, tiny_yaml
from tests.pruning.cases import IMGSZ, PICTURES, SEEDS, counted, random_plan, random_scores, random_widths, subject
from toolchain.errors import PruningError, UnknownNameError
from toolchain.pruning.apply import cut_network
from toolchain.pruning.groups import Network, trace
from toolchain.yolo.blocks import to_prunable
from toolchain.yolo.checkpoint import load_model

FROZEN = {f"model.10.{branch}.{level}.2" for branch in ("cv2", "cv3") for level in (0, 1)}


def with_layer(kind: str, arguments: list[Any]) -> Any:
    """The tiny network with its fourth layer (16 channels in) of another kind."""
    backbone = list(tiny_yaml()["backbone"])
    backbone[3] = [-1, 1, kind, arguments]
    return tiny_model(backbone=backbone)


def covered(network: Network) -> dict[tuple[str, str], Counter[int]]:
    """(layer, dim) -> how often each of its positions is in a group."""
    found: dict[tuple[str, str], Counter[int]] = {}
    for group in network.groups:
        for part in group.parts:
            for piece in part:
                assert len(piece.positions) == group.channels
                found.setdefault((piece.layer, piece.dim), Counter()).update(piece.positions.ravel().tolist())
    return found


@pytest.mark.parametrize("name", ["tiny", "yolov8n", "yolov5n", "yolov3-tiny"])
def test_every_channel_of_every_conv_is_in_exactly_one_group(name: str) -> None:
    if name == "tiny":
        _, prunable, network = subject()
    else:
        prunable = to_prunable(load_model(Path(f"{name}.yaml"), nc=3).module)
        network = trace(prunable, IMGSZ)
    found = covered(network)
    first = next(n for n, m in prunable.named_modules() if isinstance(m, nn.Conv2d))
    for layer, module in prunable.named_modules():
        if isinstance(module, nn.Conv2d) and ".dfl." not in layer:
            assert found[(layer, "out")] == Counter(range(module.out_channels)), layer
            if layer == first:
                assert (layer, "in") not in found  # the picture's colours
            else:
                assert found[(layer, "in")] == Counter(range(module.in_channels)), layer
        elif isinstance(module, nn.BatchNorm2d):
            assert found[(layer, "out")] == Counter(range(module.num_features)), layer


def test_only_the_last_convs_of_detect_and_the_dfl_are_frozen() -> None:
    _, _, network = subject()
    frozen = {layer for g in network.groups if g.frozen for layer in g.layers("out")}
    assert frozen == FROZEN
    assert "model.10.dfl.conv" not in [layer for g in network.groups for layer in g.layers()]  # behind the raw outputs: never cut
    reasons = {g.name: g.frozen for g in network.groups if g.frozen}
    assert any("class scores" in str(r) for r in reasons.values())
    assert any("box distribution" in str(r) for r in reasons.values())
    assert all(g.frozen is None for g in network.free)
    assert len(network.free) + len(reasons) == len(network.groups)


def test_halves_of_a_c2f_are_one_group_with_two_index_sets() -> None:
    _, _, network = subject()
    for path in ("model.2", "model.4", "model.9"):
        group = network.group(f"{path}.cv1")
        first, second = ([s.layer for s in part if s.dim == "out"] for part in group.parts)
        assert f"{path}.cv0.conv" in first
        assert f"{path}.cv1.conv" in second
        assert not set(first) & set(second)
        assert f"{path}.cv0" not in [g.name for g in network.groups]
    assert all(len(g.parts) == 1 for g in network.groups if not g.name.endswith(("2.cv1", "4.cv1", "9.cv1")))


def test_a_shortcut_ties_what_it_adds() -> None:
    _, _, network = subject()
    tied = network.group("model.2.cv1").parts[1]
    assert {"model.2.cv1.conv", "model.2.m.0.cv2.conv"} <= {s.layer for s in tied if s.dim == "out"}
    assert "model.9.m.0.cv2" in [g.name for g in network.groups]  # no shortcut in the head: its own group


def test_arithmetic_of_the_dense_network() -> None:
    stock, prunable, network = subject()
    assert (network.macs({}), network.params({})) == counted(prunable) == counted(stock)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_arithmetic_of_any_widths_is_that_of_the_cut_network(seed: int) -> None:
    _, prunable, network = subject()
    plan = random_plan(network, seed)
    cut = cut_network(prunable, network, plan)
    assert (network.macs(plan.widths), network.params(plan.widths)) == counted(cut)
    shapes = {n: (m.in_channels, m.out_channels) for n, m in cut.named_modules() if isinstance(m, nn.Conv2d) and ".dfl." not in n}
    assert network.conv_widths(plan.widths) == shapes


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_order_of_groups_does_not_matter(seed: int) -> None:
    _, prunable, network = subject()
    order = np.random.default_rng(seed).permutation(len(network.groups))
    shuffled = replace(network, groups=tuple(network.groups[i] for i in order))
    widths = random_widths(network, seed)
    assert shuffled.macs(widths) == network.macs(widths)
    assert shuffled.conv_widths(widths) == network.conv_widths(widths)
    plan = random_plan(network, seed)
    first, second = (cut_network(prunable, n, plan).state_dict() for n in (network, shuffled))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_macs_grow_with_the_picture_and_weights_do_not() -> None:
    _, prunable, network = subject()
    larger = trace(prunable, 2 * IMGSZ)
    assert larger.macs({}) == 4 * network.macs({})
    assert larger.params({}) == network.params({})
    assert [g.name for g in larger.groups] == [g.name for g in network.groups]


def test_tracing_changes_no_weight_and_no_output() -> None:
    stock = live_model()
    prunable = to_prunable(stock)
    before = {key: value.clone() for key, value in prunable.state_dict().items()}
    trace(prunable, IMGSZ)
    assert all(torch.equal(before[key], value) for key, value in prunable.state_dict().items())
    assert not any(m._forward_hooks for m in prunable.modules())


def test_tracing_twice_gives_the_same_groups() -> None:
    _, prunable, network = subject()
    assert [(g.name, g.channels, g.layers(), g.frozen) for g in trace(prunable, IMGSZ).groups] == [
        (g.name, g.channels, g.layers(), g.frozen) for g in network.groups
    ]


def test_a_depthwise_conv_follows_its_input() -> None:
    prunable = to_prunable(with_layer("DWConv", [16, 3, 2]))
    network = trace(prunable, IMGSZ)
    owner = next(g for g in network.groups if "model.3.conv" in g.layers("out"))
    assert owner.frozen is None
    assert "model.2.cv2.conv" in owner.layers("out")
    plan = random_plan(network, 5)
    cut: Any = cut_network(prunable, network, plan)
    assert cut.model[3].conv.groups == cut.model[3].conv.out_channels == plan.widths[owner.name]
    assert (network.macs(plan.widths), network.params(plan.widths)) == counted(cut)


def test_a_grouped_conv_that_is_not_depthwise_is_frozen_with_a_reason_and_counted() -> None:
    prunable = to_prunable(with_layer("DWConv", [32, 3, 2]))  # 16 groups, two filters each
    network = trace(prunable, IMGSZ)
    for layer in ("model.2.cv2.conv", "model.3.conv"):
        owner = next(g for g in network.groups if layer in g.layers("out"))
        assert "grouped convolution" in str(owner.frozen)
    assert (network.macs({}), network.params({})) == counted(prunable)
    plan = random_plan(network, 5)
    assert (network.macs(plan.widths), network.params(plan.widths)) == counted(cut_network(prunable, network, plan))


def test_blocks_that_cannot_be_followed_are_refused_by_name() -> None:
    with pytest.raises(PruningError, match=r"cannot be pruned\n  got: C3k2 ×1"):
        trace(to_prunable(with_layer("C3k2", [32, False])), IMGSZ)


def test_unknown_group_names_the_nearest() -> None:
    _, _, network = subject()
    with pytest.raises(UnknownNameError, match=r"did you mean .*model\.2\.cv1"):
        network.group("model.2.cv11")


def test_random_cases_are_what_they_say() -> None:
    _, prunable, network = subject()
    assert random_scores(network, 1).keys() == {g.name for g in network.free}
    assert prunable(PICTURES)[0].shape == (2, 7, 80)
