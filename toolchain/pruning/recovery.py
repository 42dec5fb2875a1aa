"""Accuracy won back right after a cut, without training: `lsq` compensates, `bn` recalibrates, `both` does one after the other.

A network that loses more on pictures held back than the bare cut does is not kept. All pictures are training pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toolchain.errors import DataError, PruningError, UnknownNameError
from toolchain.pruning.apply import cut_network, removed_positions
from toolchain.pruning.compensate import Kept, compensate
from toolchain.pruning.depth import renamed
from toolchain.pruning.effect import Effect, measure
from toolchain.pruning.groups import Network
from toolchain.pruning.plan import PruningPlan
from toolchain.pruning.recalibrate import moved, recalibrate, statistics
from toolchain.yolo.blocks import prove_equal, to_stock
from toolchain.yolo.dataset import Dataset
from toolchain.yolo.loss import labelled_batches

KINDS = {"none": (), "lsq": ("lsq",), "bn": ("bn",), "both": ("lsq", "bn")}
PICTURES = 128  # training pictures that layers are solved and averaged on
JUDGES = 64  # other training pictures, on which the outcome is judged; never more than a third of all
BATCH = 16


def check_kind(kind: str, data: Path | None) -> None:
    """Raises: UnknownNameError, or PruningError where pictures are needed and there are none."""
    if kind not in KINDS:
        raise UnknownNameError("compensation", kind, KINDS)
    if KINDS[kind] and data is None:
        raise PruningError("compensation needs training images", got=kind, fix="give --data, or --compensate none")


@dataclass(frozen=True)
class Pictures:
    """Training pictures that teach, and others that judge."""

    dataset: Dataset
    teach: list[int]
    judges: Dataset
    imgsz: int

    def batches(self) -> Iterator[torch.Tensor]:
        """The teaching ones, (n, 3, s, s) float32 in 0..1, one batch in memory at a time."""
        return (batch["img"] for batch in labelled_batches(self.dataset, "train", self.teach, self.imgsz, BATCH))


def choose_pictures(dataset: Dataset, imgsz: int, seed: int) -> Pictures:
    """A seeded choice of both.

    Raises:
        DataError: there are not two training pictures.
    """
    images = dataset.images("train")
    if len(images) < 2:
        raise DataError("too few training pictures to compensate a cut on", got=len(images), fix="--compensate none")
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    count = max(min(JUDGES, len(images) // 3), 1)
    judges, teach = sorted(order[:count]), sorted(order[count : count + PICTURES])
    return Pictures(dataset, teach, dataset.only(judges), imgsz)


def kept_outputs(prunable: nn.Module, network: Network, plan: PruningPlan) -> Kept:
    """Of every convolution and batch norm of the cut network: which one it was, and which of its channels are left."""
    removed = removed_positions(network, plan)
    kept = {}
    for path, module in prunable.named_modules():
        name = renamed(path, plan.gone)
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) and name is not None and ".dfl." not in path:
            channels = module.out_channels if isinstance(module, nn.Conv2d) else module.num_features
            kept[name] = path, np.setdiff1d(np.arange(channels), removed.get((path, "out"), []))
    return kept


def recover(
    prunable: nn.Module, network: Network, plan: PruningPlan, dataset: Dataset, kind: str, work: Path, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Cut as the plan says, and make the best of it.

    Args:
        prunable: the network before the cut, in prunable form; not changed.
        network: its groups.
        kind: of `KINDS`.
        work: existing folder for temporary files.

    Returns:
        the stock network in eval mode; what was tried: `effects` on the judging pictures of the dense and the cut network and of
        each step, which of them was `kept`, every layer's error, every share of statistics.

    Raises:
        DataError: too few training pictures.
    """
    pictures, cut = choose_pictures(dataset, plan.imgsz, seed), cut_network(prunable, network, plan)
    with tempfile.TemporaryDirectory(prefix=".recovery-", dir=work) as folder:
        best, report = mend(prunable, cut, kept_outputs(prunable, network, plan), pictures, kind, Path(folder), seed)
    stock = to_stock(best).eval()
    prove_equal(best, stock, next(pictures.batches())[:2], "merging C2f")
    return stock, {"asked": kind, "pictures": len(pictures.teach), "judges": len(pictures.judges.images("train")), **report}


@torch.no_grad()
def mend(
    dense: nn.Module, cut: nn.Module, kept: Kept, pictures: Pictures, kind: str, work: Path, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The one of the networks tried that loses least on the judging pictures; `cut` is not changed."""

    def effect(network: nn.Module) -> Effect:
        return measure(network, pictures.judges, pictures.imgsz, work)

    report: dict[str, Any] = {}
    tried, network = {"cut": cut}, cut
    effects = {"dense": effect(dense), "cut": effect(cut)}
    for step in KINDS[kind]:
        if step == "lsq":
            network = deepcopy(network)
            report["layers"] = [asdict(one) for one in compensate(dense, network, kept, pictures.batches(), work, seed=seed)]
        else:
            was, now = (statistics(each, pictures.batches()) for each in (dense, network))
            towards = moved(dense, network, kept, was, now)
            network, share, losses = recalibrate(network, towards, lambda one: effect(one).loss)
            report["bn"] = {"share": share, "losses": losses}
        tried[step], effects[step] = network, effect(network)
    best = min(tried, key=lambda name: effects[name].loss)
    return tried[best], {"effects": {name: asdict(one) for name, one in effects.items()}, "kept": best, **report}
