"""What every strategy keeps: aligned widths, floors, the ratio asked as near as alignment allows; and the traps met elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pruning.cases import IMGSZ, PICTURES, SEEDS, plan_of, random_scores, subject
from toolchain.errors import ConfigError, UnknownNameError
from toolchain.pruning.apply import apply_plan
from toolchain.pruning.groups import Network, trace
from toolchain.selection.strategies import (
    STRATEGIES,
    Ask,
    Widths,
    allowed_widths,
    check_ask,
    choose,
    nearest_width,
)
from toolchain.yolo.blocks import to_prunable

RATIOS = st.floats(0, 0.99, allow_nan=False)
GREEDY = {"global": lambda network, widths: 1 - sum(widths.values()) / sum(g.channels for g in network.free),
          "flops": lambda network, widths: 1 - network.macs(widths) / network.macs({})}  # fmt: skip


def chosen(strategy: str, ask: Ask, seed: int = 0, network: Network | None = None) -> Widths:
    made = network or subject()[2]
    return choose(made, random_scores(subject()[2], seed), ask, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestEveryStrategy:
    @settings(max_examples=15, deadline=None)
    @given(ratio=RATIOS, align=st.sampled_from([1, 4, 8, 16]), floor=st.sampled_from([0.0, 0.1, 0.5]), seed=SEEDS)
    def test_widths_are_aligned_and_above_the_floor(
        self, strategy: str, ratio: float, align: int, floor: float, seed: int
    ) -> None:
        _, _, network = subject()
        widths = chosen(strategy, Ask(ratio=ratio, align=align, floor=floor), seed)
        assert set(widths) == {g.name for g in network.free}
        for group in network.free:
            width = widths[group.name]
            if group.channels < align:
                assert width == group.channels  # thinner than the alignment: kept, and the plan says so
                continue
            assert width % align == 0
            assert max(align, floor * group.channels) <= width <= group.channels

    @settings(max_examples=10, deadline=None)
    @given(ratio=RATIOS, seed=SEEDS)
    def test_the_same_again_and_in_any_order_of_groups(self, strategy: str, ratio: float, seed: int) -> None:
        _, _, network = subject()
        turned = replace(network, groups=tuple(reversed(network.groups)))
        first = chosen(strategy, Ask(ratio=ratio), seed)
        assert first == chosen(strategy, Ask(ratio=ratio), seed)
        assert first == chosen(strategy, Ask(ratio=ratio), seed, turned)

    def test_nothing_asked_nothing_cut(self, strategy: str) -> None:
        assert chosen(strategy, Ask(ratio=0.0)) == {g.name: g.channels for g in subject()[2].free}

    @settings(max_examples=10, deadline=None)
    @given(low=RATIOS, high=RATIOS, seed=SEEDS)
    def test_more_asked_never_keeps_more(self, strategy: str, low: float, high: float, seed: int) -> None:
        less, more = (chosen(strategy, Ask(ratio=r), seed) for r in sorted((low, high)))
        assert all(more[name] <= less[name] for name in less)

    def test_groups_that_must_keep_a_share_keep_it(self, strategy: str) -> None:
        widths = chosen(strategy, Ask(ratio=0.9, keep_at_least={"model.3": 0.75, "model.4.cv1": 1.0}))
        assert widths["model.3"] >= 24
        assert widths["model.4.cv1"] == subject()[2].group("model.4.cv1").channels
        assert widths["model.5"] < 24

    def test_the_choice_can_be_cut_and_both_halves_keep_as_many(self, strategy: str) -> None:
        stock, prunable, network = subject()
        scores = random_scores(network, 5)
        plan = plan_of(network, choose(network, scores, Ask(ratio=0.6), strategy), scores, align=8)
        halves = [g for g in plan.groups if len(g.kept) == 2]
        assert len(halves) == 3
        assert all(len(g.kept[0]) == len(g.kept[1]) for g in halves)
        assert any(g.kept[0] != g.kept[1] for g in halves)  # which ones, each half decides alone
        cut = apply_plan(stock, prunable, network, plan, PICTURES)
        assert cut.parameters < sum(p.numel() for p in stock.parameters())

    def test_one_choice_does_not_leak_into_the_next(self, strategy: str) -> None:
        """torch-pruning's mutable default dictionaries carry state from one pruner to the next."""
        first = chosen(strategy, Ask(ratio=0.5))
        chosen(strategy, Ask(ratio=0.9, align=4, keep_at_least={"model.3": 0.9}))
        assert chosen(strategy, Ask(ratio=0.5)) == first
        assert Ask().layers == Ask().keep_at_least == {}

    def test_equal_scores_lose_no_more_than_asked(self, strategy: str) -> None:
        """torch-pruning's inclusive threshold empties a group of equal scores."""
        _, _, network = subject()
        zeros = {g.name: [np.zeros(g.channels) for _ in g.parts] for g in network.free}
        widths = choose(network, zeros, Ask(ratio=0.3), strategy)
        plan = plan_of(network, widths, zeros, align=8)
        assert all(g.width == widths[g.name] for g in plan.groups if g.frozen is None)
        assert min(w / network.group(n).channels for n, w in widths.items()) >= 0.1


def test_uniform_is_the_nearest_aligned_width_of_every_group() -> None:
    _, _, network = subject()
    for ratio in (0.1, 0.25, 0.5, 0.7):
        for group in network.free:
            width = chosen("uniform", Ask(ratio=ratio))[group.name]
            assert abs(width - group.channels * (1 - ratio)) <= 4 or width == 8


def test_ratio_is_the_share_removed_not_kept() -> None:
    """torch-pruning's `manual_prune_width` is the other way round."""
    widths = chosen("per-layer", Ask(ratio=0.0, layers={"model.3": 0.25}))
    assert widths["model.3"] == 24
    assert widths["model.5"] == 32


def test_per_layer_uses_its_ratios_and_the_common_one_elsewhere() -> None:
    widths = chosen("per-layer", Ask(ratio=0.5, layers={"model.3": 0.0, "model.5": 0.75}))
    assert (widths["model.3"], widths["model.5"], widths["model.6.cv2"]) == (32, 8, 16)


def test_depth_aware_is_one_minus_five_hundredths_a_level() -> None:
    _, _, network = subject()
    widths = chosen("depth-aware", Ask(ratio=0.6, align=1, floor=0.0))
    for group in network.free:
        assert widths[group.name] == pytest.approx(group.channels * (1 - 0.6 * (1 - 0.05 * group.depth)), abs=0.51)


@pytest.mark.parametrize("strategy", GREEDY)
@settings(max_examples=25, deadline=None)
@given(ratio=st.floats(0.01, 0.6), align=st.sampled_from([1, 4, 8]), seed=SEEDS)
def test_greedy_stops_at_the_first_choice_that_meets_the_ratio(strategy: str, ratio: float, align: int, seed: int) -> None:
    _, _, network = subject()
    ask = Ask(ratio=ratio, align=align)
    widths, removed = chosen(strategy, ask, seed), GREEDY[strategy]
    assert removed(network, widths) >= ratio - 1e-9
    before = []  # one block back, in each group that lost one: the last block taken was needed
    for group in network.free:
        wider = [w for w in allowed_widths(group, ask) if w > widths[group.name]]
        if wider:
            before.append(removed(network, {**widths, group.name: wider[0]}))
    assert min(before) < ratio


@pytest.mark.parametrize("strategy", GREEDY)
def test_a_ratio_out_of_reach_ends_at_the_floors(strategy: str) -> None:
    _, _, network = subject()
    ask = Ask(ratio=0.99, floor=0.5)
    assert chosen(strategy, ask) == {g.name: allowed_widths(g, ask)[0] for g in network.free}


def test_global_removes_the_least_salient_blocks_wherever_they_are() -> None:
    _, _, network = subject()
    scores = {g.name: [np.full(g.channels, 10.0) for _ in g.parts] for g in network.free}
    scores["model.5"][0][:16] = 0.1
    share = 16 / sum(g.channels for g in network.free)
    widths = choose(network, scores, Ask(ratio=share), "global")
    assert widths["model.5"] == 16
    assert all(widths[g.name] == g.channels for g in network.free if g.name != "model.5")


def test_flops_prefers_what_frees_most_for_the_same_saliency() -> None:
    _, _, network = subject()
    scores = {g.name: [np.ones(g.channels) / len(g.parts) for _ in g.parts] for g in network.free}
    widths = choose(network, scores, Ask(ratio=0.01), "flops")
    freed = {g.name: network.macs({}) - network.macs({g.name: g.channels - 8}) for g in network.free if g.channels > 8}
    assert [n for n, w in widths.items() if w < network.group(n).channels] == [max(freed, key=lambda name: freed[name])]


@settings(max_examples=20, deadline=None)
@given(ratio=st.floats(0.05, 0.7), seed=SEEDS)
def test_flops_is_the_greedy_order_done_the_slow_way(ratio: float, seed: int) -> None:
    """The heap's shortcut gives what trying every block at every step gives."""
    from toolchain.pruning.criteria import loss_curve

    _, _, network = subject()
    scores, ask = random_scores(network, seed), Ask(ratio=ratio)
    curves = {g.name: loss_curve(scores[g.name]) for g in network.free}
    widths, dense = {g.name: g.channels for g in network.free}, network.macs({})
    while 1 - network.macs(widths) / dense < ratio - 1e-9:
        best = None
        for group in network.free:
            now = widths[group.name]
            smaller = [w for w in allowed_widths(group, ask) if w < now]
            if smaller:
                freed = network.macs(widths) - network.macs({**widths, group.name: smaller[-1]})
                offer = ((curves[group.name][smaller[-1]] - curves[group.name][now]) / freed, group.name, smaller[-1])
                best = min(best, offer) if best else offer
        if best is None:
            break
        widths[best[1]] = best[2]
    assert choose(network, scores, ask, "flops") == widths


# --- alignment, where torch-pruning's `round_to` goes wrong ----------------------------------------------------------------


def odd_network() -> tuple[Any, Any, Network]:
    """One conv of 20 channels, which no alignment of 8 divides: cut so before."""
    stock, prunable, network = subject()
    widths = {g.name: g.channels for g in network.free} | {"model.3": 20}
    odd = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, 1)), PICTURES).network
    again = to_prunable(odd)
    return odd, again, trace(again, IMGSZ)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_width_off_the_alignment_is_brought_onto_it_by_every_strategy(strategy: str) -> None:
    """`round_to` leaves a group alone when it has nothing to prune there."""
    stock, prunable, network = odd_network()
    scores = random_scores(network, 0)
    widths = choose(network, scores, Ask(ratio=0.3), strategy)
    assert network.group("model.3").channels == 20
    assert widths["model.3"] % 8 == 0
    apply_plan(stock, prunable, network, plan_of(network, widths, scores, align=8), PICTURES)


def test_groups_thinner_than_the_alignment_are_listed_not_silently_kept() -> None:
    """`round_to=32` on a 16-channel layer rejects the group and says nothing."""
    _, _, network = subject()
    scores, ask = random_scores(network, 0), Ask(ratio=0.5, align=16)
    plan = plan_of(network, choose(network, scores, ask, "uniform"), scores, align=16)
    assert set(plan.narrow) == {g.name for g in network.free if g.channels < 16}
    assert plan.narrow


def test_inputs_of_a_conv_behind_a_concat_are_aligned_too() -> None:
    """`round_to` looks at the group's first layer only."""
    stock, prunable, network = subject()
    scores = random_scores(network, 0)
    widths = choose(network, scores, Ask(ratio=0.45), "uniform")
    cut: Any = apply_plan(stock, prunable, network, plan_of(network, widths, scores, align=8), PICTURES).network
    behind = cut.model[9].cv1.conv  # reads the concat of model.6 and model.4
    assert behind.in_channels == widths["model.6.cv2"] + widths["model.4.cv2"]
    assert behind.in_channels % 8 == 0


def test_nearest_width_prefers_the_larger_of_two() -> None:
    group = subject()[2].group("model.3")
    assert [nearest_width(group, kept, Ask()) for kept in (32, 28, 27.9, 20, 12, 4, 0)] == [32, 32, 24, 24, 16, 8, 8]
    assert allowed_widths(group, Ask(floor=0.3)) == [16, 24, 32]
    assert allowed_widths(group, Ask(align=64)) == [32]


# --- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan"), float("inf")])
def test_ratios_outside_zero_to_one_are_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"'ratio' outside \[0, 1\)\n  got: .*\n  try: 0\.3 removes 30 %"):
        Ask(ratio=ratio)
    with pytest.raises(ConfigError, match=r"'model\.3' outside"):
        Ask(layers={"model.3": ratio})


def test_alignment_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="alignment"):
        Ask(align=0)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    _, _, network = subject()
    with pytest.raises(UnknownNameError, match="did you mean uniform"):
        check_ask(network, Ask(), "unifrom")
    with pytest.raises(UnknownNameError, match=r"did you mean .*model\.3"):
        check_ask(network, Ask(layers={"model.33": 0.5}), "per-layer")
    with pytest.raises(UnknownNameError, match=r"did you mean .*model\.3"):
        check_ask(network, Ask(keep_at_least={"model.33": 0.5}), "flops")


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"per-layer"}))
def test_ratios_of_single_layers_need_per_layer(strategy: str) -> None:
    with pytest.raises(ConfigError, match=r"need the per-layer strategy\n.*\n  try: --strategy per-layer"):
        chosen(strategy, Ask(layers={"model.3": 0.5}))


def test_a_ratio_for_a_frozen_layer_says_why_it_is_frozen() -> None:
    name = next(g.name for g in subject()[2].groups if g.frozen)
    with pytest.raises(ConfigError, match=r"cannot be pruned\n  got: last 1×1 conv of Detect"):
        chosen("per-layer", Ask(layers={name: 0.5}))
