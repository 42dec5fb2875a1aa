"""Splitting C2f and merging it back changes nothing, and touches nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.modules import C2f, C3k2

from tests.helpers import live_model, tiny_model
from toolchain.errors import RewriteError
from toolchain.yolo.blocks import (
    REWRITES,
    SplitC2f,
    head_outputs,
    max_difference,
    merge_c2f,
    not_prunable,
    prove_equal,
    split_c2f,
    to_prunable,
    to_stock,
)
from toolchain.yolo.checkpoint import load_model

PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def block(inputs: int = 8, outputs: int = 16, count: int = 2, shortcut: bool = True) -> Any:
    """A C2f whose BNs are far from the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = C2f(inputs, outputs, count, shortcut)
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values in (layer.running_mean, layer.weight.data, layer.bias.data):
                    values.normal_(0.5, 0.5)
                layer.running_var.uniform_(0.5, 2.0)
                layer.num_batches_tracked.fill_(7)
    return made.eval()


def same_state(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shortcut", [True, False])
def test_split_and_merge_give_the_same_outputs_and_weights(count: int, shortcut: bool) -> None:
    stock, x = block(count=count, shortcut=shortcut), torch.randn(2, 8, 9, 9)
    before = {key: value.clone() for key, value in stock.state_dict().items()}
    split = split_c2f(stock)
    merged = merge_c2f(split)
    torch.testing.assert_close(stock(x), split(x), rtol=0, atol=1e-5)  # two narrow convs may sum in another order
    torch.testing.assert_close(stock(x), merged(x), rtol=0, atol=1e-5)  # two narrow convs may sum in another order
    assert same_state(stock, merged)
    assert type(merged) is C2f
    assert merged.c == stock.c
    assert all(torch.equal(before[key], value) for key, value in stock.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_is_kept(training: bool) -> None:
    stock = block().train(training)
    split = split_c2f(stock).train(training)
    assert {m.training for m in split.modules()} == {training}
    assert {m.training for m in merge_c2f(split).modules()} == {training}


def test_split_halves_are_born_in_the_mode_of_the_block() -> None:
    split: Any = split_c2f(block())
    assert not split.cv0.bn.training
    assert not split.cv1.bn.training


def test_unequal_halves_are_refused() -> None:
    split: Any = split_c2f(block(8, 16))
    split.cv0.conv = nn.Conv2d(8, 4, 1, bias=False)
    with pytest.raises(RewriteError, match=r"different widths\n  got: \(4, 8\)\n  try: keep both halves tied"):
        merge_c2f(split)


def test_a_grouped_convolution_is_refused() -> None:
    stock = block()
    stock.cv1.conv = nn.Conv2d(8, 16, 1, groups=2, bias=False)
    with pytest.raises(RewriteError, match="groups=2"):
        split_c2f(stock)


def test_a_fused_block_with_biases_is_split_and_merged() -> None:
    stock, x = block(), torch.randn(1, 8, 5, 5)
    stock.cv1.conv = nn.Conv2d(8, 16, 1, bias=True)
    torch.testing.assert_close(stock(x), split_c2f(stock)(x), rtol=0, atol=1e-5)  # two narrow convs may sum in another order
    merged = merge_c2f(split_c2f(stock))  # type: ignore[arg-type]
    torch.testing.assert_close(stock(x), merged(x), rtol=0, atol=1e-5)


def test_blocks_inside_other_modules_are_found_and_others_left_alone() -> None:
    subclass = C3k2(8, 16, 1, False)  # computes the same today, need not tomorrow: matched by exact type
    other = nn.Conv2d(3, 3, 1)
    network: Any = nn.Sequential(nn.ModuleDict({"deep": nn.Sequential(block())}), subclass, other)
    prunable: Any = to_prunable(network)
    assert isinstance(prunable[0]["deep"][0], SplitC2f)
    assert type(prunable[1]) is C3k2
    assert type(prunable[2]) is nn.Conv2d
    assert type(network[0]["deep"][0]) is C2f
    assert same_state(network, to_stock(prunable))


def test_a_whole_network_splits_and_merges_without_any_difference() -> None:
    network = live_model()
    prunable = to_prunable(network)
    merged = to_stock(prunable)
    assert sum(isinstance(m, SplitC2f) for m in prunable.modules()) == 3
    assert max_difference(network, prunable, PICTURES) <= 1e-5
    assert max_difference(network, merged, PICTURES) <= 1e-5
    assert same_state(network, merged)
    kinds = [[(name, type(m)) for name, m in net.named_modules(remove_duplicate=False)] for net in (network, merged)]
    assert kinds[0] == kinds[1]
    for a, b in zip(network.model, merged.model, strict=True):
        assert (a.i, a.f, a.type, a.np) == (b.i, b.f, b.type, b.np)


@pytest.mark.parametrize("scale", ["n", "s"])
def test_real_scales(scale: str) -> None:
    network = load_model(Path(f"yolov8{scale}.yaml"), nc=3).module
    prunable = to_prunable(network)
    assert sum(isinstance(m, SplitC2f) for m in prunable.modules()) == 8
    assert not_prunable(prunable) == {}
    assert max_difference(network, prunable, PICTURES) <= 1e-5
    assert max_difference(network, to_stock(prunable), PICTURES) <= 1e-5


def test_the_proof_sees_a_small_change_and_a_nan() -> None:
    first, second = live_model(), live_model()
    assert prove_equal(first, second, PICTURES, "nothing") == 0.0
    second.model[0].conv.weight.data[0, 0, 0, 0] += 0.05
    with pytest.raises(RewriteError, match=r"a test changed the outputs\n  got: max abs difference"):
        prove_equal(first, second, PICTURES, "a test")
    second = live_model()
    second.model[-1].cv3[0][2].bias.data.fill_(torch.nan)
    with pytest.raises(RewriteError, match="nan"):
        prove_equal(first, second, PICTURES, "a test")


def test_head_outputs_are_the_same_in_both_modes_of_the_head() -> None:
    network = live_model()
    evaluated = head_outputs(network, PICTURES)
    network.model[-1].training = True  # raw outputs only
    raw = head_outputs(network, PICTURES)
    assert evaluated["boxes"].shape == (2, 64, 80)
    assert evaluated["scores"].shape == (2, 3, 80)
    assert all(torch.equal(evaluated[key], raw[key]) for key in raw)


def test_every_rewrite_goes_both_ways() -> None:
    for stock, (there, back) in REWRITES.items():
        made = stock(8, 16).eval()  # type: ignore[call-arg]
        x = torch.randn(1, 8, 4, 4)
        assert torch.equal(made(x), back(there(made))(x))  # type: ignore[arg-type]


def test_what_cannot_be_followed_is_named() -> None:
    network = nn.Sequential(C3k2(8, 8, 1, False), nn.ConvTranspose2d(8, 8, 2), nn.SiLU(), C3k2(8, 8, 1, False))
    assert not_prunable(network) == {"C3k2": 2, "ConvTranspose2d": 1}
    assert not_prunable(to_prunable(tiny_model())) == {}
