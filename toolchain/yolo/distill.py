"""Distillation from the dense parent: what the teacher's head says, as soft targets beside the labels.

Student and teacher share anchors and classes, so their raw head outputs compare position by position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from toolchain.yolo.teacher import Teacher


@dataclass(frozen=True)
class DistillWeights:
    """Weights of the distillation terms beside ultralytics' detection loss; 0 switches a term off."""

    scores: float = 1.0
    boxes: float = 1.0

    @property
    def any(self) -> bool:
        return self.scores > 0 or self.boxes > 0


def score_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy to the teacher's probabilities minus their entropy, over the mass of what the teacher sees.

    Args:
        student, teacher: (n, classes, anchors) logits.
    """
    target = teacher.sigmoid()
    excess = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    excess = excess - F.binary_cross_entropy_with_logits(teacher, target, reduction="none")
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


class DistilledLoss:
    """Ultralytics' detection loss plus distillation; stands where the model's criterion stands.

    Args:
        detection: ultralytics' criterion of the student.
        teacher: same classes and reg_max.
        weights: of the terms.
        bins: reg_max, bins of each box side.
    """

    def __init__(self, detection: Any, teacher: Teacher, weights: DistillWeights, bins: int) -> None:
        self.detection, self.teacher, self.weights, self.bins = detection, teacher, weights, bins

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, items = self.detection(preds, batch)
        teacher = self.teacher(batch["img"])
        raw = preds[1] if isinstance(preds, tuple) else preds
        terms = {
            "kd_scores": self.weights.scores * score_loss(raw["scores"], teacher["scores"]),
            "kd_boxes": self.weights.boxes * box_loss(raw["boxes"], teacher["boxes"], teacher["scores"], self.bins),
        }
        total = torch.cat([loss.view(-1), torch.stack(list(terms.values())) * len(batch["img"])])
        return total, {**items, **{name: value.detach() for name, value in terms.items()}}
