"""Importance criteria: a function from one part of a group to one score per channel; lower goes first.

Scores add up over the layers of the part and are not normalised, so groups stay comparable (torch-pruning's default `mean`
normaliser makes them incomparable). Loss-based criteria read `Evidence`; the others read the weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from toolchain.errors import PruningError, UnknownNameError
from toolchain.pruning.evidence import Evidence, effect_per_batch, no_grad_copy
from toolchain.pruning.groups import Network, Slice

Scores = NDArray[np.float64]
GroupScores = Mapping[str, list[Scores]]  # group -> one array per part


@dataclass(frozen=True)
class Subject:
    """What a criterion may look at: the prunable network, the loss's evidence if it was collected, a seed."""

    network: nn.Module
    evidence: Evidence | None = None
    seed: int = 0

    def weight(self, piece: Slice) -> NDArray[np.float64]:
        """(channels, -1) float64: the weights that go with each channel, for a conv slice."""
        weight = no_grad_copy(self.network.get_submodule(piece.layer).weight)
        if piece.dim == "in":
            weight = weight.swapaxes(0, 1)
        return weight[piece.positions].reshape(len(piece.positions), -1)

    def seen(self) -> Evidence:
        """Raises: PruningError when the criterion needs images and none were given."""
        if self.evidence is None:
            raise PruningError(
                "this criterion needs training images", fix="give --data, or choose l1, l2, bn-scale, lamp or fpgm"
            )
        return self.evidence


def _sum(terms: list[Scores]) -> Scores:
    total: Scores = np.sum(terms, axis=0)
    return total


def _convs(subject: Subject, part: tuple[Slice, ...]) -> list[Slice]:
    return [s for s in part if isinstance(subject.network.get_submodule(s.layer), nn.Conv2d)]


def _norms(part: tuple[Slice, ...], subject: Subject) -> list[Slice]:
    return [s for s in part if isinstance(subject.network.get_submodule(s.layer), nn.BatchNorm2d)]


def l1(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """Σ |w| over the group (Li et al., arXiv 1608.08710, summed over coupled layers)."""
    return _sum([np.abs(subject.weight(s)).sum(axis=1) for s in _convs(subject, part)])


def l2(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """√(Σ w²) over the group."""
    root: Scores = np.sqrt(_sum([(subject.weight(s) ** 2).sum(axis=1) for s in _convs(subject, part)]))
    return root


def bn_scale(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """Σ |γ| of the group's BNs (network slimming, arXiv 1708.06519)."""
    norms = _norms(part, subject)
    return _sum([np.abs(no_grad_copy(subject.network.get_submodule(s.layer).weight))[s.positions].sum(axis=1) for s in norms])


def lamp(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """Squared group norm over the sum of the not-smaller ones of the same group (arXiv 2010.07611)."""
    return lamp_of(l2(part, subject))


def lamp_of(scores: Scores) -> Scores:
    """(channels,) of any score ≥ 0: its square over the sum of the squares that are not smaller (arXiv 2010.07611)."""
    squared = scores**2
    order = np.argsort(-squared, kind="stable")
    kept = np.empty_like(squared)
    kept[order] = np.cumsum(squared[order])
    normalised: Scores = squared / np.maximum(kept, np.finfo(float).tiny)
    return normalised


def fpgm(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """Σ of distances from each filter to all others: the nearest to the geometric median goes first (arXiv 1811.00250)."""
    total = np.zeros(len(part[0].positions))
    for piece in _convs(subject, part):
        weight = subject.weight(piece)
        squared = (weight**2).sum(axis=1)
        distance = np.maximum(squared[:, None] + squared[None, :] - 2 * weight @ weight.T, 0)
        total += np.sqrt(distance).sum(axis=1)
    return total


def taylor(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """|Σ w·∂L/∂w| of the mean gradient, summed over the group's convs (Molchanov, arXiv 1611.06440, 1906.10771)."""
    seen, total = subject.seen(), np.zeros(len(part[0].positions))
    for piece in _convs(subject, part):
        rows = effect_per_batch(seen.inputs if piece.dim == "in" else seen.outputs, piece.layer, piece.positions)
        if rows is not None:
            total += np.abs(rows.mean(axis=0))
    return total


def fisher(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """Σ over batches of (γ·∂L/∂γ + β·∂L/∂β)², summed over the group's BNs.

    The square of a gate's derivative is the diagonal of the Fisher information: the expected loss of closing the gate to second
    order (Group Fisher, arXiv 2108.00708; BN gates as in HALP, arXiv 2110.10811).
    """
    seen, total = subject.seen(), np.zeros(len(part[0].positions))
    for piece in _norms(part, subject):
        rows = effect_per_batch(seen.gates, piece.layer, piece.positions)
        if rows is not None:
            total += (rows**2).mean(axis=0)
    return total


def random(part: tuple[Slice, ...], subject: Subject) -> Scores:
    """Uniform noise: the control. The same for a seed and a layer, whatever the order of groups."""
    return np.random.default_rng([subject.seed, zlib.crc32(part[0].layer.encode())]).random(len(part[0].positions))


Criterion = Callable[[tuple[Slice, ...], Subject], Scores]
CRITERIA: dict[str, Criterion] = {
    "l1": l1, "l2": l2, "bn-scale": bn_scale, "lamp": lamp, "fpgm": fpgm, "taylor": taylor, "fisher": fisher, "random": random,
}  # fmt: skip
NEEDS_IMAGES = frozenset({"taylor", "fisher"})


def score(network: Network, subject: Subject, criterion: str) -> GroupScores:
    """Scores of every free group, one array per part.

    Raises:
        UnknownNameError: no such criterion.
        PruningError: a score is not finite.
    """
    if criterion not in CRITERIA:
        raise UnknownNameError("criterion", criterion, CRITERIA)
    scores = {group.name: [CRITERIA[criterion](part, subject) for part in group.parts] for group in network.free}
    blind = [g.name for g in network.free if any(p.shape != (g.channels,) for p in scores[g.name])]
    if blind:
        raise PruningError(f"criterion {criterion} has nothing to read in some groups", got=blind, fix="another --criterion")
    bad = [name for name, parts in scores.items() if not all(np.isfinite(p).all() for p in parts)]
    if bad:
        raise PruningError(f"criterion {criterion} gave scores that are not finite", got=bad, fix="check the weights for NaN")
    return scores


def loss_curve(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(channels + 1,) saliency lost when k channels are kept, by k; the parts lose their own least salient channels."""
    ranked = np.sum([np.sort(p) for p in parts], axis=0)
    return np.concatenate([[0.0], np.cumsum(ranked)])[::-1].copy()


def top_channels(scores: NDArray[np.float64], width: int) -> list[int]:
    """Indices of the `width` highest scores, rising; the lower index wins a tie."""
    return sorted(np.argsort(-scores, kind="stable")[:width].tolist())
