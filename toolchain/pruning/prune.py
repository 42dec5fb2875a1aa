"""The prune stage: a trained detector in, `plan.json` and `pruned.pt` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from toolchain.errors import ConfigError, UnknownNameError
from toolchain.pruning.apply import apply_plan
from toolchain.pruning.criteria import CRITERIA, NEEDS_IMAGES, GroupScores, Subject, score
from toolchain.pruning.evidence import Evidence, collect
from toolchain.pruning.groups import Network, trace
from toolchain.pruning.plan import PruningPlan, check_fits, make_plan
from toolchain.pruning.recovery import check_kind, recover
from toolchain.selection.strategies import Ask, check_ask, choose
from toolchain.yolo.blocks import to_prunable
from toolchain.yolo.checkpoint import LoadedModel, load_model, save_checkpoint
from toolchain.yolo.dataset import Dataset, load_dataset
from toolchain.yolo.loss import choose_images, labelled_batches

EVIDENCE_BATCH = 2  # pictures whose gradients are taken together: few, since the square of each batch's effect is what counts
PROOF_IMAGES = 2


@dataclass(frozen=True)
class PruneRequest:
    """What to cut, and how to choose it."""

    imgsz: int
    ratio: float = 0.5
    criterion: str = "fisher"
    strategy: str = "flops"
    align: int = 8
    layers: Mapping[str, float] = field(default_factory=dict)
    keep_at_least: Mapping[str, float] = field(default_factory=dict)
    images: int | None = None
    seed: int = 0

    def ask(self) -> Ask:
        return Ask(ratio=self.ratio, align=self.align, layers=self.layers, keep_at_least=self.keep_at_least)


def check_imgsz(imgsz: int, stride: int) -> None:
    """Raises: ConfigError naming the nearest size that works."""
    if imgsz % stride or imgsz < stride:
        near = max(round(imgsz / stride), 1) * stride
        raise ConfigError(f"imgsz must be a multiple of the stride {stride}", got=imgsz, fix=f"--imgsz {near}")


def analyse(loaded: LoadedModel, imgsz: int) -> tuple[Any, Network]:
    """The prunable form of a network and its groups."""
    check_imgsz(imgsz, loaded.stride)
    prunable = to_prunable(loaded.module)
    return prunable, trace(prunable, imgsz)


def gather(prunable: Any, dataset: Dataset, imgsz: int, images: int | None, seed: int) -> Evidence:
    """Gradients of the detection loss over training pictures."""
    indices = choose_images(dataset, "train", images, seed)
    batches = labelled_batches(dataset, "train", indices, imgsz, EVIDENCE_BATCH)
    return collect(prunable, batches, -(-len(indices) // EVIDENCE_BATCH))


def score_channels(
    prunable: Any, network: Network, dataset: Dataset | None, *, imgsz: int, criterion: str, images: int | None, seed: int
) -> GroupScores:
    """Scores of every free group; gradients are taken only where the criterion needs pictures and there are any.

    Raises: as `criteria.score`.
    """
    evidence = gather(prunable, dataset, imgsz, images, seed) if criterion in NEEDS_IMAGES and dataset is not None else None
    return score(network, Subject(prunable, evidence, seed), criterion)


def check_request(loaded: LoadedModel, request: PruneRequest) -> tuple[Any, Network]:
    """The prunable form and its groups, once all that can be known before scoring is right.

    Raises:
        UsageError: an unknown criterion, strategy or group, or a ratio out of range.
    """
    if request.criterion not in CRITERIA:
        raise UnknownNameError("criterion", request.criterion, CRITERIA)
    ask = request.ask()
    prunable, network = analyse(loaded, request.imgsz)
    check_ask(network, ask, request.strategy)
    return prunable, network


def plan_cut(loaded: LoadedModel, request: PruneRequest, dataset: Dataset | None) -> tuple[Any, Network, PruningPlan]:
    """Score the channels, choose the widths, name the channels that stay.

    Raises:
        UsageError: what `check_request` refuses.
        PruningError: a criterion that needs images without data, or nothing would be pruned.
    """
    prunable, network = check_request(loaded, request)
    scores = score_channels(
        prunable, network, dataset, imgsz=request.imgsz, criterion=request.criterion, images=request.images, seed=request.seed
    )
    widths = choose(network, scores, request.ask(), request.strategy)
    plan = make_plan(
        network, widths, scores, model_sha256=loaded.sha256, imgsz=request.imgsz, criterion=request.criterion,
        strategy=request.strategy, asked_ratio=request.ratio, align=request.align,
    )  # fmt: skip
    return prunable, network, plan


def proof_images(dataset: Dataset | None, imgsz: int) -> torch.Tensor:
    """Real training pictures when there are any, else seeded noise."""
    if dataset is None:
        return torch.rand(PROOF_IMAGES, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    images: torch.Tensor = next(labelled_batches(dataset, "train", choose_images(dataset, "train", PROOF_IMAGES, 0), imgsz, 2))[
        "img"
    ]
    return images


def prune(
    model: Path, out: Path, request: PruneRequest, *, data: Path | None = None, plan_file: Path | None = None,
    compensate: str = "none",
) -> dict[str, Any]:  # fmt: skip
    """Write `out/plan.json` and `out/pruned.pt`, which plain ultralytics loads.

    Args:
        model: detection `.pt` or `.yaml`.
        out: existing folder.
        request: but for its seed ignored when a plan is replayed.
        data: data YAML; needed by taylor and fisher, and to compensate.
        plan_file: replay this plan instead of choosing.
        compensate: how accuracy is won back without training, once the cut is proven; see `recovery.KINDS`.

    Returns:
        asked and reached shares, multiply-adds and weights before and after, the proofs' differences, Bottlenecks gone,
        what compensation tried and kept (None where none was asked for).
    """
    check_kind(compensate, data)
    loaded = load_model(model)
    dataset = load_dataset(data, class_names=loaded.names) if data is not None else None
    if plan_file is not None:
        plan = PruningPlan.load(plan_file)
        prunable, network = analyse(loaded, plan.imgsz)
        check_fits(plan, network, loaded.sha256)
    else:
        prunable, network, plan = plan_cut(loaded, request, dataset)
    cut = apply_plan(loaded.module, prunable, network, plan, proof_images(dataset, plan.imgsz))
    module, recovery = cut.network, None
    if compensate != "none" and dataset is not None:
        module, recovery = recover(prunable, network, plan, dataset, compensate, out, request.seed)
    plan.save(out / "plan.json")
    save_checkpoint(
        out / "pruned.pt", module, names=loaded.names, train_args=loaded.train_args,
        extra={"stage": "pruned", "parent_sha256": loaded.sha256, "reached": plan.reached.model_dump()},
    )  # fmt: skip
    return {
        "criterion": plan.criterion, "strategy": plan.strategy, "align": plan.align, "asked_ratio": plan.asked_ratio,
        "reached": plan.reached.model_dump(), "macs_dense": network.macs({}), "macs": network.macs(plan.widths),
        "params_dense": sum(p.numel() for p in loaded.module.parameters()), "params": cut.parameters,
        "max_abs_difference": cut.differences, "narrow": plan.narrow, "gone": plan.gone,
        "compensation": recovery,
    }  # fmt: skip


def explain(model: Path, imgsz: int, plan_file: Path | None = None) -> list[dict[str, Any]]:
    """Every group: its layers, channels, how many a plan keeps, why it is not pruned, the Bottleneck that goes with all of it."""
    loaded = load_model(model)
    _, network = analyse(loaded, imgsz)
    removes = {name: removal.block for removal in network.removals for name in removal.groups}
    kept = {g.name: g for g in PruningPlan.load(plan_file).groups} if plan_file else {}
    rows = []
    for group in network.groups:
        width = kept[group.name].width if group.name in kept else group.channels
        rows.append({
            "group": group.name, "layers": group.layers("out"), "feeds": group.layers("in"), "halves": len(group.parts),
            "channels": group.channels, "kept": width, "why": group.frozen or "",
            "removes": removes.get(group.name),
        })  # fmt: skip
    return rows
