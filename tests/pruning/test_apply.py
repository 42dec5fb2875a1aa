"""The cut network is the masked original, channel by channel; a plan replays; what does not fit is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from tests.helpers import NAMES, live_model, tiny_dataset, tiny_model
from tests.pruning.cases import IMGSZ, PICTURES, SEEDS, plan_of, random_plan, random_scores, random_widths, silenced, subject
from toolchain.errors import AlignmentError, NothingPrunedError, PlanError, RewriteError
from toolchain.pruning.apply import apply_plan, cut_network
from toolchain.pruning.groups import Network, trace
from toolchain.pruning.plan import PruningPlan, check_fits, compose
from toolchain.pruning.prune import PruneRequest, explain, prune
from toolchain.selection.strategies import Ask, uniform
from toolchain.yolo.blocks import head_outputs, max_difference, to_prunable
from toolchain.yolo.checkpoint import load_model, save_checkpoint


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_cut_equals_masked_dense_for_any_kept_channels(seed: int) -> None:
    stock, prunable, network = subject()
    plan = random_plan(network, seed)
    cut = apply_plan(stock, prunable, network, plan, PICTURES)
    with torch.no_grad():
        found = head_outputs(cut.network, PICTURES)
    for key, expected in silenced(prunable, network, plan).items():
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-4)
    assert cut.differences["split"] <= 1e-5
    assert max(cut.differences["cut"], cut.differences["merge"]) <= 1e-4
    assert cut.parameters == sum(p.numel() for p in cut.network.parameters())
    assert type(cut.network) is type(stock)
    assert not any(m.training for m in cut.network.modules())


def test_masking_changes_the_outputs_so_that_the_test_above_can_fail() -> None:
    stock, prunable, network = subject()
    plan = random_plan(network, 3)
    dense = head_outputs(stock, PICTURES)
    assert float((silenced(prunable, network, plan)["boxes"] - dense["boxes"]).abs().max()) > 0.5
    other = random_plan(network, 4)
    expected = silenced(prunable, network, other)
    assert float((head_outputs(cut_network(prunable, network, plan), PICTURES)["boxes"] - expected["boxes"]).abs().max()) > 0.1


def test_the_product_s_own_proof_refuses_a_wrong_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    stock, prunable, network = subject()
    plan = random_plan(network, 3)
    real = cut_network(prunable, network, plan)
    conv: Any = next(m for n, m in real.named_modules() if isinstance(m, nn.Conv2d) and n == "model.3.conv")
    conv.weight.data[0] += 0.1
    import toolchain.pruning.apply as room

    cut_of: Callable[..., Any] = room._cut
    monkeypatch.setattr(room, "_cut", lambda *args: (real, cut_of(*args)[1]))
    with pytest.raises(RewriteError, match="cutting channels changed the outputs"):
        apply_plan(stock, prunable, network, plan, PICTURES)


def unaligned(network: nn.Module, align: int, fixed: set[str]) -> list[str]:
    """Convs with a dimension off the alignment, but for the picture, the frozen outputs and the DFL: by the plain shapes."""
    wrong, first = [], True
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d) or ".dfl." in name:
            continue
        if module.in_channels % align and not first:
            wrong.append(f"{name} in {module.in_channels}")
        if module.out_channels % align and name not in fixed:
            wrong.append(f"{name} out {module.out_channels}")
        first = False
    return wrong


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_every_conv_of_an_aligned_plan_is_aligned(seed: int) -> None:
    stock, prunable, network = subject()
    cut = apply_plan(stock, prunable, network, random_plan(network, seed, align=8), PICTURES)
    fixed = {layer for g in network.groups if g.frozen for layer in g.layers("out")}
    assert unaligned(cut.network, 8, fixed) == []


@pytest.mark.parametrize("align", [4, 8, 16])
def test_every_conv_of_yolov8n_is_aligned(align: int) -> None:
    stock = load_model(Path("yolov8n.yaml"), nc=3).module
    prunable = to_prunable(stock)
    network = trace(prunable, IMGSZ)
    widths = uniform(network, random_scores(network, 0), Ask(ratio=0.6, align=align))
    cut = apply_plan(stock, prunable, network, plan_of(network, widths, random_scores(network, 0), align), PICTURES)
    fixed = {layer for g in network.groups if g.frozen for layer in g.layers("out")}
    assert unaligned(cut.network, align, fixed) == []


def test_a_width_off_the_alignment_is_refused_where_it_is_made_and_where_it_is_cut() -> None:
    stock, prunable, network = subject()
    widths = {g.name: g.channels for g in network.free} | {"model.3": 20}
    with pytest.raises(AlignmentError, match=r"multiples of 8\n  got: \['model\.3: 20'\]"):
        plan_of(network, widths, random_scores(network, 0), align=8)
    claimed = plan_of(network, widths, random_scores(network, 0), align=1).model_copy(update={"align": 8})
    with pytest.raises(AlignmentError, match=r"model\.3\.conv: 20 outputs"):
        apply_plan(stock, prunable, network, claimed, PICTURES)


def test_cutting_leaves_the_network_given_alone() -> None:
    stock, prunable, network = subject()
    before = {key: value.clone() for key, value in prunable.state_dict().items()}
    apply_plan(stock, prunable, network, random_plan(network, 1), PICTURES)
    assert all(torch.equal(before[key], value) for key, value in prunable.state_dict().items())
    assert max_difference(stock, prunable, PICTURES) <= 1e-5


def test_parameters_of_a_cut_network_are_its_own() -> None:
    _, prunable, network = subject()
    cut = cut_network(prunable, network, random_plan(network, 1))
    theirs = {p.untyped_storage().data_ptr() for p in prunable.parameters()}
    assert not theirs & {p.untyped_storage().data_ptr() for p in cut.parameters()}
    assert all(p.is_contiguous() for p in cut.parameters())


# --- plans -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_plan_survives_json(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    _, prunable, network = subject()
    plan, path = random_plan(network, seed), tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    read = PruningPlan.load(path)
    assert read == plan
    first, second = (cut_network(prunable, network, p).state_dict() for p in (plan, read))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_best_scores_stay_and_the_lower_index_wins_a_tie() -> None:
    _, _, network = subject()
    scores = {g.name: [np.zeros(g.channels) for _ in g.parts] for g in network.free}
    scores["model.3"][0][[5, 30]] = 1.0
    widths = {g.name: g.channels for g in network.free} | {"model.3": 4}
    plan = plan_of(network, widths, scores)
    assert next(g.kept for g in plan.groups if g.name == "model.3") == [[0, 1, 5, 30]]


def test_amounts_are_shares_of_what_may_be_cut() -> None:
    stock, prunable, network = subject()
    plan = random_plan(network, 8)
    cut = cut_network(prunable, network, plan)
    assert plan.reached.macs == pytest.approx(1 - network.macs(plan.widths) / network.macs({}))
    convs = [sum(m.weight.numel() for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and ".dfl." not in n)
             for net in (stock, cut)]  # fmt: skip
    assert plan.reached.params == pytest.approx(1 - convs[1] / convs[0])
    kept, all_ = sum(plan.widths.values()), sum(g.channels for g in network.free)
    assert plan.reached.channels == pytest.approx(1 - kept / all_)


def test_nothing_to_prune_is_an_error_that_says_why() -> None:
    _, _, network = subject()
    widths = {g.name: g.channels for g in network.free}
    with pytest.raises(NothingPrunedError, match=r"ratio 0\.5, alignment 8, \d+ groups of which \d+ are thinner") as raised:
        plan_of(network, widths, random_scores(network, 0), align=8)
    assert "--ratio" in raised.value.fix


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d["groups"].pop(), "groups are not the network's"),
        (lambda d: d["groups"][0].update(channels=99), "groups are not the network's"),
        (lambda d: d.update(model_sha256="other"), "made for other weights"),
        (lambda d: next(g for g in d["groups"] if len(g["kept"][0]) > 1)["kept"][0].reverse(), "rising indices"),
        (lambda d: d["groups"][0]["kept"][0].__setitem__(-1, 999), "rising indices"),
        (lambda d: d["groups"][0]["kept"].__setitem__(0, []), "rising indices"),
        (lambda d: next(g for g in d["groups"] if len(g["kept"]) == 2)["kept"][0].pop(), "as many in each half"),
        (lambda d: next(g for g in d["groups"] if g["frozen"])["kept"][0].pop(), "must keep its channels"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change: Callable[[dict[str, Any]], Any], why: str) -> None:
    _, _, network = subject()
    plan = random_plan(network, 2)
    check_fits(plan, network, "m")
    content = plan.model_dump()
    change(content)
    with pytest.raises(PlanError, match=why):
        check_fits(PruningPlan.model_validate(content), network, "m")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\xff"])
def test_a_file_that_is_no_plan_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(PlanError, match=r"plan\.json"):
        PruningPlan.load(path)
    with pytest.raises(PlanError, match="not found"):
        PruningPlan.load(tmp_path / "none.json")


def test_a_plan_of_another_version_or_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    _, _, network = subject()
    plan, path = random_plan(network, 2), tmp_path / "plan.json"
    for change in ({"version": 2}, {"surprise": 1}):
        path.write_text(json.dumps({**plan.model_dump(), **change}))
        with pytest.raises(PlanError, match=next(iter(change))):
            PruningPlan.load(path)


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_two_cuts_in_a_row_are_one_composed_plan(seed: int) -> None:
    stock, prunable, network = subject()
    first = random_plan(network, seed)
    once = apply_plan(stock, prunable, network, first, PICTURES).network
    second_form = to_prunable(once)
    second_network = trace(second_form, IMGSZ)
    widths = random_widths_again(second_network, seed)
    second = plan_of(second_network, widths, random_scores(second_network, seed + 2), sha256="n")
    twice = apply_plan(once, second_form, second_network, second, PICTURES).network
    whole = compose(first, second)
    check_fits(whole, network, "m")
    replayed = apply_plan(stock, prunable, network, whole, PICTURES).network
    a, b = twice.state_dict(), replayed.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole.reached.macs == pytest.approx(1 - network.macs(whole.widths) / network.macs({}))
    assert whole.asked_ratio == pytest.approx(0.75)


def random_widths_again(network: Network, seed: int) -> dict[str, int]:
    if all(g.channels == 1 for g in network.free):
        return {g.name: 1 for g in network.free}
    return random_widths(network, seed + 3)


def test_plans_that_do_not_follow_each_other_are_refused() -> None:
    _, _, network = subject()
    first, other = random_plan(network, 1), random_plan(network, 2)
    with pytest.raises(PlanError, match="do not follow"):
        compose(first, other)
    whole = [g.model_copy(update={"channels": g.width, "kept": [list(range(g.width)) for _ in g.kept]}) for g in first.groups]
    compose(first, first.model_copy(update={"groups": whole}))
    for groups in (whole[:-1], [*whole, whole[0].model_copy(update={"name": "model.99"})]):
        with pytest.raises(PlanError, match="do not follow"):
            compose(first, first.model_copy(update={"groups": groups}))


# --- files -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense.pt`, `other.pt` (other weights), `data/`, and `first/` with one cut."""
    root = tmp_path_factory.mktemp("prune")
    for name, module in {"dense": live_model(), "other": live_model(seed=1), "small": tiny_model(nc=2)}.items():
        names = {i: NAMES[i] for i in range(module.model[-1].nc)}
        save_checkpoint(root / f"{name}.pt", module, names=names, train_args={"imgsz": IMGSZ}, extra={})
    tiny_dataset(root / "data", size=(96, 64))
    (root / "first").mkdir()
    prune(root / "dense.pt", root / "first", PruneRequest(imgsz=IMGSZ, ratio=0.4), data=root / "data" / "data.yaml")
    return root


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).module.state_dict()


def test_a_plan_replays_to_identical_weights(folder: Path, tmp_path: Path) -> None:
    result = prune(folder / "dense.pt", tmp_path, PruneRequest(imgsz=32), plan_file=folder / "first" / "plan.json")
    first, second = weights(folder / "first" / "pruned.pt"), weights(tmp_path / "pruned.pt")
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "plan.json").read_bytes() == (folder / "first" / "plan.json").read_bytes()
    assert result["asked_ratio"] == 0.4
    assert result["reached"]["macs"] >= 0.4


@pytest.mark.parametrize("model", ["other", "small"])
def test_a_plan_for_other_weights_or_another_network_is_refused(folder: Path, tmp_path: Path, model: str) -> None:
    with pytest.raises(PlanError, match="other weights"):
        prune(folder / f"{model}.pt", tmp_path, PruneRequest(imgsz=IMGSZ), plan_file=folder / "first" / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_the_result_says_what_was_asked_and_reached(folder: Path) -> None:
    plan = PruningPlan.load(folder / "first" / "plan.json")
    cut = load_model(folder / "first" / "pruned.pt")
    assert plan.model_sha256 == load_model(folder / "dense.pt").sha256
    assert cut.extra["parent_sha256"] == plan.model_sha256
    assert cut.extra["reached"] == plan.reached.model_dump()
    assert cut.names == NAMES


def test_cutting_an_already_cut_network_goes_on(folder: Path, tmp_path: Path) -> None:
    result = prune(folder / "first" / "pruned.pt", tmp_path, PruneRequest(imgsz=IMGSZ, ratio=0.2, criterion="l2"))
    assert result["params"] < result["params_dense"]
    assert load_model(tmp_path / "pruned.pt").module(PICTURES)[0].shape == (2, 7, 80)


def test_explain_lists_every_group_and_changes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    rows = explain(folder / "dense.pt", IMGSZ, folder / "first" / "plan.json")
    _, _, network = subject()
    assert [r["group"] for r in rows] == [g.name for g in network.groups]
    assert all(r["why"] or r["kept"] <= r["channels"] for r in rows)
    assert any(r["kept"] < r["channels"] for r in rows)
    assert sorted(folder.rglob("*")) == before


PLAIN = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "toolchain":
            raise ImportError("toolchain is not installed here")
sys.meta_path.insert(0, Blocked())
import torch
from ultralytics import YOLO
model = YOLO(sys.argv[1])
found = model.predict(sys.argv[2], imgsz=64, conf=0.0001, save=False, verbose=False)
count = sum(p.numel() for p in model.model.parameters())
total = float(model.model(torch.full((1, 3, 64, 64), 0.5))[0].double().sum())
assert not [m for m in sys.modules if m.split(".")[0] == "toolchain"]
print("RESULT", len(found), count, total)
"""


def test_plain_ultralytics_runs_the_cut_network_where_this_package_is_missing(folder: Path, tmp_path: Path) -> None:
    picture = folder / "data" / "images" / "val" / "0.png"
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, folder / "first" / "pruned.pt", picture], cwd=tmp_path, env=env,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    _, count, parameters, total = done.stdout[done.stdout.index("RESULT") :].split()
    here = load_model(folder / "first" / "pruned.pt").module
    assert int(count) == 1
    assert int(parameters) == sum(p.numel() for p in here.parameters())
    assert float(total) == pytest.approx(float(here(torch.full((1, 3, 64, 64), 0.5))[0].double().sum()), rel=1e-5)
