"""Whole Bottlenecks go: the result is the original without them, a stock network, and the arithmetic knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics.nn.modules import C2f

from tests.helpers import NAMES, tiny_dataset
from tests.pruning.cases import (
    CHAIN,
    IMGSZ,
    PICTURES,
    SEEDS,
    SHORT,
    counted,
    deep,
    full,
    plan_of,
    random_depth,
    random_scores,
    random_widths,
    silenced,
    without,
)
from tests.pruning.test_apply import PLAIN
from toolchain.errors import PlanError
from toolchain.pruning.apply import apply_plan, cut_network
from toolchain.pruning.depth import emptied, renamed
from toolchain.pruning.groups import Network, trace
from toolchain.pruning.plan import PruningPlan, check_fits, compose
from toolchain.pruning.prune import PruneRequest, explain, prune
from toolchain.yolo.blocks import SplitC2f, head_outputs, to_prunable
from toolchain.yolo.checkpoint import load_model, save_checkpoint
from toolchain.yolo.trainer import TrainSettings, fine_tune


def check_cut(stock: Any, prunable: Any, network: Network, plan: PruningPlan) -> Any:
    cut = apply_plan(stock, prunable, network, plan, PICTURES)
    with torch.no_grad():
        found = head_outputs(cut.network, PICTURES)
    for key, expected in silenced(prunable, network, plan).items():
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-4)
    return cut.network


def test_every_bottleneck_of_a_c2f_may_go() -> None:
    _, _, network = deep()
    found = {r.block: r for r in network.removals}
    assert list(found) == ["model.2.m.0", *SHORT, *CHAIN]
    for block in SHORT:
        assert found[block].groups == (f"{block}.cv1",)
        assert (found[block].reader, found[block].source, found[block].takes) == ("model.4.cv2.conv", "model.4.cv1", None)
    for block, source, takes in zip(
        CHAIN, ("model.9.cv1", f"{CHAIN[0]}.cv2", f"{CHAIN[1]}.cv2"), (*CHAIN[1:], None), strict=True
    ):
        assert found[block].groups == (f"{block}.cv1", f"{block}.cv2")
        assert (found[block].reader, found[block].source, found[block].takes) == (None, source, takes)
    assert emptied(network.removals, f"{CHAIN[1]}.cv2") == [f"{block}.{conv}" for block in CHAIN[1:] for conv in ("cv1", "cv2")]


@pytest.mark.parametrize("name", ["yolov8n", "yolov8s"])
def test_all_bottlenecks_of_a_real_network_may_go(name: str) -> None:
    stock = load_model(Path(f"{name}.yaml"), nc=3).module
    prunable = to_prunable(stock)
    network = trace(prunable, IMGSZ)
    assert len(network.removals) == 10
    widths = without(network, full(network), {r.block for r in network.removals})
    cut = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, 0)), PICTURES).network
    assert [len(m.m) for m in cut.modules() if isinstance(m, C2f)] == [0] * 8


def test_networks_without_c2f_lose_none() -> None:
    assert trace(to_prunable(load_model(Path("yolov5n.yaml"), nc=3).module), IMGSZ).removals == ()


@settings(max_examples=25, deadline=None)
@given(blocks=st.sets(st.sampled_from(["model.2.m.0", *SHORT, *CHAIN]), min_size=1), seed=SEEDS, narrow=st.booleans())
def test_the_cut_is_the_original_without_the_bottlenecks(blocks: set[str], seed: int, narrow: bool) -> None:
    stock, prunable, network = deep()
    widths = without(network, random_widths(network, seed) if narrow else full(network), blocks)
    plan = plan_of(network, widths, random_scores(network, seed))
    cut = check_cut(stock, prunable, network, plan)
    assert blocks <= set(plan.gone)
    counts = {path: len(module.m) for path, module in cut.named_modules() if isinstance(module, C2f)}
    assert sum(counts.values()) == 7 - len(plan.gone)
    assert {type(m) for m in cut.modules()} <= {type(m) for m in stock.modules()}


def test_silencing_changes_the_outputs_so_that_the_test_above_can_fail() -> None:
    stock, prunable, network = deep()
    dense = head_outputs(stock, PICTURES)["boxes"]
    for block in ("model.2.m.0", *SHORT, *CHAIN):
        plan = plan_of(network, without(network, full(network), {block}), random_scores(network, 0))
        assert float((silenced(prunable, network, plan)["boxes"] - dense).abs().max()) > 0.01, block


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_arithmetic_is_that_of_the_cut_network(seed: int) -> None:
    _, prunable, network = deep()
    plan = plan_of(network, random_depth(network, seed), random_scores(network, seed))
    cut = cut_network(prunable, network, plan)
    assert (network.macs(plan.widths), network.params(plan.widths)) == counted(cut)
    shapes = {n: (m.in_channels, m.out_channels) for n, m in cut.named_modules() if isinstance(m, nn.Conv2d) and ".dfl." not in n}
    widths = network.conv_widths(plan.widths)
    assert {renamed(n, plan.gone): width for n, width in widths.items() if all(width)} == shapes
    assert {n for n, width in widths.items() if not all(width)} == {f"{b}.{c}.conv" for b in plan.gone for c in ("cv1", "cv2")}


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_an_aligned_plan_stays_aligned(seed: int) -> None:
    stock, prunable, network = deep()
    plan = plan_of(network, random_depth(network, seed, align=4), random_scores(network, seed), align=4)
    cut = apply_plan(stock, prunable, network, plan, PICTURES).network
    fixed = {layer for g in network.groups if g.frozen for layer in g.layers("out")}
    convs = [(n, m) for n, m in cut.named_modules() if isinstance(m, nn.Conv2d) and ".dfl." not in n]
    assert [n for n, m in convs if m.out_channels % 4 and n not in fixed] == []
    assert [n for n, m in convs[1:] if m.in_channels % 4] == []


# --- plans -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("empty", "why"),
    [
        (["model.3"], r"cannot lose all their channels\n  got: \['model\.3'\]"),
        (["model.4.cv1"], "cannot lose all"),
        ([f"{CHAIN[2]}.cv1"], rf"{CHAIN[2]} can only go with all.*\n  got: not empty: \['{CHAIN[2]}\.cv2'\]"),
        ([f"{CHAIN[2]}.cv2"], "can only go with all"),
        ([f"{CHAIN[0]}.cv1", f"{CHAIN[0]}.cv2"], rf"{CHAIN[0]} can only go with all.*\n.*{CHAIN[1]}\.cv1"),
    ],
)
def test_what_cannot_be_empty_is_refused(empty: list[str], why: str) -> None:
    _, _, network = deep()
    with pytest.raises(PlanError, match=why):
        plan_of(network, {**full(network), **dict.fromkeys(empty, 0)}, random_scores(network, 0))
    plan = plan_of(network, random_widths(network, 0), random_scores(network, 0))
    groups = [g.model_copy(update={"kept": [[] for _ in g.kept]}) if g.name in empty else g for g in plan.groups]
    with pytest.raises(PlanError):
        check_fits(plan.model_copy(update={"groups": groups}), network, "m")


def test_only_a_group_that_can_go_has_all_it_takes_along() -> None:
    with pytest.raises(PlanError, match=r"model\.3"):
        emptied(deep()[2].removals, "model.3")


def test_names_after_removal() -> None:
    gone = ["model.4.m.0", "model.4.m.2"]
    assert renamed("model.4.m.1.cv1.conv", gone) == "model.4.m.0.cv1.conv"
    assert renamed("model.4.m.3", gone) == "model.4.m.1"
    assert renamed("model.4.m.2.cv1", gone) is None
    assert renamed("model.5.m.3.cv1", gone) == "model.5.m.3.cv1"
    assert renamed("model.4.cv1", gone) == "model.4.cv1"


def test_a_plan_with_removals_survives_json(tmp_path: Path) -> None:
    _, _, network = deep()
    plan = plan_of(network, random_depth(network, 4), random_scores(network, 4))
    assert plan.gone
    plan.save(tmp_path / "plan.json")
    read = PruningPlan.load(tmp_path / "plan.json")
    check_fits(read, network, "m")
    assert read == plan


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_two_cuts_in_a_row_are_one_composed_plan(seed: int) -> None:
    stock, prunable, network = deep()
    first = plan_of(network, random_depth(network, seed), random_scores(network, seed))
    once = apply_plan(stock, prunable, network, first, PICTURES).network
    form = to_prunable(once)
    left = trace(form, IMGSZ)
    assert {r.block for r in left.removals} == {renamed(r.block, first.gone) for r in network.removals} - {None}
    blocks = {r.block for r in left.removals[::2]}
    second = plan_of(left, without(left, full(left), blocks) | {"model.0": 1}, random_scores(left, seed + 2), sha256="n")
    twice = check_cut(once, form, left, second)
    whole = compose(first, second)
    check_fits(whole, network, "m")
    replayed = apply_plan(stock, prunable, network, whole, PICTURES).network
    a, b = twice.state_dict(), replayed.state_dict()
    assert list(a) == list(b)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-5)  # sums of weights in another order
    assert whole.reached.macs == pytest.approx(1 - network.macs(whole.widths) / network.macs({}))


# --- files -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense.pt`, `data/` and `cut/` with a plan and a network without any Bottleneck."""
    root = tmp_path_factory.mktemp("depth")
    stock, _, network = deep()
    save_checkpoint(root / "dense.pt", stock, names=NAMES, train_args={"imgsz": IMGSZ}, extra={})
    tiny_dataset(root / "data", size=(96, 64))
    (root / "cut").mkdir()
    widths = without(network, full(network), {r.block for r in network.removals})
    plan = plan_of(network, widths, random_scores(network, 0), sha256=load_model(root / "dense.pt").sha256)
    plan.save(root / "plan.json")
    prune(root / "dense.pt", root / "cut", PruneRequest(imgsz=IMGSZ), plan_file=root / "plan.json")
    return root


def test_plain_ultralytics_runs_a_network_without_bottlenecks(folder: Path, tmp_path: Path) -> None:
    picture = folder / "data" / "images" / "val" / "0.png"
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, folder / "cut" / "pruned.pt", picture], cwd=tmp_path, env=env,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    here = load_model(folder / "cut" / "pruned.pt").module
    assert int(done.stdout.split()[-2]) == sum(p.numel() for p in here.parameters())


def test_a_network_without_bottlenecks_is_pruned_again_and_fine_tuned(folder: Path, tmp_path: Path) -> None:
    prune(folder / "cut" / "pruned.pt", tmp_path, PruneRequest(imgsz=IMGSZ, ratio=0.2, criterion="l2"))
    network: Any = load_model(tmp_path / "pruned.pt").module
    assert all(len(m.m) == 0 for m in network.modules() if isinstance(m, C2f))
    assert not any(isinstance(m, SplitC2f) for m in network.modules())
    before = sum(p.numel() for p in network.parameters())
    tuned = fine_tune(network, folder / "data" / "data.yaml", IMGSZ, tmp_path, TrainSettings(epochs=1, batch=2))
    assert sum(p.numel() for p in tuned.network.parameters()) == before


def test_explain_names_the_bottleneck_that_goes(folder: Path) -> None:
    rows = {row["group"]: row for row in explain(folder / "dense.pt", IMGSZ, folder / "plan.json")}
    assert rows["model.4.m.1.cv1"]["removes"] == "model.4.m.1"
    assert rows["model.4.m.1.cv1"]["kept"] == 0
    assert rows["model.3"]["removes"] is None
