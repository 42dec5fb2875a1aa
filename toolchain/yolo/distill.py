"""Distillation from the dense parent: what the teacher's head says, as soft targets, and what its kept channels carry.

Student and teacher share anchors and classes, so their raw head outputs compare position by position. A student cut from its
teacher also shares features channel by channel: the plan knows which teacher channel each student channel was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Features = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DistillWeights:
    """Weights of the distillation terms beside ultralytics' detection loss; 0 switches a term off."""

    scores: float = 1.0
    boxes: float = 1.0
    features: float = 0.0

    @property
    def any(self) -> bool:
        return self.scores > 0 or self.boxes > 0 or self.features > 0


def score_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy to the teacher's probabilities minus its entropy, over the mass of what the teacher sees.

    Args:
        student, teacher: (n, classes, anchors) logits.
    """
    target = teacher.sigmoid()
    entropy = F.binary_cross_entropy(target, target, reduction="none")
    excess = F.binary_cross_entropy_with_logits(student, target, reduction="none") - entropy
    return excess.sum() / target.amax(dim=1).sum().clamp_(min=1.0)


def box_loss(student: torch.Tensor, teacher: torch.Tensor, teacher_scores: torch.Tensor, bins: int) -> torch.Tensor:
    """KL divergence of the box-side distributions, each anchor weighted by the teacher's confidence (arXiv 2102.12252).

    Args:
        student, teacher: (n, 4·bins, anchors) logits.
        teacher_scores: (n, classes, anchors) logits.
    """
    n, _, anchors = student.shape
    weight = teacher_scores.sigmoid().amax(dim=1)
    log_p = F.log_softmax(student.view(n, 4, bins, anchors), dim=2)
    log_q = F.log_softmax(teacher.view(n, 4, bins, anchors), dim=2)
    divergence = (log_q.exp() * (log_q - log_p)).sum(dim=2).mean(dim=1)
    return (divergence * weight).sum() / weight.sum().clamp_(min=1.0)


def feature_loss(student: Features, teacher: Features, channels: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean squared difference of shared channels, each over the teacher channel's variance."""
    terms = []
    for name, kept in channels.items():
        target = teacher[name][:, kept]
        scale = target.var(dim=(0, 2, 3), keepdim=True).clamp_(min=1e-4)
        terms.append(((student[name] - target) ** 2 / scale).mean())
    return torch.stack(terms).mean()


class FeatureTap:
    """Keeps the outputs of named layers of the last forward pass."""

    def __init__(self, network: nn.Module, layers: list[str]) -> None:
        self.seen: Features = {}
        for layer in layers:
            network.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: self.seen.__setitem__(layer, out))


class DistilledLoss:
    """Ultralytics' detection loss plus distillation; stands where the model's criterion stands.

    Args:
        detection: ultralytics' criterion of the student.
        student, teacher: networks with the same classes and reg_max; the teacher is frozen.
        weights: of the terms.
        channels: layer -> teacher channels the student kept, for the feature term.
    """

    def __init__(
        self, detection: Any, student: nn.Module, teacher: Any, weights: DistillWeights, channels: Mapping[str, torch.Tensor]
    ) -> None:
        self.detection, self.teacher, self.weights = detection, teacher.eval().requires_grad_(False), weights
        self.channels = dict(channels) if weights.features > 0 else {}
        self.taps = FeatureTap(student, list(self.channels)), FeatureTap(self.teacher, list(self.channels))

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, items = self.detection(preds, batch)
        with torch.no_grad():
            teacher = self.teacher(batch["img"])[1]
        bins, size = self.teacher.model[-1].reg_max, len(batch["img"])
        raw = preds[1] if isinstance(preds, tuple) else preds
        terms = {
            "kd_scores": self.weights.scores * score_loss(raw["scores"], teacher["scores"]),
            "kd_boxes": self.weights.boxes * box_loss(raw["boxes"], teacher["boxes"], teacher["scores"], bins),
        }
        if self.channels:
            terms["kd_features"] = self.weights.features * feature_loss(self.taps[0].seen, self.taps[1].seen, self.channels)
        total = torch.cat([loss.view(-1), torch.stack(list(terms.values())) * size])
        return total, {**items, **{name: value.detach() for name, value in terms.items()}}
