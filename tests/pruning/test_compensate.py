"""A compensated layer is never further from the dense one than the bare cut; a copy of a channel that stays is not missed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers import NAMES, live_model, tiny_dataset
from tests.pruning.cases import IMGSZ, SEEDS, plan_of, random_plan, random_scores, subject
from toolchain.errors import DataError, PruningError, UnknownNameError
from toolchain.pruning import recovery
from toolchain.pruning.apply import cut_network
from toolchain.pruning.compensate import Mended, compensate, levels, patches, solvable
from toolchain.pruning.groups import Network, trace
from toolchain.pruning.least_squares import Sums, ridge
from toolchain.pruning.plan import PruningPlan
from toolchain.pruning.prune import PruneRequest, prune
from toolchain.pruning.recalibrate import blend, moved, recalibrate, statistics
from toolchain.pruning.recovery import choose_pictures, kept_outputs
from toolchain.pruning.side_by_side import Shelf, walk
from toolchain.yolo.blocks import head_outputs, max_difference, to_prunable, to_stock
from toolchain.yolo.checkpoint import load_model, save_checkpoint
from toolchain.yolo.dataset import load_dataset


def batches(count: int = 4, seed: int = 5) -> list[torch.Tensor]:
    drawn = torch.rand(count, 4, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool2d(drawn.flatten(0, 1), 5, 1, 2).unflatten(0, (count, 4))
    return list((smooth - 0.5) * 4 + 0.5)


def compensated(prunable: Any, network: Network, plan: PruningPlan, work: Path) -> tuple[Any, list[Mended]]:
    cut = cut_network(prunable, network, plan)
    return cut, compensate(prunable, cut, kept_outputs(prunable, network, plan), batches(), work)


# --- least squares ----------------------------------------------------------------------------------------------------------


def rows(seed: int, count: int = 40, inputs: int = 6, outputs: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=make)
    x[:, 1] = x[:, 0]  # never of full rank
    return x, torch.randn(count, outputs, generator=make), torch.randn(outputs, inputs + 1, generator=make).double()


def distance(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> float:
    return float((x.double() @ weight[:, :-1].T + weight[:, -1] - y.double()).square().sum())


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, strength=st.floats(1e-6, 10), count=st.integers(1, 40))
def test_ridge_never_ends_further_away_than_it_started(seed: int, strength: float, count: int) -> None:
    x, y, start = rows(seed, count)
    sums = Sums.none(x.shape[1], y.shape[1])
    sums.add(x, y)
    found = ridge(sums, start, strength)
    assert distance(x, y, found) <= distance(x, y, start) * (1 + 1e-9)
    assert sums.error(found) == pytest.approx(distance(x, y, found), rel=1e-6, abs=1e-9)


def test_sums_gathered_in_pieces_are_those_of_the_whole() -> None:
    x, y, start = rows(1)
    whole, first, second = (Sums.none(6, 3) for _ in range(3))
    whole.add(x, y)
    first.add(x[:15], y[:15])
    second.add(x[15:], y[15:])
    both = first + second
    torch.testing.assert_close(both.xx, whole.xx)
    torch.testing.assert_close(both.xy, whole.xy)
    assert both.rows == len(x)
    assert both.spread == pytest.approx(float((y.double() - y.double().mean(0)).square().sum()))
    assert both.error(start) == pytest.approx(distance(x, y, start))


def test_a_strong_ridge_moves_the_bias_alone_and_inputs_that_are_zero_do_no_harm() -> None:
    x, y, start = rows(2)
    sums = Sums.none(6, 3)
    sums.add(x, y)
    found = ridge(sums, start, 1e9)
    torch.testing.assert_close(found[:, :-1], start[:, :-1], atol=1e-6, rtol=0)
    left = y.double() - x.double() @ start[:, :-1].T
    torch.testing.assert_close(found[:, -1], left.mean(0), atol=1e-6, rtol=0)
    silent = Sums.none(6, 3)
    silent.add(torch.zeros_like(x), y)
    torch.testing.assert_close(ridge(silent, start, 1e-3)[:, :-1], start[:, :-1])


@pytest.mark.parametrize("conv", [
    nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, (3, 5), (1, 2), (0, 2)), nn.Conv2d(3, 4, 3, 1, 2, dilation=2),
])  # fmt: skip
def test_patches_are_what_a_convolution_multiplies(conv: nn.Conv2d) -> None:
    maps = torch.rand(2, 3, 9, 11)
    with torch.no_grad():
        expected = conv(maps)
        where = torch.tensor([0, 3, 7, expected[0, 0].numel() - 1])
        found = patches(conv, maps, where) @ conv.weight.flatten(1).T + conv.bias
    torch.testing.assert_close(found, expected.flatten(2)[:, :, where].transpose(1, 2).flatten(0, 1))


# --- two networks side by side ------------------------------------------------------------------------------------------------


def test_walking_gives_every_layer_what_the_whole_network_gives_it(tmp_path: Path) -> None:
    _, prunable, network = subject()
    cut = cut_network(prunable, network, random_plan(network, 1))
    pictures = batches(2)
    heads = []
    with torch.no_grad():
        for step in walk(prunable, cut, pictures, tmp_path):
            if step.path == "model.10":
                heads = [(step.dense(was)[0], step.cut(now)[0]) for was, now in step.feeds()]
        for (was, now), images in zip(heads, pictures, strict=True):
            torch.testing.assert_close(was, prunable(images)[0])
            torch.testing.assert_close(now, cut(images)[0])
    assert list(tmp_path.iterdir()) == []


def test_one_batch_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of pictures: neither pictures nor feature maps of an earlier batch are alive when the next is read."""
    _, prunable, network = subject()
    plan = random_plan(network, 1)
    cut = cut_network(prunable, network, plan)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def pictures() -> Iterator[torch.Tensor]:
        for number in range(6):
            assert sum(one() is not None for one in alive) <= 1
            drawn = batches(1, number)[0]
            alive.append(weakref.ref(drawn))
            yield drawn

    read = Shelf.get

    def get(shelf: Shelf, layer: int, batch: int) -> torch.Tensor:
        nonlocal most
        most = max(most, sum(one() is not None for one in alive))
        maps = read(shelf, layer, batch)
        alive.append(weakref.ref(maps))
        return maps

    monkeypatch.setattr(Shelf, "get", get)
    compensate(prunable, cut, kept_outputs(prunable, network, plan), pictures(), tmp_path)
    assert most <= 8  # two networks, Detect and Concat read two maps each, and the batch before is let go after the next is there


def test_convolutions_of_a_level_do_not_read_one_another(tmp_path: Path) -> None:
    _, prunable, _ = subject()
    steps = walk(prunable, prunable, batches(1), tmp_path)
    found = {step.path: levels(prunable, step, [n for n in solvable(prunable, whole(prunable)) if n.startswith(f"{step.path}.")])
             for step in steps}  # fmt: skip
    assert found["model.0"] == [["model.0.conv"]]
    assert found["model.4"] == [
        ["model.4.cv0.conv", "model.4.cv1.conv"], ["model.4.m.0.cv1.conv"], ["model.4.m.0.cv2.conv"], ["model.4.cv2.conv"],
    ]  # fmt: skip
    assert [len(level) for level in found["model.10"]] == [4, 4, 4]
    assert found["model.7"] == []


def whole(prunable: nn.Module) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    convs = {name: module for name, module in prunable.named_modules() if isinstance(module, nn.Conv2d) and ".dfl." not in name}
    return {name: (name, np.arange(module.out_channels)) for name, module in convs.items()}


# --- compensation -----------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS)
def test_no_layer_ends_further_from_the_dense_one(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    _, prunable, network = subject()
    plan = random_plan(network, seed)
    cut, found = compensated(prunable, network, plan, tmp_path_factory.mktemp("maps"))
    assert [one.layer for one in found] == sorted((one.layer for one in found), key=lambda name: int(name.split(".")[1]))
    assert {one.layer for one in found} == set(solvable(cut, kept_outputs(prunable, network, plan)))
    assert all(one.after <= one.before * (1 + 1e-6) for one in found)
    assert sum(one.after < 0.9 * one.before for one in found) > len(found) / 3
    assert found[0].layer == "model.0.conv"
    assert found[0].strength is None  # it reads pictures: nothing to mend
    assert all(torch.isfinite(value).all() for value in cut.state_dict().values())


def test_the_errors_reported_are_those_of_the_finished_network(tmp_path: Path) -> None:
    """Of maps small enough to be looked at everywhere; a batch norm's shift counts as the convolution's bias."""
    _, prunable, network = subject()
    plan = random_plan(network, 7)
    cut, found = compensated(prunable, network, plan, tmp_path)
    kept = kept_outputs(prunable, network, plan)
    for one in found:
        if int(one.layer.split(".")[1]) < 3:
            continue
        path, left = kept[one.layer]
        (was, dense_shift), (now, shift) = (given_out(net, name) for net, name in ((prunable, path), (cut, one.layer)))
        target = was[:, left] - dense_shift[left][:, None, None]
        spread = float((target - target.mean(dim=(0, 2, 3), keepdim=True)).square().sum())
        error = float((now - shift[:, None, None] - target).square().sum())
        assert error / spread == pytest.approx(one.after, rel=1e-3, abs=1e-7), one.layer


def given_out(network: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a convolution gives for all pictures, and the running mean behind it."""
    maps: list[torch.Tensor] = []
    hook = network.get_submodule(name).register_forward_hook(lambda _, __, out: maps.append(out.double()))
    with torch.no_grad():
        for pictures in batches():
            network(pictures)
    hook.remove()
    norm = getattr(network.get_submodule(name.rpartition(".")[0]), "bn", None)
    return torch.cat(maps), norm.running_mean.double() if norm is not None else torch.zeros(maps[0].shape[1]).double()


def with_copies(group: str) -> tuple[Any, Network, PruningPlan]:
    """A network in which the upper half of a group's channels are copies of the lower half, and the plan that removes them."""
    stock = live_model()
    prunable: Any = to_prunable(stock)
    network = trace(prunable, IMGSZ)
    found = network.group(group)
    half = found.channels // 2
    for part in found.parts:
        for piece in part:
            if piece.dim == "out":
                layer: Any = prunable.get_submodule(piece.layer)
                names = ("weight", "bias") if isinstance(layer, nn.Conv2d) else ("weight", "bias", "running_mean", "running_var")
                for name in names:
                    if (values := getattr(layer, name)) is not None:
                        values.data[piece.positions[half:].ravel()] = values.data[piece.positions[:half].ravel()]
    scores = {g.name: [np.arange(g.channels, 0, -1.0) for _ in g.parts] for g in network.free}
    widths = {g.name: g.channels for g in network.free} | {group: half}
    return prunable, network, plan_of(network, widths, scores)


@pytest.mark.parametrize("group", ["model.1", "model.3", "model.9.cv1", "model.2.cv1", "model.10.cv3.0.0"])
def test_channels_that_were_copies_are_not_missed(group: str, tmp_path: Path) -> None:
    prunable, network, plan = with_copies(group)
    bare = cut_network(prunable, network, plan)
    cut, found = compensated(prunable, network, plan, tmp_path)
    pictures = batches(1, seed=9)[0]  # others than those it was solved on
    lost, left = max_difference(prunable, bare, pictures), max_difference(prunable, cut, pictures)
    assert lost > 0.05
    assert left < 0.02 * lost
    assert max(one.after for one in found) < 1e-4
    assert max_difference(cut, to_stock(cut), pictures) < 1e-4


def test_the_same_pictures_give_the_same_weights(tmp_path: Path) -> None:
    _, prunable, network = subject()
    plan = random_plan(network, 3)
    (first, a), (second, b) = (compensated(prunable, network, plan, tmp_path) for _ in range(2))
    assert a == b
    assert all(torch.equal(x, y) for x, y in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_the_dense_network_is_left_alone(tmp_path: Path) -> None:
    _, prunable, network = subject()
    before = deepcopy(prunable.state_dict())
    compensated(prunable, network, random_plan(network, 3), tmp_path)
    assert all(torch.equal(before[key], value) for key, value in prunable.state_dict().items())


def test_a_network_without_some_bottlenecks_is_compensated_by_what_its_layers_were(tmp_path: Path) -> None:
    stock = live_model(backbone=[
        [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 3, "C2f", [16, True]], [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [32, True]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "SPPF", [32, 5]],
    ])  # fmt: skip
    prunable: Any = to_prunable(stock)
    network = trace(prunable, IMGSZ)
    removal = next(one for one in network.removals if one.block == "model.2.m.1")
    widths = {g.name: g.channels for g in network.free} | dict.fromkeys(removal.groups, 0)
    plan = plan_of(network, widths, random_scores(network, 0))
    kept = kept_outputs(prunable, network, plan)
    assert kept["model.2.m.1.cv1.conv"][0] == "model.2.m.2.cv1.conv"
    assert "model.2.m.2.cv1.conv" not in kept
    bare = cut_network(prunable, network, plan)
    cut, found = compensated(prunable, network, plan, tmp_path)
    assert all(one.after <= one.before * (1 + 1e-6) for one in found)
    far, near = (squared(prunable, one) for one in (bare, cut))
    assert near < 0.9 * far


def squared(first: Any, second: Any) -> float:
    pictures = batches(1, seed=9)[0]
    with torch.no_grad():
        a, b = head_outputs(first, pictures), head_outputs(second, pictures)
    return float(sum((a[key] - b[key]).square().sum() for key in a))


# --- statistics of batch norms ------------------------------------------------------------------------------------------------


def test_an_uncut_network_keeps_its_statistics() -> None:
    _, prunable, _ = subject()
    now = statistics(prunable, batches())
    kept = {name: (name, np.arange(len(mean))) for name, (mean, _) in now.items()}
    towards = moved(prunable, prunable, kept, now, now)
    own = {name: (norm.running_mean, norm.running_var) for name, norm in prunable.named_modules()
           if isinstance(norm, nn.BatchNorm2d)}  # fmt: skip
    assert set(towards) == set(own)
    for name, pair in towards.items():
        for found, expected in zip(pair, own[name], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(now[name][0], own[name][0], atol=1e-2) for name in now)  # plain averages do not


def test_statistics_are_those_of_what_reaches_the_layer() -> None:
    _, prunable, _ = subject()
    pictures = batches()
    found = statistics(prunable, pictures)["model.0.bn"]
    with torch.no_grad():
        maps = [prunable.model[0].conv(each) for each in pictures]
    torch.testing.assert_close(found[0], torch.stack([each.mean(dim=(0, 2, 3)) for each in maps]).mean(0))
    torch.testing.assert_close(found[1], torch.stack([each.var(dim=(0, 2, 3)) for each in maps]).mean(0), rtol=1e-4, atol=1e-6)


def test_the_share_with_the_least_loss_is_kept_and_none_wins_a_tie() -> None:
    _, prunable, _ = subject()
    towards = {name: (mean + 1, var * 2) for name, (mean, var) in statistics(prunable, batches(1)).items()}
    start = prunable.model[0].bn.running_mean
    goal = towards["model.0.bn"][0]

    def judge(one: Any) -> float:
        return float((one.model[0].bn.running_mean - (start + goal) / 2).square().sum())

    best, share, losses = recalibrate(prunable, towards, judge)
    assert share == 0.5
    assert losses["0.5"] == min(losses.values())
    assert set(losses) == {"0", "0.25", "0.5", "1"}
    torch.testing.assert_close(best.model[0].bn.running_mean, (start + goal) / 2)
    assert recalibrate(prunable, towards, lambda _: 1.0)[1] == 0
    assert max_difference(blend(prunable, towards, 0), prunable, batches(1)[0]) == 0


# --- the whole step ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense.pt`, `data/` with nine training pictures, and `none/` with the bare cut."""
    root = tmp_path_factory.mktemp("recovery")
    save_checkpoint(root / "dense.pt", live_model(), names=NAMES, train_args={"imgsz": IMGSZ}, extra={})
    tiny_dataset(root / "data", {"train": 9, "val": 2})
    (root / "none").mkdir()
    prune(
        root / "dense.pt",
        root / "none",
        PruneRequest(imgsz=IMGSZ, ratio=0.4),
        data=root / "data" / "data.yaml",
        compensate="none",
    )
    return root


@pytest.mark.parametrize("kind", ["lsq", "bn", "both"])
def test_a_compensated_cut_is_a_stock_checkpoint_of_the_same_plan(folder: Path, tmp_path: Path, kind: str) -> None:
    from ultralytics import YOLO

    result = prune(
        folder / "dense.pt", tmp_path, PruneRequest(imgsz=IMGSZ), data=folder / "data" / "data.yaml",
        plan_file=folder / "none" / "plan.json", compensate=kind,
    )  # fmt: skip
    found = result["compensation"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "pruned.pt"]
    assert (tmp_path / "plan.json").read_bytes() == (folder / "none" / "plan.json").read_bytes()
    assert (found["asked"], found["pictures"], found["judges"]) == (kind, 6, 3)
    assert list(found["effects"]) == ["dense", "cut", *recovery.KINDS[kind]]
    losses = {name: effect["loss"] for name, effect in found["effects"].items() if name != "dense"}
    assert losses[found["kept"]] == min(losses.values())
    assert ("layers" in found, "bn" in found) == (kind != "bn", kind != "lsq")
    network = YOLO(tmp_path / "pruned.pt").model.float()
    bare = YOLO(folder / "none" / "pruned.pt").model.float()
    assert [value.shape for value in network.state_dict().values()] == [value.shape for value in bare.state_dict().values()]
    if found["kept"] != "cut":
        assert max_difference(network, bare, batches(1)[0]) > 1e-3


def test_what_loses_more_than_the_bare_cut_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(dense: Any, cut: Any, *_: Any, **__: Any) -> list[Mended]:
        for parameter in cut.parameters():
            parameter.mul_(30)
        return []

    monkeypatch.setattr(recovery, "compensate", spoil)
    result = prune(
        folder / "dense.pt", tmp_path, PruneRequest(imgsz=IMGSZ), data=folder / "data" / "data.yaml",
        plan_file=folder / "none" / "plan.json", compensate="lsq",
    )  # fmt: skip
    assert result["compensation"]["kept"] == "cut"
    first, second = (load_model(place / "pruned.pt").module.state_dict() for place in (folder / "none", tmp_path))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_pictures_that_judge_do_not_teach(folder: Path) -> None:
    dataset = load_dataset(folder / "data" / "data.yaml")
    pictures = choose_pictures(dataset, IMGSZ, 0)
    taught = {dataset.images("train")[i] for i in pictures.teach}
    judges = set(pictures.judges.images("train"))
    assert not taught & judges
    assert taught | judges == set(dataset.images("train"))
    other = choose_pictures(dataset, IMGSZ, 1)
    assert other.judges.sha256 != pictures.judges.sha256
    assert choose_pictures(dataset, IMGSZ, 0) == pictures


def test_compensation_that_cannot_be_done_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    request = PruneRequest(imgsz=IMGSZ, ratio=0.4, criterion="l2")
    with pytest.raises(PruningError, match="needs training images"):
        prune(folder / "dense.pt", tmp_path, request, compensate="lsq")
    with pytest.raises(UnknownNameError, match="unknown compensation"):
        prune(folder / "dense.pt", tmp_path, request, compensate="lsk")
    tiny_dataset(tmp_path / "one", {"train": 1, "val": 1})
    with pytest.raises(DataError, match="too few training pictures"):
        prune(folder / "dense.pt", tmp_path, request, data=tmp_path / "one" / "data.yaml", compensate="lsq")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
