"""What every importance criterion keeps, the values of each by hand, and the loss-based ones against the loss itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import live_model
from tests.pruning.cases import IMGSZ, subject
from toolchain.errors import PruningError, UnknownNameError
from toolchain.pruning.criteria import CRITERIA, NEEDS_IMAGES, Scores, Subject, loss_curve, score, top_channels
from toolchain.pruning.evidence import Evidence, collect
from toolchain.pruning.groups import Network, Slice, trace
from toolchain.yolo.blocks import to_prunable
from toolchain.yolo.loss import detection_loss


def batch(seed: int, images: int = 2) -> dict[str, Any]:
    """Noise pictures with one box each, in ultralytics' training form."""
    make = torch.Generator().manual_seed(seed)
    centres = torch.rand(images, 2, generator=make) * 0.4 + 0.3
    return {
        "img": torch.rand(images, 3, IMGSZ, IMGSZ, generator=make),
        "batch_idx": torch.arange(images).float(),
        "cls": torch.randint(0, 3, (images, 1), generator=make).float(),
        "bboxes": torch.cat([centres, torch.full((images, 2), 0.5)], dim=1),
    }


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    _, prunable, _ = subject()
    return collect(prunable, [batch(0), batch(1), batch(2)], 3)


def scores_of(name: str, evidence: Evidence, network: Network | None = None, seed: int = 0) -> dict[str, list[Scores]]:
    _, prunable, groups = subject()
    return dict(score(network or groups, Subject(prunable, evidence, seed), name))


@pytest.mark.parametrize("name", CRITERIA)
class TestEveryCriterion:
    def test_one_finite_score_per_channel_of_every_free_group(self, name: str, evidence: Evidence) -> None:
        _, _, network = subject()
        found = scores_of(name, evidence)
        assert list(found) == [g.name for g in network.free]
        for group in network.free:
            assert [s.shape for s in found[group.name]] == [(group.channels,)] * len(group.parts)
            assert all(np.isfinite(s).all() and (s >= 0).all() for s in found[group.name])
            assert all(s.dtype == np.float64 for s in found[group.name])

    def test_the_same_for_the_same_seed(self, name: str, evidence: Evidence) -> None:
        first, second = scores_of(name, evidence, seed=4), scores_of(name, evidence, seed=4)
        assert all(np.array_equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True))

    def test_the_order_of_groups_does_not_matter(self, name: str, evidence: Evidence) -> None:
        _, _, network = subject()
        turned = replace(network, groups=tuple(reversed(network.groups)))
        first, second = scores_of(name, evidence), scores_of(name, evidence, turned)
        assert all(np.array_equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True))

    def test_it_tells_channels_apart(self, name: str, evidence: Evidence) -> None:
        apart = [len(np.unique(part)) > 1 for parts in scores_of(name, evidence).values() for part in parts]
        assert sum(apart) >= 0.8 * len(apart)  # not all: no box was assigned to the coarse level's box branch

    def test_the_network_is_not_changed(self, name: str, evidence: Evidence) -> None:
        _, prunable, _ = subject()
        before = {key: value.clone() for key, value in prunable.state_dict().items()}
        scores_of(name, evidence)
        assert all(torch.equal(before[key], value) for key, value in prunable.state_dict().items())
        assert all(p.grad is None for p in prunable.parameters())

    def test_without_images_it_works_or_says_what_it_needs(self, name: str) -> None:
        _, prunable, network = subject()
        if name not in NEEDS_IMAGES:
            score(network, Subject(prunable), name)
            return
        with pytest.raises(PruningError, match=r"needs training images\n  try: give --data"):
            score(network, Subject(prunable), name)

    def test_weights_that_are_no_numbers_are_named(self, name: str, evidence: Evidence) -> None:
        prunable = to_prunable(live_model())
        network = trace(prunable, IMGSZ)
        for module in (prunable.model[3].conv, prunable.model[3].bn):
            module.weight.data[0] = torch.nan
        bad = {table: {**getattr(evidence, table)} for table in ("gates", "outputs", "inputs")}
        for table, layer in (("gates", "model.3.bn"), ("outputs", "model.3.conv")):
            bad[table][layer] = bad[table][layer] * np.nan
        if name == "random":
            return
        with pytest.raises(PruningError, match=r"not finite\n  got: .*'model\.3'"):
            score(network, Subject(prunable, replace(evidence, **bad)), name)


# --- by hand: three channels made by a 1x1 conv on one input, normalised, read by a conv with two outputs -------------------


def hand() -> tuple[tuple[Slice, ...], Subject]:
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1, bias=False))
    network[0].weight.data = torch.tensor([1.0, -2.0, 5.0]).view(3, 1, 1, 1)
    network[1].weight.data = torch.tensor([0.5, -2.0, 0.0])
    network[2].weight.data = torch.tensor([[3.0, 4.0, 0.0], [0.0, -1.0, 2.0]]).view(2, 3, 1, 1)
    each = np.arange(3).reshape(3, 1)
    return (Slice("0", "out", each), Slice("1", "out", each), Slice("2", "in", each)), Subject(network)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [1 + 3, 2 + 5, 5 + 2]),
        ("l2", np.sqrt([1 + 9, 4 + 17, 25 + 4])),
        ("bn-scale", [0.5, 2, 0]),
        ("lamp", [10 / 60, 21 / 50, 29 / 29]),
        # distances between filters: |1+2|, |1-5|, |2+5|; between input columns (3,0), (4,-1), (0,2)
        ("fpgm", [3 + 4 + 2**0.5 + 13**0.5, 3 + 7 + 2**0.5 + 5, 4 + 7 + 13**0.5 + 5]),
    ],
)
def test_values_by_hand(name: str, expected: list[float]) -> None:
    part, subject_ = hand()
    np.testing.assert_allclose(CRITERIA[name](part, subject_), expected, rtol=1e-6)


def test_values_by_hand_of_the_loss_based_ones() -> None:
    part, made = hand()
    seen = Evidence(
        gates={"1": np.array([[1.0, 2.0, 0.0], [-1.0, 4.0, 0.0]])},
        outputs={"0": np.array([[1.0, 2.0, 3.0], [-1.0, 2.0, 1.0]])},
        inputs={"2": np.array([[0.5, 0.0, 0.0], [0.5, -2.0, 0.0]])},
        images=2,
    )
    made = replace(made, evidence=seen)
    np.testing.assert_allclose(CRITERIA["fisher"](part, made), [1, 10, 0])  # mean of squares: batches do not cancel
    np.testing.assert_allclose(CRITERIA["taylor"](part, made), [0 + 0.5, 2 + 1, 2 + 0])  # |mean|, conv by conv


def test_a_channel_that_takes_several_positions_counts_them_all() -> None:
    part, made = hand()
    pairs = (Slice("2", "in", np.array([[0, 2], [1, 2]])),)
    seen = Evidence({}, {}, {"2": np.array([[1.0, 5.0, 2.0]])}, 1)
    np.testing.assert_allclose(CRITERIA["taylor"](pairs, replace(made, evidence=seen)), [3, 7])
    np.testing.assert_allclose(CRITERIA["l1"](pairs, made), [3 + 2, 5 + 2])
    assert len(part) == 3


def test_scores_are_not_normalised_between_groups() -> None:
    """torch-pruning's default divides by each group's mean, so that a network-wide ranking compares nothing."""
    prunable = to_prunable(live_model())
    network = trace(prunable, IMGSZ)
    before = score(network, Subject(prunable), "l1")["model.9.m.0.cv1"][0].copy()
    for piece in network.group("model.9.m.0.cv1").parts[0]:
        prunable.get_submodule(piece.layer).weight.data.mul_(10)
    np.testing.assert_allclose(score(network, Subject(prunable), "l1")["model.9.m.0.cv1"][0], 10 * before, rtol=1e-5)


# --- against the loss ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fixed_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The assigner's first answer for every later call: gradients do not flow through it, so differences must not either."""
    from ultralytics.utils.tal import TaskAlignedAssigner

    real, answers = TaskAlignedAssigner.forward, []

    def remembered(self: Any, *args: Any) -> Any:
        if not answers:
            answers.append(real(self, *args))
        return answers[0]

    monkeypatch.setattr(TaskAlignedAssigner, "forward", remembered)


@pytest.fixture
def double() -> Iterator[None]:
    """Differences need the digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


STEP = 1e-3


def slope(network: Any, parameters: list[torch.Tensor], channel: int, dim: int, seen: dict[str, Any]) -> float:
    """dL/dg at g = 1 where g scales one channel of the parameters, by central differences in float64."""
    values = []
    for gate in (1 + STEP, 1 - STEP):
        kept = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.data.select(dim, channel).mul_(gate)
        with torch.no_grad():
            values.append(float(detection_loss(network, seen)))
        for p, value in zip(parameters, kept, strict=True):
            p.data.copy_(value)
    return (values[0] - values[1]) / (2 * STEP)


@pytest.mark.usefixtures("fixed_targets", "double")
@pytest.mark.parametrize("group", ["model.3", "model.4.cv1", "model.9.m.0.cv1", "model.10.cv2.0.0", "model.10.cv3.1.1"])
def test_fisher_and_taylor_are_what_closing_a_gate_a_little_does_to_the_loss(group: str) -> None:
    network = to_prunable(live_model().double())
    groups = trace(network, IMGSZ)
    seen = {key: value.double() for key, value in batch(0).items()}
    found = collect(network, [seen], 1)
    made = Subject(network, found)
    for part in groups.group(group).parts:
        layers = {(s.layer, s.dim): s for s in part}
        expected: dict[str, list[float]] = {"fisher": [], "taylor": []}
        channels = (0, 3, 6)
        for channel in channels:
            gates, weights = [], []
            for (layer, dim), piece in layers.items():
                module = network.get_submodule(layer)
                at = piece.positions[channel].tolist()
                if isinstance(module, nn.BatchNorm2d):
                    gates += [slope(network, [module.weight, module.bias], i, 0, seen) for i in at]
                else:
                    weights.append(sum(slope(network, [module.weight], i, int(dim == "in"), seen) for i in at))
            expected["fisher"].append(sum(g**2 for g in gates))
            expected["taylor"].append(sum(abs(w) for w in weights))
        for name, values in expected.items():
            np.testing.assert_allclose(CRITERIA[name](part, made)[list(channels)], values, rtol=0.05, atol=1e-5)


def test_evidence_counts_every_batch_not_only_the_last(evidence: Evidence) -> None:
    """torch-pruning's Hessian importance keeps the last sample's squared gradient only."""
    _, prunable, _ = subject()
    assert evidence.images == 6
    assert all(len(rows) == 3 for table in (evidence.gates, evidence.outputs, evidence.inputs) for rows in table.values())
    alone = [collect(prunable, [batch(i)], 1).gates["model.3.bn"][0] for i in range(3)]
    np.testing.assert_allclose(evidence.gates["model.3.bn"], alone, rtol=1e-4, atol=1e-7)
    part = subject()[2].group("model.3").parts[0]
    whole = CRITERIA["fisher"](part, Subject(prunable, evidence))
    last = CRITERIA["fisher"](part, Subject(prunable, collect(prunable, [batch(2)], 1)))
    assert not np.allclose(whole, last, rtol=1e-2)


def test_fisher_reads_the_norm_layers(evidence: Evidence) -> None:
    """torch-pruning's group Taylor never reads BN weights."""
    _, prunable, network = subject()
    norms = {n for n, m in prunable.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(evidence.gates) == norms
    part = network.group("model.3").parts[0]
    blank = replace(evidence, gates={key: rows * 0 for key, rows in evidence.gates.items()})
    assert CRITERIA["fisher"](part, Subject(prunable, evidence)).sum() > 0
    assert CRITERIA["fisher"](part, Subject(prunable, blank)).sum() == 0


def test_collecting_changes_neither_weights_nor_statistics() -> None:
    _, prunable, _ = subject()
    before = {key: value.clone() for key, value in prunable.state_dict().items()}
    collect(prunable, [batch(0)], 1)
    assert all(torch.equal(before[key], value) for key, value in prunable.state_dict().items())
    assert all(p.grad is None for p in prunable.parameters())


def test_collecting_takes_pictures_without_any_object() -> None:
    _, prunable, _ = subject()
    empty = {**batch(0), "batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    found = collect(prunable, [empty], 1)
    assert all(np.isfinite(rows).all() for rows in found.gates.values())


# --- ranking ---------------------------------------------------------------------------------------------------------------


def test_top_channels_are_exactly_as_many_as_asked_even_when_all_are_equal() -> None:
    """torch-pruning's threshold is inclusive: a group of equal scores loses more than asked."""
    assert top_channels(np.zeros(5), 3) == [0, 1, 2]
    assert top_channels(np.array([0.0, 9, 3, 9, 1]), 3) == [1, 2, 3]


def test_loss_curve_by_hand() -> None:
    halves = [np.array([3.0, 1, 2]), np.array([10.0, 30, 20])]  # removed in step: (1+10), (2+20), (3+30)
    np.testing.assert_allclose(loss_curve(halves), [66, 33, 11, 0])


def test_an_unknown_criterion_names_the_nearest() -> None:
    _, prunable, network = subject()
    with pytest.raises(UnknownNameError, match="did you mean fisher"):
        score(network, Subject(prunable), "fischer")


def test_random_differs_between_layers_and_seeds(evidence: Evidence) -> None:
    first, other = scores_of("random", evidence, seed=0), scores_of("random", evidence, seed=1)
    assert not np.allclose(first["model.3"][0], other["model.3"][0])
    assert not np.allclose(first["model.4.cv1"][0], first["model.4.cv1"][1])


def test_a_criterion_with_nothing_to_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _, prunable, network = subject()
    monkeypatch.setitem(CRITERIA, "blind", lambda part, subject: np.asarray(0.0))
    with pytest.raises(PruningError, match="nothing to read"):
        score(network, Subject(prunable), "blind")
